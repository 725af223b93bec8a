"""Run lm-eval in this process on a model in memory, and leave everything else as it was found.

Importing lm-eval takes seconds, so only an evaluation imports this module.
"""

import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from lm_eval import evaluator
from lm_eval.api import task as task_module
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Which examples lm-eval would draw for a few-shot prompt: its own default, so that official prompts stay official.
_FEWSHOT_SEED = 1234


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[Path, Path],
    *,
    batch_size: int,
) -> dict[str, list[dict[str, Any]]]:
    """Evaluate a model on tasks over local files.

    Nothing is read from or written to anywhere else: rows are held in memory, not in a dataset cache.

    Args:
        model: evaluated where it lies, in evaluation mode; the mode of each of its modules is restored.
        tokenizer: must have an end-of-sequence token.
        tasks: items (JSON lines) by the lm-eval task (YAML) that asks them. An item file is the split `items`.
        batch_size: sequences per forward pass; it changes speed and memory, not results.

    Returns:
        lm-eval's logged samples by task name, under the task's first filter.
    """
    configs = [_task_config(definition, items) for definition, items in tasks.items()]
    with _as_found(model, tokenizer):
        with _level(logging.ERROR):  # lm-eval warns that a model in memory was passed, which is the point here
            lm = _InMemory(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
            loaded = TaskManager(include_defaults=False).load(configs)
        for task in loaded["tasks"].values():
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)
        # Not simple_evaluate: it also seeds every generator of the process and spends seconds on describing the
        # machine and the git checkout.
        with _without_task_bars(), _level(logging.WARNING):
            results = evaluator.evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)
    return {name: _first_filter(samples) for name, samples in results["samples"].items()}


class _InMemory(HFLM):  # type: ignore[misc]
    """lm-eval's model without progress bars, and with every row ending where the tokenizer says text ends."""

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        return super().generate_until(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        # A model whose configuration names no end of sequence would run on past it, and decoding drops the token
        # that marks the place.
        configured = self.model.generation_config.eos_token_id
        ends = set(configured if isinstance(configured, list) else [configured]) | {self.tokenizer.eos_token_id}
        kwargs["eos_token_id"] = sorted(ends - {None})
        return super()._model_generate(context, *args, **kwargs)  # type: ignore[no-any-return]


def _task_config(definition: Path, items: Path) -> dict[str, Any]:
    config: dict[str, Any] = load_yaml(definition)
    config["custom_dataset"] = _load_items
    config["dataset_kwargs"] = {"items": str(items)}
    return config


def _load_items(*, items: str, **_: object) -> DatasetDict:
    """Load an item file; lm-eval also passes a task's metadata, which says nothing about it."""
    with Path(items).open(encoding="utf-8") as lines:
        return DatasetDict({"items": Dataset.from_list([json.loads(line) for line in lines])})


def _first_filter(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [sample for sample in samples if sample["filter"] == samples[0]["filter"]]


@contextmanager
def _as_found(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Restore the random generators, the modules' modes and the tokenizer's padding on leaving."""
    training = [(module, module.training) for module in model.modules()]
    padding = tokenizer.pad_token, tokenizer.padding_side
    generators = random.getstate(), np.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        try:
            yield
        finally:
            random.setstate(generators[0])
            np.random.set_state(generators[1])
            tokenizer.pad_token, tokenizer.padding_side = padding
            for module, mode in training:
                module.training = mode


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
def _without_task_bars() -> Iterator[None]:
    """Silence the one progress bar that lm-eval gives no argument for."""
    before = task_module.tqdm
    task_module.tqdm = partial(tqdm, disable=True)
    try:
        yield
    finally:
        task_module.tqdm = before
