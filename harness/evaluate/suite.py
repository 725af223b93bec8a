"""Evaluation suites: lists of lm-eval tasks, asked of a model in memory, offline."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from harness.data.items import items as generate_items
from harness.errors import UserError, unknown
from harness.evaluate.scores import ACCURACY, ADHERENCE, LOG_LIKELIHOOD, item_rows, summarise
from harness.results import Metric, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPLITS = ("validation", "test")

_DEFINITIONS = Path(__file__).parent / "tasks"


@dataclass(frozen=True, kw_only=True)
class SuiteTask:
    """One lm-eval task of a suite.

    Attributes:
        name: the task's name and the stem of its YAML file in `tasks/<suite>/`.
        measures: what is kept of each item: our measure by lm-eval's name for it.
    """

    name: str
    measures: Mapping[str, str]


SUITES: Mapping[str, tuple[SuiteTask, ...]] = {
    "tiny": (
        SuiteTask(name="tiny_completion", measures={"acc": ACCURACY}),
        SuiteTask(name="tiny_lastword", measures={"acc": ACCURACY, "perplexity": LOG_LIKELIHOOD}),
        SuiteTask(name="tiny_arithmetic", measures={"exact_match": ACCURACY}),
        SuiteTask(name="tiny_instructions", measures={"adherence": ADHERENCE}),
    ),
}


@dataclass(frozen=True)
class Evaluation:
    """What a model scored on a suite.

    Attributes:
        metrics: metric by name, as `harness.evaluate.scores.summarise` defines them; shares in [0, 1].
        items: one row per item and measure, as `harness.evaluate.scores.item_rows` defines them: task, item (index in
            its file), metric (accuracy, adherence or log_likelihood), value, confidence, correct.
    """

    metrics: dict[str, Metric]
    items: pd.DataFrame


def evaluate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    suite: str,
    split: str,
    num_items: int,
    batch_size: int,
    data_dir: Path,
) -> Evaluation:
    """Evaluate a model on a suite through lm-eval, greedily.

    The model's mode, the random generators and the gradient settings are left as they were.

    Args:
        model: a causal language model, on any device.
        tokenizer: the model's, with an end-of-sequence token.
        suite: a key of `SUITES`.
        split: validation or test.
        num_items: items per task, at least 1.
        batch_size: sequences per forward pass, at least 1; it changes speed and memory, not results.
        data_dir: where item files are kept; nothing is written elsewhere.

    Raises:
        UnknownNameError: an unknown suite or split; suggests the nearest.
        UserError: a number below 1, too few items, or a tokenizer without an end of sequence.
        FloatingPointError: the model's logits are not finite; names the task and the item.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token; generated answers need one to end")
    files = prepare_items(suite, split, num_items, data_dir)

    # lm-eval takes seconds to import; naming suites and preparing items must not.
    from harness.evaluate.runner import run

    tasks = {_DEFINITIONS / suite / f"{name}.yaml": path for name, path in files.items()}
    samples = run(model, tokenizer, tasks, batch_size=batch_size)
    rows = [item_rows(task.name, task.measures, samples[task.name]) for task in SUITES[suite]]
    items = pd.concat(rows, ignore_index=True)
    return Evaluation(metrics=summarise(items), items=items)


def prepare_items(suite: str, split: str, num_items: int, data_dir: Path) -> dict[str, Path]:
    """Write the items of a suite as JSON lines, unless they are there already.

    Safe where several processes prepare the same items: a reader sees a whole file or none.

    Args:
        suite: a key of `SUITES`.
        split: validation or test.
        num_items: items per task, at least 1.
        data_dir: parent folder; files go to `<data_dir>/items/<suite>/`.

    Returns:
        Item file by task name. Fields that are mappings are kept as JSON text, since their keys differ between rows.

    Raises:
        UnknownNameError: an unknown suite or split; suggests the nearest.
        UserError: a number below 1, or a task that has fewer items.
    """
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if num_items < 1:
        raise UserError(f"num_items is {num_items}; it must be at least 1")
    folder = data_dir / "items" / suite
    files: dict[str, Path] = {}
    for task in SUITES[suite]:
        rows = generate_items(task.name, split, num_items)
        if len(rows) != num_items:
            raise UserError(f"{task.name} has {len(rows)} {split} items, {num_items} were asked for")
        files[task.name] = folder / f"{task.name}-{split}-{num_items}.jsonl"
        _write_rows(files[task.name], rows)
    return files


def _write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    lines = [json.dumps({key: _flat(field) for key, field in row.items()}, ensure_ascii=False) for row in rows]
    payload = "\n".join(lines)
    if not path.exists() or path.read_text(encoding="utf-8") != payload + "\n":
        write_json(path, payload)


def _flat(field: object) -> object:
    return json.dumps(field) if isinstance(field, Mapping) else field
