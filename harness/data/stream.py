"""Documents of a data set as they arrive, from where an earlier reader stopped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.config import Data
from harness.config.errors import UserError, first_line
from harness.data.text import TextSplit, field_of, local_files, open_dataset, quiet, skipped, source_split


class Stream(Iterator[str]):
    """The documents of a split in order, no more of them fetched than asked for.

    Attributes:
        documents: documents of the source that are behind it, other splits' included.
    """

    def __init__(self, data: Data, folder: Path, split: TextSplit, state: dict[str, Any] | None = None) -> None:
        """Open a data set.

        Args:
            data: the workload's data section; it names a data set.
            folder: where relative data files are looked up.
            split: which documents.
            state: of a stream of the same data and split, to go on behind it; None to begin.

        Raises:
            UserError: the data set cannot be loaded.
        """
        self._data, self._named = data, f"data set {data.dataset!r}, split {split}"
        source = source_split(data, split)
        files = local_files(data, folder).get(source)
        if data.data_files and files is None:
            raise UserError(f"data.data_files has no {source} split: give one of train, validation, test each")
        try:
            with quiet():
                self._rows = open_dataset(data, source, files)
                if state is not None:
                    self._rows.load_state_dict(state["rows"])
        except Exception as error:
            # Each format's reader raises what it likes.
            raise UserError(f"{self._named} cannot be read: {first_line(error)}") from None
        self.documents = 0 if state is None else int(state["documents"])
        self._iterator = iter(self._rows)
        before, self._end = skipped(data, split)
        while self.documents < before:
            next(self)

    def __next__(self) -> str:
        """Return the next document.

        Raises:
            UserError: it cannot be read, or has not the text field.
        """
        if self._end is not None and self.documents >= self._end:
            raise StopIteration
        try:
            with quiet():
                row = next(self._iterator)
        except StopIteration:
            raise
        except Exception as error:
            raise UserError(f"{self._named} cannot be read: {first_line(error)}") from None
        text = field_of(row, self._data.text_field, f"{self._named}, row {self.documents}")
        self.documents += 1
        return text

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stands, as JSON."""
        return {"documents": self.documents, "rows": self._rows.state_dict()}
