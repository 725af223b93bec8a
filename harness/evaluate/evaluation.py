"""Ask a model the tasks of a workload's evaluation, and check beforehand that they can be asked."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from harness.config import Evaluation, Split
from harness.config.errors import UserError, unknown
from harness.data.documents.corpus import DOCSTRINGS, Documents, load_documents, other_versions
from harness.data.documents.items import items as document_items
from harness.data.items import items as generate_items
from harness.evaluate import ifeval
from harness.evaluate.definitions import SuiteTask
from harness.evaluate.rows import (
    Row,
    RowSource,
    digest_of,
    find_examples,
    find_source,
    load_from_hub,
    read_rows,
    shots_of,
    to_dataset,
)
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


def check_evaluation(
    evaluation: Evaluation,
    folder: Path,
    *,
    context: int | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    kept: Path | None = None,
) -> None:
    """Find out, before anything is loaded or trained, whether the tasks can be asked. Reads all local data files.

    Args:
        evaluation: the workload's evaluation section.
        folder: where relative paths are looked up.
        context: positions of the smaller model to be evaluated, None if not known.
        tokenizer: the models', None if not known.
        kept: where what is read of packages is kept; nowhere if None.

    Raises:
        UnknownNameError: an unknown suite or task, or a setting for a task that is not asked; suggests the nearest.
        UserError: a missing or misshapen file, a missing resource, examples that cannot be had, answers longer than the
            model's context, no chat template, or packages that are missing or give fewer items than asked for.
    """
    tasks = _tasks(evaluation, folder)
    for setting in ("items", "data_files", "fewshot", "max_new_tokens"):
        names = {name for name, task in tasks.items() if setting != "data_files" or not task.generated}
        for name in getattr(evaluation, setting):
            if name not in names:
                raise unknown(f"task of evaluation.{setting}", name, names)
    if evaluation.chat_template and tokenizer is not None and tokenizer.chat_template is None:
        raise UserError("evaluation.chat_template: the tokenizer has no chat template")
    for task in tasks.values():
        longest = evaluation.max_new_tokens.get(task.name, task.definition.longest_answer)
        if task.documentary:
            _check_documents(task, evaluation, kept)
        elif task.generated and _limit(task, evaluation) is None:
            raise UserError(f"evaluation.num_items is null: {task.name} is generated and has no last item")
        if task.definition.longest_answer == 0 < longest:
            raise UserError(f"evaluation.max_new_tokens.{task.name}: the task generates nothing")
        if task.verifies_instructions:
            ifeval.check_resources()
        if context is not None and longest >= context:
            raise UserError(
                f"task {task.name!r} generates up to {longest} tokens, and a model's context is {context} tokens"
            )
        examples, shots = find_examples(task, evaluation, folder), shots_of(task, evaluation)
        for source in _sources(task, evaluation, folder):
            if source.kind == "file":
                num = len(read_rows(Path(source.place), task.name, task.columns))
                if source == examples and num < shots:
                    raise UserError(f"task {task.name!r} is asked with {shots} examples, and {source.place} has {num}")


def _check_documents(task: SuiteTask, evaluation: Evaluation, kept: Path | None) -> None:
    if not evaluation.packages:
        raise UserError(f"task {task.name!r} is made from documentation: name the packages in evaluation.packages")
    wanted = _limit(task, evaluation)
    for split in SPLITS:
        num = len(_items(task, split, wanted, evaluation, kept))
        if num < (wanted or 1):
            raise UserError(
                f"evaluation.packages: {task.name} has {num} {split} items, and {wanted or 1} are asked for"
            )


def _documents(evaluation: Evaluation, kept: Path | None) -> Documents:
    return load_documents(DOCSTRINGS, evaluation.packages, kept)


def _items(task: SuiteTask, split: Split, num: int | None, evaluation: Evaluation, kept: Path | None) -> list[Row]:
    if task.documentary:
        return document_items(task.name, _documents(evaluation, kept), split, num)
    assert num is not None, "checked before anything runs"
    return generate_items(task.name, split, num)


def check_split(evaluation: Evaluation, split: Split, folder: Path) -> None:
    """Refuse to choose on validation by items that test asks too.

    Raises:
        UserError: as `harness.evaluate.rows.find_source`.
    """
    for task, _ in _asked(evaluation, split, folder):
        find_source(task, split, evaluation, folder)


def fingerprint(evaluation: Evaluation, folder: Path, kept: Path | None = None) -> str:
    """Hash what the names of an evaluation stand for: definitions of tasks, lm-eval's version, content of data files.

    Documents that items are made from are hashed, and kept in a folder if one is given. A data set of the hub is known
    by its name only, as lm-eval's definitions name it.

    Raises:
        UserError: as `check_evaluation`.
    """
    found: list[list[object]] = []
    for task in _tasks(evaluation, folder).values():
        places = [
            (source.kind, digest_of(Path(source.place)) if source.kind == "file" else source.place, source.split)
            for source in _sources(task, evaluation, folder)
        ]
        files = [digest_of(path) for path in task.definition.files]
        # Without examples as it was before there were any, so that older trials keep their id.
        shots = [shots] if (shots := shots_of(task, evaluation)) else []
        documents = [_documents(evaluation, kept).digest] if task.documentary else []
        found.append([task.name, files, places, *shots, *documents])
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
    for task, limit in _asked(evaluation, split, folder):
        source, examples = find_source(task, split, evaluation, folder), find_examples(task, evaluation, folder)
        if source.kind == "generated":
            num = limit or _limit(task, evaluation)
            rows = _items(task, split, num, evaluation, results.documents)
            if len(rows) != (num or len(rows)):
                raise UserError(f"{task.name} has {len(rows)} {split} items, {num} were asked for")
            made_from = f"-{_documents(evaluation, results.documents).digest}" if task.documentary else ""
            files[task.name] = results.items / f"{task.name}-{split}-{len(rows)}{made_from}.jsonl"
            _write_rows(files[task.name], rows)
        for each in (source, examples):
            if each is not None and each.kind == "hub":
                load_from_hub(task, each)
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
    """Evaluate a model through lm-eval, greedily, with lm-eval's own prompts, examples and scoring.

    The model's mode, the random generators and the gradient settings are left as they were.

    A task whose data has a validation and a test split is asked from the one that `split` names. Where it has only one
    (hellaswag, piqa, gsm8k, lambada, ifeval), `evaluation.split` says whether the items of even index are validation
    and those of odd index test, or all are test and those of the training split validation: a choice made on
    validation is never tested on the same items. An item's number is its index in the whole split, the same for every
    model, so that models can be compared item by item; so are the examples before it.

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
    asked = _asked(evaluation, split, folder)
    generated = prepare_items(evaluation, folder, split, results)

    # lm-eval takes seconds to import; naming suites and preparing items must not.
    from harness.evaluate.runner import Question, run

    verified = any(task.verifies_instructions for task, _ in asked)
    sources = {task.name: find_source(task, split, evaluation, folder) for task, _ in asked}
    with ifeval.resources(results.punkt) if verified else nullcontext("") as resources:
        questions = [
            Question(
                definition=task.definition.path,
                rows=_dataset(task, sources[task.name], generated),
                start=1 if sources[task.name].half == "odd" else 0,
                step=1 if sources[task.name].half is None else 2,
                limit=limit,
                shots=shots_of(task, evaluation),
                examples=_examples(task, sources[task.name], evaluation, folder, limit),
                max_new_tokens=evaluation.max_new_tokens.get(task.name),
            )
            for task, limit in asked
        ]
        answers = run(
            model, tokenizer, questions, batch_size=evaluation.batch_size, chat_template=evaluation.chat_template
        )
    rows, tasks = [], {}
    for (task, _), answer in zip(asked, answers, strict=True):
        rows.append(item_rows(task.name, task.measures, answer.samples, answer.items))
        tasks[task.name] = TaskEvaluation(
            num_items=len(answer.items),
            wall_s=answer.wall_s,
            source=sources[task.name].kind,
            split=sources[task.name].split,
            half=sources[task.name].half,
            note="; ".join(filter(None, (resources if task.verifies_instructions else "", _read(task, evaluation)))),
            shots=shots_of(task, evaluation),
            max_new_tokens=evaluation.max_new_tokens.get(task.name),
            chat_template=evaluation.chat_template,
        )
    items = pd.concat(rows, ignore_index=True)
    return Scores(metrics=summarise(items), items=items, reliability=reliability_table(items), tasks=tasks)


def _read(task: SuiteTask, evaluation: Evaluation) -> str:
    """Say which packages a task's items are made from, and which of them have another version than the expected one."""
    if not task.documentary:
        return ""
    others = other_versions(evaluation.packages)
    return f"documentation of {', '.join(evaluation.packages)}" + (f" (read: {', '.join(others)})" if others else "")


def _limit(task: SuiteTask, evaluation: Evaluation) -> int | None:
    return evaluation.items.get(task.name, evaluation.num_items)


def _asked(evaluation: Evaluation, split: Split, folder: Path) -> list[tuple[SuiteTask, int | None]]:
    """Return the tasks that a split is asked, and the first so many items of each at most."""
    if split == "test" or evaluation.validation is None:
        return [(task, _limit(task, evaluation)) for task in resolve_suite(evaluation.suite, folder)]
    return [(task, num) for name, num in evaluation.validation.items() for task in resolve_suite((name,), folder)]


def _tasks(evaluation: Evaluation, folder: Path) -> dict[str, SuiteTask]:
    """Return the tasks of both splits, by name."""
    return {task.name: task for split in ("test", "validation") for task, _ in _asked(evaluation, split, folder)}


def _sources(task: SuiteTask, evaluation: Evaluation, folder: Path) -> list[RowSource]:
    """Return where a task's validation and test rows and its examples come from; of what cannot be asked, none."""
    sources = [find_source(task, "test", evaluation, folder)]
    with suppress(UserError):
        sources.insert(0, find_source(task, "validation", evaluation, folder))
    examples = find_examples(task, evaluation, folder)
    return sources if examples is None else [*sources, examples]


def _examples(
    task: SuiteTask, asked: RowSource, evaluation: Evaluation, folder: Path, limit: int | None
) -> "Dataset | None":
    source = find_examples(task, evaluation, folder)
    if source is None:
        return None
    rows = _dataset(task, source, {})
    # Items of the training split are no examples of themselves.
    return rows.select(range(len(rows) if limit is None else limit, len(rows))) if source == asked else rows


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
