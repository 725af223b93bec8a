"""Where a task's rows come from: made here, read from a local file, or loaded from the hub."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.config import Split
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


def find_source(task: SuiteTask, split: Split, files: Mapping[str, str | dict[str, str]], folder: Path) -> RowSource:
    """Tell where the rows of a task's split come from.

    Args:
        task: the task.
        split: validation or test.
        files: local files by task, as `harness.config.Evaluation` has them.
        folder: where relative files are looked up.

    Raises:
        UserError: neither a file is given nor does the task name a data set and a split of it.
    """
    halves: Mapping[Split, Half] = {"validation": "even", "test": "odd"}
    local = files.get(task.name)
    if task.generated:
        return RowSource(kind="generated", place=task.name, split=split)
    if isinstance(local, dict):
        return RowSource(kind="file", place=str(folder / local[split]), split=split)
    if local is not None:
        return RowSource(kind="file", place=str(folder / local), split="all", half=halves[split])
    config = task.definition.config
    splits = [config[key] for key in ("validation_split", "test_split") if config.get(key) is not None]
    if not splits or config.get("dataset_path") is None:
        raise UserError(
            f"task {task.name!r} names no data set with a validation or test split: give evaluation.data_files."
            f"{task.name}"
        )
    place = " ".join(str(config[key]) for key in ("dataset_path", "dataset_name") if config.get(key) is not None)
    if len(set(splits)) == 2:
        return RowSource(kind="hub", place=place, split=str(config[f"{split}_split"]))
    return RowSource(kind="hub", place=place, split=str(splits[0]), half=halves[split])


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
