"""Where documents come from: the embedded generator, local files, or a hub data set."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from harness.config import Data
from harness.data.corpus import documents
from harness.errors import UserError
from strategies.registry import source_digest

TextSplit = Literal["train", "validation", "test"]

_PACKAGE = Path(__file__).parent


def texts(data: Data, folder: Path, split: TextSplit) -> Iterator[str]:
    """Yield the documents of a split, always in the same order.

    Args:
        data: the workload's data section.
        folder: where relative data files are looked up.
        split: which documents.

    Raises:
        UserError: a file is missing or has not the text field; the data set cannot be loaded.
    """
    if data.generator is not None:
        yield from (document.text for document in documents(split))
        return
    yield from _dataset(data, folder, split)


def fingerprint(data: Data, folder: Path) -> str:
    """Return a hash that changes when the documents change: of the generator's source, or of the files' content.

    A hub data set is identified by its name and configuration only; pin it by naming a revisioned copy.
    """
    digest = hashlib.sha256(data.model_dump_json().encode())
    if data.generator is not None:
        for path in sorted((_PACKAGE / "corpus").rglob("*.py")):
            digest.update(source_digest(path.read_text(encoding="utf-8")).encode())
    for paths in _files(data, folder).values():
        for path in paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files(data: Data, folder: Path) -> dict[str, list[Path]]:
    """Resolve and check the data files of every split."""
    resolved: dict[str, list[Path]] = {}
    for split, names in (data.data_files or {}).items():
        resolved[split] = [folder / name for name in ([names] if isinstance(names, str) else names)]
        for path in resolved[split]:
            if not path.is_file():
                raise UserError(f"data.data_files.{split}: no such file: {path}")
    return resolved


def _dataset(data: Data, folder: Path, split: TextSplit) -> Iterator[str]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    files = _files(data, folder)
    if files and split not in files:
        raise UserError(f"data.data_files has no {split} split: give one of train, validation, test each")
    try:
        rows = load_dataset(
            str(data.dataset),
            data.name,
            data_files=[str(path) for path in files[split]] if files else None,
            # A builder that is given a bare list of files calls them "train".
            split="train" if files else split,
            streaming=True,
        )
        for number, row in enumerate(rows):
            text = row.get(data.text_field)
            if not isinstance(text, str):
                raise UserError(
                    f"data set {data.dataset!r}, split {split}, row {number}: field {data.text_field!r} must be text, "
                    f"the row has {', '.join(f'{key}: {type(value).__name__}' for key, value in row.items())}"
                )
            yield text
    except UserError:
        raise
    except (DatasetGenerationError, OSError, ValueError) as error:
        raise UserError(f"data set {data.dataset!r}, split {split}, cannot be read: {error}") from None
