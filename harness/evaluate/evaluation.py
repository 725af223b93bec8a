"""Ask a model the tasks of a workload's evaluation, and check beforehand that they can be asked."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from harness.config import Evaluation, Split
from harness.config.errors import UserError, unknown
from harness.data.items import items as generate_items
from harness.evaluate import ifeval
from harness.evaluate.definitions import SuiteTask
from harness.evaluate.rows import Row, RowSource, digest_of, find_source, load_from_hub, read_rows, to_dataset
from harness.evaluate.scores import item_rows, reliability_table, summarise
from harness.evaluate.suite import resolve_suite
from harness.records.files import write_text
from harness.records.layout import Results
from harness.records.record import Metric, TaskEvaluation

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPLITS: tuple[Split, ...] = ("validation", "test")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model scored.

    Attributes:
        metrics: metric by name, as `harness.evaluate.scores.summarise` defines them; shares in [0, 1].
        items: one row per item and measure, as `harness.evaluate.scores.item_rows` defines them.
        reliability: one row per multiple-choice task and bin of confidence.
        tasks: how each task was asked.
    """

    metrics: dict[str, Metric]
    items: pd.DataFrame
    reliability: pd.DataFrame
    tasks: dict[str, TaskEvaluation]


def check_evaluation(evaluation: Evaluation, folder: Path, *, context: int | None = None) -> None:
    """Find out, before anything is loaded or trained, whether the tasks can be asked. Reads all local data files.

    Args:
        evaluation: the workload's evaluation section.
        folder: where relative paths are looked up.
        context: positions of the smaller model to be evaluated, None if not known.

    Raises:
        UnknownNameError: an unknown suite or task, or files for a task that is not asked; suggests the nearest.
        UserError: a missing or misshapen file, a missing resource, or answers longer than the model's context.
    """
    tasks = resolve_suite(evaluation.suite, folder)
    names = {task.name for task in tasks if not task.generated}
    for name in evaluation.data_files:
        if name not in names:
            raise unknown("task of evaluation.data_files", name, names)
    for task in tasks:
        if task.generated and evaluation.num_items is None:
            raise UserError(f"evaluation.num_items is null: {task.name} is generated and has no last item")
        if task.verifies_instructions:
            ifeval.check_resources()
        if context is not None and task.definition.longest_answer >= context:
            raise UserError(
                f"task {task.name!r} generates up to {task.definition.longest_answer} tokens, and a model's "
                f"context is {context} tokens"
            )
        for source in _sources(task, evaluation, folder):
            if source.kind == "file":
                read_rows(Path(source.place), task.name, task.columns)


def fingerprint(evaluation: Evaluation, folder: Path) -> str:
    """Hash what the names of an evaluation stand for: definitions of tasks, lm-eval's version, content of data files.

    A data set of the hub is known by its name only, as lm-eval's definitions name it.

    Raises:
        UserError: as `check_evaluation`.
    """
    found = []
    for task in resolve_suite(evaluation.suite, folder):
        places = [
            (source.kind, digest_of(Path(source.place)) if source.kind == "file" else source.place, source.split)
            for source in _sources(task, evaluation, folder)
        ]
        found.append([task.name, [digest_of(path) for path in task.definition.files], places])
    return hashlib.sha256(json.dumps([version("lm_eval"), found]).encode()).hexdigest()[:16]


def prepare_items(evaluation: Evaluation, folder: Path, split: Split, results: Results) -> dict[str, Path]:
    """Make sure that every task's rows are at hand: write generated ones, download those of the hub.

    Safe where several processes prepare the same items: a reader sees a whole file or none.

    Args:
        evaluation: the workload's evaluation section.
        folder: where relative paths are looked up.
        split: validation or test.
        results: generated items go to its `items`, as JSON lines.

    Returns:
        The files of generated tasks, by task name. Fields that are mappings are kept as JSON text, since their keys
        differ between rows.

    Raises:
        UserError: a generated task that has fewer items, or a data set that cannot be had.
    """
    files: dict[str, Path] = {}
    for task in resolve_suite(evaluation.suite, folder):
        source = find_source(task, split, evaluation.data_files, folder)
        if source.kind == "generated":
            assert evaluation.num_items is not None, "checked before anything runs"
            rows = generate_items(task.name, split, evaluation.num_items)
            if len(rows) != evaluation.num_items:
                raise UserError(f"{task.name} has {len(rows)} {split} items, {evaluation.num_items} were asked for")
            files[task.name] = results.items / f"{task.name}-{split}-{evaluation.num_items}.jsonl"
            _write_rows(files[task.name], rows)
        elif source.kind == "hub":
            load_from_hub(task, source)
    return files


def evaluate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    evaluation: Evaluation,
    *,
    folder: Path,
    split: Split,
    results: Results,
) -> Scores:
    """Evaluate a model through lm-eval, zero-shot and greedily, with lm-eval's own prompts and scoring.

    The model's mode, the random generators and the gradient settings are left as they were.

    A task whose data has a validation and a test split is asked from the one that `split` names. Where it has only one
    (hellaswag, piqa, gsm8k, lambada, ifeval), the items of even index are validation and those of odd index are test,
    so that a choice made on validation is not tested on the same items; scores are then those of half the official
    split. An item's number is its index in the whole split, the same for every model, so that models can be compared
    item by item.

    Args:
        model: a causal language model, on any device.
        tokenizer: the model's, with an end-of-sequence token.
        evaluation: the workload's evaluation section.
        folder: where relative paths are looked up.
        split: validation or test.
        results: where generated items and IFEval's resources are kept; nothing is written elsewhere.

    Raises:
        UserError: as `check_evaluation` and `prepare_items`, or a tokenizer without an end of sequence.
        FloatingPointError: the model's logits are not finite; names the task and the item.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token; generated answers need one to end")
    tasks = resolve_suite(evaluation.suite, folder)
    generated = prepare_items(evaluation, folder, split, results)

    # lm-eval takes seconds to import; naming suites and preparing items must not.
    from harness.evaluate.runner import Question, run

    verified = any(task.verifies_instructions for task in tasks)
    sources = {task.name: find_source(task, split, evaluation.data_files, folder) for task in tasks}
    with ifeval.resources(results.punkt) if verified else nullcontext("") as resources:
        questions = [
            Question(
                definition=task.definition.path,
                rows=_dataset(task, sources[task.name], generated),
                start=1 if sources[task.name].half == "odd" else 0,
                step=1 if sources[task.name].half is None else 2,
                limit=evaluation.num_items,
            )
            for task in tasks
        ]
        answers = run(model, tokenizer, questions, batch_size=evaluation.batch_size)
    rows = [
        item_rows(task.name, task.measures, answer.samples, answer.items)
        for task, answer in zip(tasks, answers, strict=True)
    ]
    items = pd.concat(rows, ignore_index=True)
    asked = {
        task.name: TaskEvaluation(
            num_items=len(answer.items),
            wall_s=answer.wall_s,
            source=sources[task.name].kind,
            split=sources[task.name].split,
            half=sources[task.name].half,
            note=resources if task.verifies_instructions else "",
        )
        for task, answer in zip(tasks, answers, strict=True)
    }
    return Scores(metrics=summarise(items), items=items, reliability=reliability_table(items), tasks=asked)


def _sources(task: SuiteTask, evaluation: Evaluation, folder: Path) -> list[RowSource]:
    return [find_source(task, split, evaluation.data_files, folder) for split in SPLITS]


def _dataset(task: SuiteTask, source: RowSource, generated: Mapping[str, Path]) -> "Dataset":
    if source.kind == "hub":
        return load_from_hub(task, source)
    path = generated[task.name] if source.kind == "generated" else Path(source.place)
    rows = read_rows(path, task.name, task.columns)
    if task.columns and "anything" not in task.columns.values():
        # Only what the task is known to read: the types of another column are nobody's concern.
        rows = [{column: row[column] for column in task.columns} for row in rows]
    return to_dataset(rows, task.name)


def _write_rows(path: Path, rows: list[Row]) -> None:
    lines = [json.dumps({key: _flat(field) for key, field in row.items()}, ensure_ascii=False) for row in rows]
    payload = "\n".join(lines)
    if not path.exists() or path.read_text(encoding="utf-8") != payload + "\n":
        write_text(path, payload + "\n")


def _flat(field: object) -> object:
    return json.dumps(field) if isinstance(field, Mapping) else field
