"""Run lm-eval in this process on a model in memory, and leave everything else as it was found.

Importing lm-eval takes seconds, so only an evaluation imports this module.
"""

import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from lm_eval import evaluator
from lm_eval.api import task as task_module
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.config.errors import UserError
from harness.evaluate.likelihoods import log_likelihoods
from harness.models import evaluating

# lm-eval's own defaults, so that what an official task draws stays official.
_SEED, _NUMPY_SEED, _TORCH_SEED, _FEWSHOT_SEED = 0, 1234, 1234, 1234

# Of a definition's data only the rows handed over are left.
_SPLITS: dict[str, Any] = {
    "dataset_path": None,
    "dataset_name": None,
    "dataset_kwargs": None,
    "training_split": None,
    "validation_split": None,
    "test_split": "items",
    "process_docs": None,
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What one task is asked.

    Attributes:
        definition: the task's YAML file.
        rows: the rows of a split, all of them.
        start: the first item asked.
        step: from one item asked to the next.
        limit: items asked at most, all if None.
        shots: examples before each item, drawn by lm-eval from `examples` under its own seed.
        examples: rows to draw from; None where there are no examples or the definition holds them.
        max_new_tokens: of an answer at most; as the definition says if None.
    """

    definition: Path
    rows: Dataset
    start: int = 0
    step: int = 1
    limit: int | None = None
    shots: int = 0
    examples: Dataset | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a task was answered.

    Attributes:
        samples: lm-eval's logged samples, one per item and filter; `doc_id` counts the items asked.
        items: each item's number among all rows of the split, as the task itself prepares them.
        wall_s: seconds, preparation included.
    """

    samples: list[dict[str, Any]]
    items: list[int]
    wall_s: float


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    batch_size: int,
    chat_template: bool = False,
) -> list[Answers]:
    """Evaluate a model, with probabilities in float32 at least.

    Nothing is read from or written to anywhere else: rows are held in memory, not in a dataset cache.

    Args:
        model: evaluated where it lies, in evaluation mode; the mode of each of its modules is restored.
        tokenizer: must have an end-of-sequence token.
        questions: the tasks.
        batch_size: sequences per forward pass; it changes speed and memory, not results.
        chat_template: whether prompts are put as turns of the tokenizer's chat template, examples among them.

    Returns:
        The answers to each task, in the order asked.

    Raises:
        UserError: a task has no items left.
    """
    with _as_found(model, tokenizer):
        with _level(logging.ERROR):  # lm-eval warns that a model in memory was passed, which is the point here
            lm = _InMemory(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                softmax_dtype=torch.promote_types(model.dtype, torch.float32),
            )
        return [ask(lm, question, chat_template=chat_template) for question in questions]


def ask(lm: LM, question: Question, *, chat_template: bool = False) -> Answers:
    """Ask one task of anything that answers as lm-eval's models do."""
    started = time.perf_counter()
    config: dict[str, Any] = load_yaml(question.definition)
    with _quiet():
        # Prepared before the choice of items, so that an item keeps its number whatever part is asked.
        rows = config["process_docs"](question.rows) if config.get("process_docs") else question.rows
        items = list(range(question.start, len(rows), question.step))[: question.limit]
        if not items:
            raise UserError(f"task {config['task']!r} has {len(rows)} items, none of which is in the split asked for")
        asked = DatasetDict({"items": rows.select(items)})
        shown = dict(config.get("fewshot_config") or {}) if question.shots else {}
        if question.examples is not None:
            prepare = shown.get("process_docs") or config.get("process_docs")
            asked["examples"] = prepare(question.examples) if prepare else question.examples
            if len(asked["examples"]) < question.shots:
                raise UserError(f"task {config['task']!r}: {question.shots} examples of {len(asked['examples'])} rows")
            shown |= {"split": "examples", "process_docs": None}
        config |= _SPLITS | {"custom_dataset": lambda **_: asked, "num_fewshot": question.shots}
        config |= {"fewshot_config": shown or None, "fewshot_split": shown.get("split")}
        if question.max_new_tokens is not None:
            settings = config.get("generation_kwargs") or {}
            config["generation_kwargs"] = settings | {"max_gen_toks": question.max_new_tokens}
        loaded = TaskManager(include_defaults=False).load([config])
        for task in loaded["tasks"].values():
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)
        # Not simple_evaluate: it also spends seconds on describing the machine and the git checkout.
        results = evaluator.evaluate(
            lm,
            loaded,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )
    (samples,) = results["samples"].values()
    return Answers(samples=samples, items=items, wall_s=time.perf_counter() - started)


class _InMemory(HFLM):  # type: ignore[misc]
    """lm-eval's model without progress bars, and with every row ending where the tokenizer says text ends."""

    _encoded: Mapping[str, list[int]] = MappingProxyType({})

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        # One text at a time, the tokenizer takes as long as a small model; lm-eval then finds each text encoded.
        pairs = [request.args for request in requests]
        texts = [text for context, rest in pairs for text in (context.rstrip(), context + rest)]
        start = self.tokenizer.decode(self.prefix_token_id)
        plain = list(dict.fromkeys(text for text in texts if text and not text.startswith(start)))
        special = {} if self.add_bos_token is None else {"add_special_tokens": self.add_bos_token}
        if plain:
            self._encoded = dict(zip(plain, self.tokenizer(plain, **special)["input_ids"], strict=True))
        try:
            return super().loglikelihood(requests, disable_tqdm=True)  # type: ignore[no-any-return]
        finally:
            self._encoded = {}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **settings: Any) -> list[int]:
        if add_special_tokens is None and not settings and string in self._encoded:
            return self._encoded[string]
        return super().tok_encode(string, add_special_tokens, **settings)  # type: ignore[no-any-return]

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        return log_likelihoods(
            self.model,
            [(context, continuation) for _, context, continuation in requests],
            batch_size=override_bs or self.batch_size,
            max_length=self.max_length,
            dtype=self.softmax_dtype,
        )

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        return super().generate_until(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        # A model whose configuration names no end of sequence would run on past it, and decoding drops the token
        # that marks the place.
        configured = self.model.generation_config.eos_token_id
        ends = set(configured if isinstance(configured, list) else [configured]) | {self.tokenizer.eos_token_id}
        kwargs["eos_token_id"] = sorted(ends - {None})
        return super()._model_generate(context, *args, **kwargs)  # type: ignore[no-any-return]


@contextmanager
def _as_found(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Restore the random generators, the modules' modes and the tokenizer's padding on leaving."""
    padding = tokenizer.pad_token, tokenizer.padding_side
    generators = random.getstate(), np.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        random.seed(_SEED)
        np.random.seed(_NUMPY_SEED)
        torch.manual_seed(_TORCH_SEED)
        try:
            yield
        finally:
            random.setstate(generators[0])
            np.random.set_state(generators[1])
            tokenizer.pad_token, tokenizer.padding_side = padding


@contextmanager
def _level(level: int) -> Iterator[None]:
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars, one of which lm-eval gives no argument for, and messages below a warning."""
    before, bars = task_module.tqdm, not are_progress_bars_disabled()
    task_module.tqdm = partial(tqdm, disable=True)
    disable_progress_bars()
    try:
        # An error, not a warning: lm-eval warns of every task that its data comes from memory.
        with _level(logging.ERROR):
            yield
    finally:
        task_module.tqdm = before
        if bars:
            enable_progress_bars()
