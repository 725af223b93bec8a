"""Where a task's rows come from: made here, read from a local file, or loaded from the hub."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.config import Evaluation, Split
from harness.config.errors import UserError
from harness.evaluate.definitions import Columns, SuiteTask

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
Half = Literal["even", "odd"]

_FORMATS = (".json", ".jsonl", ".parquet")

# By what an error message calls it. A whole number as text is what some official files have for a label.
_KINDS: Mapping[str, Callable[[object], bool]] = {
    "anything": lambda value: value is not None,
    "text": lambda value: isinstance(value, str),
    "whole number": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "whole number, also as text": lambda value: str(value).isdecimal(),
    "list of texts": lambda value: isinstance(value, list) and bool(value) and all(isinstance(x, str) for x in value),
    "list of mappings": lambda value: isinstance(value, list) and all(isinstance(x, dict) for x in value),
    "mapping": lambda value: isinstance(value, dict),
}


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """The rows that one split of a task is asked.

    Attributes:
        kind: made by the project, a local file, or a data set of the hub.
        place: the file, or the data set and its configuration.
        split: the split of that place.
        half: where the place has only one split for both of ours: the items of even index are validation, those of odd
            index test. None where the whole split is asked.
    """

    kind: Literal["generated", "file", "hub"]
    place: str
    split: str
    half: Half | None = None


def find_source(task: SuiteTask, split: Split, evaluation: Evaluation, folder: Path) -> RowSource:
    """Tell where the rows of a task's split come from.

    Raises:
        UserError: neither a file is given nor does the task name a data set and a split of it; or validation would ask
            items that test asks.
    """
    if task.generated:
        return RowSource(kind="generated", place=task.name, split=split)
    places = _places(task, evaluation, folder)
    if "validation" in places:
        return places[split]
    if evaluation.split == "halves":
        return replace(places["test"], half="even" if split == "validation" else "odd")
    if split == "validation" and "train" not in places:
        raise UserError(
            f"evaluation.split: whole tests all items of {task.name!r}, which has no other split to choose on: leave "
            "it out of evaluation.validation, or set evaluation.split to halves"
        )
    return places["test" if split == "test" else "train"]


def find_examples(task: SuiteTask, evaluation: Evaluation, folder: Path) -> RowSource | None:
    """Tell where a task's examples come from; None where it has none, or its definition holds them.

    Raises:
        UserError: examples are asked for and there is no training split to draw them from.
    """
    shots = shots_of(task, evaluation)
    if shots == 0 or (task.definition.config.get("fewshot_config") or {}).get("samples") is not None:
        return None
    source = None if task.generated else _places(task, evaluation, folder).get("train")
    if source is None:
        raise UserError(
            f"task {task.name!r} is asked with {shots} examples and has no training split to draw them from: give "
            f"evaluation.data_files.{task.name}.train, or set evaluation.fewshot.{task.name} to 0"
        )
    return source


def shots_of(task: SuiteTask, evaluation: Evaluation) -> int:
    """Return how many examples stand before a task's question."""
    return evaluation.fewshot.get(task.name, int(task.definition.config.get("num_fewshot") or 0))


def _places(task: SuiteTask, evaluation: Evaluation, folder: Path) -> dict[str, RowSource]:
    """Return a task's splits, at least test; validation and train where they are others."""
    local = evaluation.data_files.get(task.name)
    if isinstance(local, str):
        return {"test": RowSource(kind="file", place=str(folder / local), split="all")}
    if local is not None:
        return {split: RowSource(kind="file", place=str(folder / path), split=split) for split, path in local.items()}
    config = task.definition.config
    names = {split: config.get(f"{split}_split") for split in ("test", "validation")}
    asked = dict.fromkeys(name for name in names.values() if name is not None)
    if not asked or config.get("dataset_path") is None:
        raise UserError(
            f"task {task.name!r} names no data set with a validation or test split: give evaluation.data_files."
            f"{task.name}"
        )
    splits = names if len(asked) == 2 else {"test": next(iter(asked))}
    examples = config.get("fewshot_split") or config.get("training_split")
    if examples is not None and examples not in asked:
        splits |= {"train": examples}
    place = " ".join(str(config[key]) for key in ("dataset_path", "dataset_name") if config.get(key) is not None)
    return {split: RowSource(kind="hub", place=place, split=str(name)) for split, name in splits.items()}


def read_rows(path: Path, task: str, columns: Columns) -> list[Row]:
    """Read the rows of a local file and check them.

    Args:
        path: a .json file (a list of objects), a .jsonl file (an object per line) or a .parquet file.
        task: whose rows they are, for messages.
        columns: what every row must hold.

    Raises:
        UserError: the file is missing, unreadable, empty, or a row lacks a column or has one of another type; names
            the file, the task and the columns it must have.
    """
    schema = ", ".join(column if kind == "anything" else f"{column} ({kind})" for column, kind in columns.items())
    needed = f"; rows of {task} hold {schema}" if schema else ""
    if path.suffix not in _FORMATS:
        raise UserError(f"evaluation.data_files.{task}: {path} must end in {', '.join(_FORMATS)}{needed}")
    if not path.is_file():
        raise UserError(f"evaluation.data_files.{task}: no such file: {path}{needed}")
    try:
        rows = _parse(path)
    except (ValueError, OSError) as error:
        raise UserError(f"evaluation.data_files.{task}: {path} cannot be read: {error}{needed}") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"evaluation.data_files.{task}: {path} must hold rows, at least one{needed}")
    for number, row in enumerate(rows):
        for column, kind in columns.items():
            if not _KINDS[kind](row.get(column)):
                what = f"is {row[column]!r:.60}" if column in row else "is missing"
                raise UserError(f"evaluation.data_files.{task}: {path}, row {number}: {column} {what}{needed}")
    return rows


def to_dataset(rows: list[Row], task: str) -> "Dataset":
    """Hold rows in memory as lm-eval takes them.

    Raises:
        UserError: a column has values of different types in different rows.
    """
    from datasets import Dataset
    from pyarrow import ArrowException

    try:
        return Dataset.from_list(rows)
    except (ArrowException, TypeError) as error:
        raise UserError(f"task {task!r}: a column changes its type from row to row: {error}") from None


def load_from_hub(task: SuiteTask, source: RowSource) -> "Dataset":
    """Load an official data set, from the hub or from what was downloaded before.

    Raises:
        UserError: it cannot be had; says how to give a local file instead.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    config = task.definition.config
    settings = {key: value for key, value in (config.get("dataset_kwargs") or {}).items() if key != "trust_remote_code"}
    try:
        return load_dataset(config["dataset_path"], config.get("dataset_name"), split=source.split, **settings)
    except (OSError, ValueError, DatasetGenerationError) as error:
        columns = ", ".join(task.columns)
        raise UserError(
            f"task {task.name!r}: data set {source.place!r}, split {source.split!r}, can be had neither from the hub "
            f"nor from its local cache ({type(error).__name__}). A local file serves instead: evaluation.data_files."
            f"{task.name}{f', with the columns {columns}' if columns else ''}"
        ) from None


def digest_of(path: Path) -> str:
    """Hash a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _parse(path: Path) -> Any:
    if path.suffix == ".parquet":
        from pyarrow.parquet import read_table

        return read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    # Not splitlines: that also breaks at separators which JSON text may hold as they are.
    return [json.loads(line) for line in text.split("\n") if line.strip()]
