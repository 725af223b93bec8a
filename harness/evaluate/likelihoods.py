"""Log-likelihoods of continuations: a context that several continuations share is read once."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor
from transformers import PreTrainedModel

# R = rows of a forward pass, C = different contexts among them, T = tokens of a row after what rows share


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One row of a forward pass, and the continuations that are read from its logits.

    Attributes:
        context: tokens before the continuations.
        tokens: the row, context included; what comes after its last token is what is asked about.
        asked: pairs of a request's number and its last token.
    """

    context: tuple[int, ...]
    tokens: tuple[int, ...]
    asked: list[tuple[int, int]]


def log_likelihoods(
    model: PreTrainedModel,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    batch_size: int,
    max_length: int,
    dtype: torch.dtype,
) -> list[tuple[float, bool]]:
    """Return the log-likelihood (nats) of each continuation, and whether greedy decoding would give it.

    Equal to one forward pass per request, up to rounding. Rows go in order of their contexts; the tokens that come
    before the shortest context's last one are read once per context, and logits are made where continuations stand.

    Args:
        model: in evaluation mode.
        requests: pairs of a context and a continuation, token ids, neither empty; what exceeds `max_length` is cut
            from the left of the context.
        batch_size: rows per forward pass.
        max_length: tokens that the model reads at most.
        dtype: of the log-softmax.

    Raises:
        ValueError: a context or a continuation is empty.
    """
    answers: list[tuple[float, bool]] = [(math.nan, False)] * len(requests)
    accepted = signature(model.forward).parameters
    with torch.no_grad():
        for rows in _batches(requests, batch_size, max_length):
            for number, answer in _answers(model, rows, dtype, share="past_key_values" in accepted):
                answers[number] = answer
    return answers


def _batches(
    requests: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int, max_length: int
) -> Iterator[list[_Row]]:
    """Yield the different rows, the longest contexts first, so that too large a batch fails at once."""
    rows: dict[tuple[tuple[int, ...], tuple[int, ...]], _Row] = {}
    for number, (context, continuation) in enumerate(requests):
        if not context or not continuation:
            raise ValueError(f"request {number} has an empty {'continuation' if context else 'context'}")
        whole = (*context, *continuation)[-(max_length + 1) :]
        key = whole[: len(whole) - len(continuation)], whole[:-1]
        rows.setdefault(key, _Row(context=key[0], tokens=key[1], asked=[])).asked.append((number, whole[-1]))
    ordered = sorted(rows.values(), key=lambda row: (-len(row.context), row.context, row.tokens))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _answers(
    model: PreTrainedModel, rows: list[_Row], dtype: torch.dtype, *, share: bool
) -> Iterator[tuple[int, tuple[float, bool]]]:
    """Yield the number and the answer of every request that some rows hold."""
    contexts = {context: number for number, context in enumerate(dict.fromkeys(row.context for row in rows))}
    shared = max(0, len(rows[-1].context) - 1) if share and len(contexts) < len(rows) else 0
    tails = [row.tokens[shared:] for row in rows]
    width = max(map(len, tails))
    # Rows are causal: what pads them on the right changes nothing before it.
    ids = torch.tensor([[*tail, *[0] * (width - len(tail))] for tail in tails], device=model.device)
    first = min(len(row.context) for row in rows) - 1 - shared
    logits = _logits(model, ids, list(contexts), [contexts[row.context] for row in rows], shared, first)
    logs = logits.to(dtype).log_softmax(dim=-1)
    best = logs.argmax(dim=-1).tolist()
    for index, row in enumerate(rows):
        places = range(len(row.context) - 1 - shared - first, len(row.tokens) - shared - first)
        known = row.tokens[len(row.context) :]
        values = logs[index, list(places)[:-1], list(known)].tolist()
        last = logs[index, places[-1], [token for _, token in row.asked]].tolist()
        for (number, token), value in zip(row.asked, last, strict=True):
            greedy = best[index][places[0] : places[-1] + 1] == [*known, token]
            yield number, (math.fsum([*values, value]), greedy)


def _logits(
    model: PreTrainedModel, ids: Tensor, contexts: list[tuple[int, ...]], owners: list[int], shared: int, first: int
) -> Tensor:
    """Return the logits, (R, T - first, V), of (R, T) ids that follow the first `shared` tokens of their contexts.

    `owners` says of each row which of the C contexts is its own.
    """
    past = None
    if shared:
        prefixes = torch.tensor([context[:shared] for context in contexts], device=ids.device)
        past = model(input_ids=prefixes, use_cache=True, logits_to_keep=1).past_key_values
        past.reorder_cache(torch.tensor(owners, device=ids.device))
    kept: Tensor = model(
        input_ids=ids, past_key_values=past, use_cache=past is not None, logits_to_keep=ids.shape[1] - first
    ).logits
    return kept
