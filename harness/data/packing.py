"""Documents to token ids, one after another; what is streamed is kept on the way, so that nothing is read twice."""

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.config import Data
from harness.config.annotations import PreTrainedTokenizerBase
from harness.config.errors import UserError, first_line
from harness.data.stream import Stream
from harness.data.text import TextSplit, texts
from harness.records.files import sealed, unsealed, write_text

_DOCUMENTS_PER_CALL = 256
# Of a streamed data set, what a kill costs at most: seconds of reading, 4 MiB on the disk.
TOKENS_PER_SAVE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Token ids of a split's first documents, a separator after each.

    Attributes:
        ids: as many as were asked for.
        tokens_per_byte: tokens of text per byte of text, separators not counted.
    """

    ids: npt.NDArray[np.int32]
    tokens_per_byte: float


def pack(
    data: Data, folder: Path, split: TextSplit, tokenizer: PreTrainedTokenizerBase, *, num_ids: int, scratch: Path
) -> Packed:
    """Tokenise documents in their order until there are enough ids.

    Args:
        data: the workload's data section.
        folder: where its relative paths are looked up.
        split: which documents.
        tokenizer: the shared tokenizer.
        num_ids: how many ids are wanted.
        scratch: a folder of this split alone, for what is read of a streamed data set; the caller removes it. A call
            that finds it goes on there, and gives what one that was never cut off would have given.

    Raises:
        UserError: there are fewer, or one that is not in the vocabulary; the documents cannot be read.
    """
    resumable = data.streaming
    progress = _Progress(scratch if resumable else None)
    documents = Stream(data, folder, split, progress.stream) if resumable else texts(data, folder, split)
    while progress.num_ids < num_ids:
        chunk = list(itertools.islice(documents, _DOCUMENTS_PER_CALL))
        if not chunk:
            raise UserError(
                f"the {split} split has {progress.num_ids} tokens, the workload asks for {num_ids}: "
                "add documents or lower train_tokens / heldout_tokens"
            )
        for text, ids in _encode([text for text in chunk if text], tokenizer):
            check_known(ids, tokenizer, f"the {split} split, document {progress.num_documents}")
            progress.add(text, ids, int(tokenizer.eos_token_id))
            if progress.num_ids >= num_ids:
                break
        if isinstance(documents, Stream) and progress.num_unsaved >= TOKENS_PER_SAVE:
            progress.save(documents.state_dict())
    return Packed(ids=progress.ids()[:num_ids], tokens_per_byte=progress.num_text_tokens / progress.num_bytes)


def remove_scratch(scratch: Path) -> None:
    """Remove what an earlier call kept on its way: what it was for has been stored."""
    shutil.rmtree(scratch, ignore_errors=True)


class _Progress:
    """Ids so far, in memory since the last save, on the disk before it.

    Attributes:
        stream: state of the stream when the last save was made, None without one.
    """

    def __init__(self, scratch: Path | None) -> None:
        self.stream: dict[str, Any] | None = None
        self.num_documents = self.num_bytes = self.num_text_tokens = self._num_saved = 0
        self._scratch, self._blocks, self.num_unsaved = scratch, list[npt.NDArray[np.int32]](), 0
        self._hash = hashlib.sha256()
        if scratch is not None and (scratch / "progress.json").exists():
            self._restore(scratch)

    @property
    def num_ids(self) -> int:
        """Ids in all."""
        return self._num_saved + self.num_unsaved

    def add(self, text: str, ids: list[int], separator: int) -> None:
        """Take in a document."""
        self._blocks.append(np.asarray([*ids, separator], dtype=np.int32))
        self.num_unsaved += len(ids) + 1
        self.num_documents += 1
        self.num_bytes += len(text.encode())
        self.num_text_tokens += len(ids)

    def ids(self) -> npt.NDArray[np.int32]:
        """Return all ids."""
        saved = [] if self._scratch is None or not self._num_saved else [self._saved(self._scratch)]
        return np.concatenate([*saved, *self._blocks])

    def save(self, stream: dict[str, Any]) -> None:
        """Put everything on the disk: ids first, then the note that says how many of them count."""
        assert self._scratch is not None, "only what is streamed is saved"
        block = np.concatenate(self._blocks).tobytes()
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            with (self._scratch / "ids.bin").open("r+b" if self._num_saved else "wb") as file:
                file.seek(4 * self._num_saved)
                file.write(block)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self._scratch} cannot be written: {error.strerror or error}") from None
        self._hash.update(block)
        self._num_saved, self.num_unsaved, self._blocks = self.num_ids, 0, []
        counts = {
            "num_ids": self._num_saved,
            "num_documents": self.num_documents,
            "num_bytes": self.num_bytes,
            "num_text_tokens": self.num_text_tokens,
        }
        note = {**counts, "sha256": self._hash.hexdigest(), "stream": stream}
        write_text(self._scratch / "progress.json", sealed(note))

    def _restore(self, scratch: Path) -> None:
        try:
            note = unsealed((scratch / "progress.json").read_text(encoding="utf-8"))
            self._num_saved = int(note["num_ids"])
            self._hash.update(self._saved(scratch).tobytes())
            if self._hash.hexdigest() != note["sha256"]:
                raise ValueError("its checksum is wrong")
            self.num_documents, self.num_bytes = int(note["num_documents"]), int(note["num_bytes"])
            self.num_text_tokens, self.stream = int(note["num_text_tokens"]), dict(note["stream"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = first_line(error)
            raise UserError(f"tokens in the making, {scratch}, are damaged ({what}); remove the folder") from None

    def _saved(self, scratch: Path) -> npt.NDArray[np.int32]:
        saved = np.fromfile(scratch / "ids.bin", dtype=np.int32, count=self._num_saved)
        if len(saved) != self._num_saved:
            raise ValueError(f"ids.bin holds {len(saved)} ids, {self._num_saved} were saved")
        return saved


def _encode(chunk: list[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, list[int]]]:
    if chunk:
        yield from zip(chunk, tokenizer(chunk, add_special_tokens=False)["input_ids"], strict=True)


def check_known(ids: list[int], tokenizer: PreTrainedTokenizerBase, named: str) -> None:
    """Refuse a token that is outside the vocabulary.

    Raises:
        UserError: there is one; names the place.
    """
    size = len(tokenizer)  # counts added tokens anew each time
    if ids and not 0 <= min(ids) <= max(ids) < size:
        beyond = next(token for token in ids if not 0 <= token < size)
        raise UserError(f"{named}: the tokenizer gives token {beyond}, which is outside its vocabulary of {size}")
