"""On-policy data: the student continues prompts, and what it wrote takes the place of the data's sequences.

The whole global batch is generated at once, before it is cut into micro-batches, and every token's noise is a function
of the trial's seed, the step, the row's place in the batch and the token's place in the continuation. So a rollout
depends neither on the micro-batch size nor on a generator's state, and training that goes on from a checkpoint
generates the same.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.config import Rollout
from harness.config.annotations import PreTrainedModel
from harness.config.seeds import derive
from harness.data.tokens import Batch, Tokens, sent, with_continuation
from harness.distill.tally import Tally
from harness.models import evaluating, head_of
from strategies.base import log_probs
from strategies.cumulative import UNIT, cumulate, locate, preceding
from strategies.noise import streams, uniform

# B = sequences of a global batch, R = those the student writes, L = positions, T = generated tokens at most,
# V = vocabulary

_FIELDS = ("index", "input_ids", "targets", "valid")


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Makes a step's global batch, some or all of it written by the student.

    Attributes:
        settings: how much is generated and how.
        tokens: the training sequences, whose prompts are continued.
        vocab_size: tokens of the tokenizer.
        seed: the trial's.
        aside: entered around generation, to time it.
    """

    settings: Rollout
    tokens: Tokens
    vocab_size: int
    seed: int
    aside: Callable[[], AbstractContextManager[None]] = nullcontext

    def batch(self, student: PreTrainedModel, index: Int[Tensor, " B"], *, step: int) -> tuple[Batch, Tally]:
        """Return a step's batch, on the CPU, and what generating it took.

        The first rows of a batch are the student's, so many that after every step the share of all rows so far is right
        to within one; the data's order is random already. For a preference every row of the data is followed by the
        student's.

        Args:
            student: the student as it is at this step; its mode is restored.
            index: the batch's training sequences, in order.
            step: number of the step, from 0.
        """
        num = self._count(len(index), step)
        data = self.tokens.batch(index)
        with self.aside(), evaluating(student):
            written, tally = self._write(student, index[:num], step)
        join = _followed if self.settings.preference is None else _interleaved
        return join(data, written), tally

    def _count(self, size: int, step: int) -> int:
        """Return how many rows of this step's batch are the student's."""
        # The slack keeps 0.1 * 10 steps from falling a row short.
        before, after = (int(number * size * self.settings.share + 1e-6) for number in (step, step + 1))
        return after - before

    def _write(self, student: PreTrainedModel, index: Int[Tensor, " R"], step: int) -> tuple[Batch, Tally]:
        rows = torch.arange(len(index))
        length, end = int(self.tokens.ids.shape[1]), self.tokens.separator
        prompts = self._prompts(index, streams(derive(self.seed, "rollout prompt", step), rows))
        limit = self.settings.max_new_tokens or length
        room = [min(length - len(prompt), limit) for prompt in prompts]
        # Two numbers of 24 bits for a token: 24 alone would round the probabilities of rare ones.
        bits = uniform(streams(derive(self.seed, "rollout", step), rows), 2 * max(room, default=0)).double()
        texts, tally = generate(
            student,
            prompts,
            room,
            bits[:, 0::2] + bits[:, 1::2] * 2.0**-24,
            vocab_size=self.vocab_size,
            end=end,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
        )
        ids = torch.full((len(prompts), length), end)
        for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            ids[row, : len(prompt)] = prompt
            ids[row, len(prompt) : len(prompt) + len(text)] = text
        starts = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long)
        ends = starts + torch.tensor([len(text) for text in texts], dtype=torch.long)
        return with_continuation(ids, index=index, starts=starts, ends=ends), tally

    def _prompts(self, index: Int[Tensor, " R"], keys: Int[Tensor, " R"]) -> list[Int[Tensor, " _"]]:
        """Return the prompts of pairs, or cuts of plain text at random places."""
        ids = self.tokens.batch(index).input_ids
        if self.tokens.spans is not None:
            starts = self.tokens.spans[index.numpy(), 0].tolist()
            return [row[:start] for row, start in zip(ids, starts, strict=True)]
        size = self.settings.prompt_tokens
        assert size is not None, "legality asks for the size of a cut of plain text"
        places = (uniform(keys, 1)[:, 0] * (ids.shape[1] - size + 1)).long().tolist()
        return [row[place : place + size] for row, place in zip(ids, places, strict=True)]


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: list[Int[Tensor, " _"]],
    room: list[int],
    levels: Float[Tensor, "R T"],
    *,
    vocab_size: int,
    end: int,
    temperature: float,
    top_p: float,
) -> tuple[list[Int[Tensor, " _"]], Tally]:
    """Continue prompts, all at once, each until its end-of-text token or its room is used up.

    Every token's keys and values are computed once and kept. Prompts are padded on the left, so that all rows write
    their next token in the same forward pass; no position looks at the padding. The host asks once per token whether
    all rows have ended.

    Args:
        model: in evaluation mode.
        prompts: at least one token each.
        room: tokens that each may be continued by.
        levels: where in the cumulative distribution each token is drawn, in [0, 1).
        vocab_size: tokens of the tokenizer.
        end: the end-of-text token.
        temperature: of sampling; 0 takes the likeliest token.
        top_p: mass of the likeliest tokens that are sampled from.

    Returns:
        The continuations, on the CPU, with their end-of-text token where they have one; and what was counted.
    """
    from transformers import DynamicCache

    tally = Tally()
    if not prompts:
        return [], tally
    longest, device = max(map(len, prompts)), model.device
    ids = torch.full((len(prompts), longest), end)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    ids, mask, levels, limits = (sent(each, device) for each in (ids, mask, levels, torch.tensor(room)))
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    kept, head = DynamicCache(config=model.config), head_of(model, vocab_size)
    written: list[Tensor] = []
    ended = limits <= 0
    counts = torch.zeros_like(limits)
    while len(written) < max(room):
        trunk: Any = model.base_model
        states = trunk(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=kept, use_cache=True
        ).last_hidden_state
        tally.rollout_positions += ids.numel()
        tally.rollout_attended += ids.numel() * mask.shape[1]
        tally.rollout_rows += len(ids)
        chosen = pick_tokens(head.logits(states[:, -1]), levels[:, len(written)], temperature=temperature, top_p=top_p)
        written.append(chosen)
        counts += ~ended
        ended = ended | (chosen == end) | (len(written) >= limits)
        if bool(ended.all()):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], dim=-1)
    text = torch.stack(written, dim=-1).cpu() if written else ids.new_zeros((len(prompts), 0)).cpu()
    texts = [row[:count] for row, count in zip(text, counts.tolist(), strict=True)]
    tally.rollouts = len(texts)
    tally.generated = sum(map(len, texts))
    tally.ended = sum(len(row) > 0 and int(row[-1]) == end for row in texts)
    return texts, tally


def pick_tokens(
    logits: Float[Tensor, "R V"], level: Float[Tensor, " R"], *, temperature: float, top_p: float
) -> Int[Tensor, " R"]:
    """Take the token in whose share of the distribution each row's level falls.

    Args:
        logits: of the next token.
        level: in [0, 1), uniform.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: tokens behind the smallest set of likeliest ones that reaches this mass are left out.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probs = log_probs(logits / temperature).double().exp()
    order = None
    if top_p < 1:
        order = probs.argsort(dim=-1, descending=True, stable=True)
        probs = probs.gather(-1, order)
        probs = probs.masked_fill(preceding(cumulate(probs)) >= math.ceil(top_p / UNIT), 0.0)
    place = locate(cumulate(probs), level[:, None])
    return (place if order is None else order.gather(-1, place))[:, 0]


def _followed(data: Batch, written: Batch) -> Batch:
    """Put the student's rows in the place of the data's first ones."""
    num = len(written.index)
    return Batch.of(**{name: torch.cat([getattr(written, name), getattr(data, name)[num:]]) for name in _FIELDS})


def _interleaved(data: Batch, written: Batch) -> Batch:
    """Put each of the student's rows behind the data's."""
    pairs = {name: torch.stack([getattr(data, name), getattr(written, name)], dim=1) for name in _FIELDS}
    return Batch.of(**{name: rows.flatten(0, 1) for name, rows in pairs.items()})
