"""Where documents come from: the embedded generator, local files, or a hub data set."""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from harness.config import Data
from harness.config.errors import UserError, first_line
from harness.data.corpus import CORPUS, documents
from harness.data.documents.corpus import load_documents

TextSplit = Literal["train", "validation", "test"]


def texts(data: Data, folder: Path, split: TextSplit) -> Iterator[str]:
    """Yield the documents of a split, always in the same order.

    Args:
        data: the workload's data section.
        folder: where relative data files are looked up.
        split: which documents.

    Raises:
        UserError: a file is missing or has not the text field; the data set cannot be loaded; a package is missing.
    """
    if data.packages:
        assert data.generator is not None, "checked when it was read"
        yield from (document.text for document in load_documents(data.generator, data.packages).splits[split])
        return
    if data.generator is not None:
        yield from (document.text for document in documents(split))
        return
    before, end = skipped(data, split)
    for place, row in itertools.islice(rows(data, folder, source_split(data, split)), before, end):
        yield field_of(row, data.text_field, place)


def source_split(data: Data, split: TextSplit) -> TextSplit:
    """Return the split of the source that a split's documents are in."""
    return split if data.heldout_documents is None else "train"


def skipped(data: Data, split: TextSplit) -> tuple[int, int | None]:
    """Return how many documents of the source come before a split's, and where they end; None for all that follow."""
    num = data.heldout_documents
    if num is None:
        return 0, None
    return {"validation": (0, num), "test": (num, 2 * num), "train": (2 * num, None)}[split]


def fingerprint(data: Data, folder: Path, cache: Path | None = None) -> str:
    """Return a hash that changes when the documents change: of the generator's version, or of their content.

    What packages hold is kept in `cache`, which saves the next process to read it. A hub data set is identified by its
    name, configuration and revision only; without a revision it may change unseen.
    """
    # Streamed or not, the documents are the same.
    digest = hashlib.sha256(data.model_dump_json(exclude={"streaming"}).encode())
    if data.packages:
        assert data.generator is not None, "checked when it was read"
        digest.update(load_documents(data.generator, data.packages, cache).digest.encode())
    elif data.generator is not None:
        digest.update(f"corpus {CORPUS}".encode())
    for paths in local_files(data, folder).values():
        for path in paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def local_files(data: Data, folder: Path) -> dict[str, list[Path]]:
    """Resolve and check the data files of every split."""
    resolved: dict[str, list[Path]] = {}
    for split, names in (data.data_files or {}).items():
        resolved[split] = [folder / name for name in ([names] if isinstance(names, str) else names)]
        for path in resolved[split]:
            if not path.is_file():
                raise UserError(f"data.data_files.{split}: no such file: {path}")
            if path.stat().st_size == 0:
                raise UserError(f"data.data_files.{split}: {path} is empty")
    return resolved


def rows(data: Data, folder: Path, split: TextSplit) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a split, each with its place: the file or data set and the row's number.

    Raises:
        UserError: a file is missing or cannot be read, or the data set cannot be loaded.
    """
    files = local_files(data, folder)
    if files and split not in files:
        raise UserError(f"data.data_files has no {split} split: give one of train, validation, test each")
    # File by file, so that an error can name the file.
    for path in files.get(split, []) if files else [None]:
        named = f"data set {data.dataset!r}, split {split}" if path is None else str(path)
        for number, row in enumerate(_rows(data, split, path, named)):
            yield f"{named}, row {number}", row


def field_of(row: dict[str, Any], field: str, place: str) -> str:
    """Return the text of a row's field.

    Raises:
        UserError: the row has no such field, or it is no text; names the place and what the row has.
    """
    text = row.get(field)
    if not isinstance(text, str):
        columns = ", ".join(f"{key}: {type(value).__name__}" for key, value in row.items())[:200] or "none"
        raise UserError(f"{place}: field {field!r} must be text, the row has {columns}")
    return text


def open_dataset(data: Data, split: TextSplit, files: Sequence[Path] | None) -> Any:
    """Open a data set, or files by its builder, to be read row by row."""
    from datasets import load_dataset

    names = None if files is None else [str(path) for path in files]
    # A builder that is given a bare list of files calls them "train".
    where = "train" if names else split
    return load_dataset(
        str(data.dataset), data.name, data_files=names, split=where, revision=data.revision, streaming=True
    )


def _rows(data: Data, split: TextSplit, path: Path | None, named: str) -> Iterator[dict[str, Any]]:
    iterator: Iterator[dict[str, Any]] | None = None
    while True:
        try:
            with quiet():
                if iterator is None:
                    iterator = iter(open_dataset(data, split, None if path is None else [path]))
                row = next(iterator, None)
        except Exception as error:
            # Each format's reader raises what it likes, an empty file even StopIteration.
            what = _damage(path, str(data.dataset)) or f"cannot be read: {first_line(error)}"
            raise UserError(f"{named} {what}") from None
        if row is None:
            return
        yield row


def _damage(path: Path | None, kind: str) -> str | None:
    """Say what keeps a local text file from being read, and where; None if that is not known."""
    if path is None or kind not in ("json", "text"):
        return None
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"is not UTF-8: byte {content[error.start]:#04x} at offset {error.start}"
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            json.loads(line or "0")
        except ValueError as error:
            return f"is not JSON lines: line {number}: {error}"
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the readers' own account of an error out of the output: it is raised, and told in one line."""
    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
