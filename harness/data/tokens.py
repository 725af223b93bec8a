"""Token sequences of equal length, stored once and mapped: packed documents, or padded pairs of prompt and answer."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from harness.config import Data
from harness.config.annotations import PreTrainedTokenizerBase
from harness.config.errors import UserError, first_line
from harness.data.encode import Encoded, digest, pad
from harness.data.packing import pack, remove_scratch
from harness.data.text import TextSplit
from harness.records import lock
from harness.records.files import sealed, unsealed, written
from harness.records.layout import Results

# S = sequences of a data set, B = sequences of a batch, L = positions

_ARRAYS = ("ids", "spans")

# Stored data sets whose checksum this process has found right, as they were then.
_VERIFIED: set[tuple[Path, str, int, int]] = set()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences on their way through the core; everything is aligned on positions.

    Attributes:
        index: which sequences of the data set these are.
        input_ids: tokens.
        targets: the next token of each position, 0 where there is none.
        valid: positions whose next token is a target.
        places: where the valid positions are in the flattened batch, ascending.
        num_valid: valid positions of each sequence, as plain numbers.
    """

    index: Int[Tensor, " B"]
    input_ids: Int[Tensor, "B L"]
    targets: Int[Tensor, "B L"]
    valid: Bool[Tensor, "B L"]
    places: Int[Tensor, " N"]
    num_valid: tuple[int, ...]

    @classmethod
    def of(
        cls,
        *,
        index: Int[Tensor, " B"],
        input_ids: Int[Tensor, "B L"],
        targets: Int[Tensor, "B L"],
        valid: Bool[Tensor, "B L"],
    ) -> "Batch":
        """Make a batch, and count its valid positions; to read a mask back from a GPU, the host has to wait."""
        return cls(
            index=index,
            input_ids=input_ids,
            targets=targets,
            valid=valid,
            places=valid.flatten().nonzero()[:, 0],
            num_valid=tuple(valid.sum(dim=-1).tolist()),
        )

    @classmethod
    def joined(cls, batches: Sequence["Batch"]) -> "Batch":
        """Put batches of one length together, in order; nothing is counted again."""
        offsets = itertools.accumulate((batch.valid.numel() for batch in batches), initial=0)
        return cls(
            index=torch.cat([batch.index for batch in batches]),
            input_ids=torch.cat([batch.input_ids for batch in batches]),
            targets=torch.cat([batch.targets for batch in batches]),
            valid=torch.cat([batch.valid for batch in batches]),
            places=torch.cat([batch.places + offset for batch, offset in zip(batches, offsets, strict=False)]),
            num_valid=tuple(num for batch in batches for num in batch.num_valid),
        )

    def to(self, device: torch.device | str) -> "Batch":
        """Move the tensors the models read; the index stays on the CPU, where the caches are."""
        return self.mapped(lambda tensor: sent(tensor, device))

    def mapped(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with every tensor but the index replaced by what `move` makes of it."""
        return replace(
            self,
            input_ids=move(self.input_ids),
            targets=move(self.targets),
            valid=move(self.valid),
            places=move(self.places),
        )

    def split(self, size: int) -> Iterator["Batch"]:
        """Cut the batch into micro-batches of `size` sequences, the last one smaller."""
        parts = (tensor.split(size) for tensor in (self.index, self.input_ids, self.targets, self.valid))
        for index, input_ids, targets, valid in zip(*parts, strict=True):
            yield Batch.of(index=index, input_ids=input_ids, targets=targets, valid=valid)


def _whole(value: object) -> bool:
    """Tell an array that is a mapped file from a part of one, which would come back as the whole."""
    return isinstance(value, np.memmap) and isinstance(value.base, mmap)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A data set of sequences.

    Attributes:
        ids: token ids, memory-mapped.
        separator: the end-of-text token's id.
        spans: where a pair's prompt and its whole text end (S, 2), memory-mapped; what follows is padding. None where
            documents are packed.
        cross_document_targets: whether the token after a separator is a target.
        prompt_targets: whether a pair's prompt has targets too.
        tokens_per_byte: tokens of text per byte of text, separators not counted.
        key: hash of everything above.
    """

    ids: npt.NDArray[np.int32]
    separator: int
    cross_document_targets: bool
    tokens_per_byte: float
    key: str
    spans: npt.NDArray[np.int32] | None = None
    prompt_targets: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        """Give another process of this machine's files the names of those that are mapped, not what they hold."""
        return {name: Path(str(value.filename)) if _whole(value) else value for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map them again."""
        for name, value in state.items():
            self.__dict__[name] = (
                np.load(value, mmap_mode="r", allow_pickle=False) if isinstance(value, Path) else value
            )

    @property
    def num_valid(self) -> npt.NDArray[np.int64]:
        """How many positions of each sequence have a target."""
        if self.spans is not None:
            starts, ends = np.asarray(self.spans, dtype=np.int64).T
            return np.asarray(ends - (1 if self.prompt_targets else np.maximum(starts, 1)))
        num_valid = np.full(len(self), self.ids.shape[1] - 1, dtype=np.int64)
        if self.cross_document_targets:
            return num_valid
        return np.asarray(num_valid - (np.asarray(self.ids[:, :-1]) == self.separator).sum(axis=1))

    def batch(self, index: Int[Tensor, " B"]) -> Batch:
        """Return the sequences of these indices, with targets shifted by one."""
        input_ids = torch.from_numpy(self.ids[index.numpy()].astype(np.int64))
        if self.spans is not None:
            starts, ends = torch.from_numpy(self.spans[index.numpy()].astype(np.int64)).T
            starts = torch.zeros_like(starts) if self.prompt_targets else starts
            return with_continuation(input_ids, index=index, starts=starts, ends=ends)
        return with_targets(input_ids, index=index, separator=None if self.cross_document_targets else self.separator)


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor of the host's on a device, which copies it while the host goes on.

    A GPU copies by itself from pages only that stay in place; from others the host copies, and waits.
    """
    away = torch.device(device).type == "cuda" and tensor.device.type == "cpu"
    return (tensor.pin_memory() if away else tensor).to(device, non_blocking=True)


def with_targets(input_ids: Int[Tensor, "B L"], *, index: Int[Tensor, " B"], separator: int | None) -> Batch:
    """Pair each position with its next token; the last position has none.

    Args:
        input_ids: tokens.
        index: which sequences these are.
        separator: positions holding this token have no target either; None if they do.
    """
    targets = torch.zeros_like(input_ids)
    targets[:, :-1] = input_ids[:, 1:]
    valid = torch.ones_like(input_ids, dtype=torch.bool)
    valid[:, -1] = False
    if separator is not None:
        valid &= input_ids != separator
    return Batch.of(index=index, input_ids=input_ids, targets=targets, valid=valid)


def with_continuation(
    input_ids: Int[Tensor, "B L"], *, index: Int[Tensor, " B"], starts: Int[Tensor, " B"], ends: Int[Tensor, " B"]
) -> Batch:
    """Pair each position with its next token, as a target only where that belongs to the continuation of a prompt.

    Args:
        input_ids: prompt, continuation, padding.
        index: which sequences these are.
        starts: where each sequence's prompt ends and its continuation begins.
        ends: where its continuation ends, its end-of-text token included.
    """
    whole = with_targets(input_ids, index=index, separator=None)
    follows = torch.arange(1, input_ids.shape[1] + 1)
    valid = (follows >= starts[:, None]) & (follows < ends[:, None])
    return Batch.of(index=index, input_ids=input_ids, targets=whole.targets.where(valid, 0), valid=valid)


def prepare(
    data: Data,
    folder: Path,
    split: TextSplit,
    tokenizer: PreTrainedTokenizerBase,
    *,
    source_key: str,
    results: Results,
) -> Tokens:
    """Do what `prepare_all` does, for one split."""
    return prepare_all(data, folder, (split,), tokenizer, source_key=source_key, results=results)[split]


def prepare_all(
    data: Data,
    folder: Path,
    splits: Sequence[TextSplit],
    tokenizer: PreTrainedTokenizerBase,
    *,
    source_key: str,
    results: Results,
) -> dict[TextSplit, Tokens]:
    """Tokenise splits and pack or pad them, or map what was stored. Nothing is written unless all of them can be.

    Args:
        data: the workload's data section.
        folder: where its relative paths are looked up.
        splits: which documents.
        tokenizer: the shared tokenizer.
        source_key: hash of the documents and the tokenizer.
        results: where data sets are kept.

    Raises:
        UserError: a split has fewer tokens or pairs than asked for, a row is bad, a prompt fills its sequence, or a
            token is not in the vocabulary; what is stored is damaged, or cannot be written.
    """
    places = {split: _place(data, split, source_key=source_key, results=results) for split in splits}
    # What is streamed is kept on the way, in one place: of two processes one waits, and finds it done.
    alone = lock.held(results.cache_locks, f"packing-{source_key}", doing="packed")
    with alone if data.streaming else nullcontext():
        _prepare(data, folder, tokenizer, places, results)
    return {split: _open(place, data) for split, place in places.items()}


def _prepare(
    data: Data, folder: Path, tokenizer: PreTrainedTokenizerBase, places: Mapping[TextSplit, Path], results: Results
) -> None:
    encoded = {
        split: _encode(data, folder, split, tokenizer, scratch=results.packing(place.name))
        for split, place in places.items()
        if not (place / "meta.json").exists() and not results.fetch(place)
    }
    for split, each in encoded.items():
        with written(places[split], first_stays=True) as partial:
            partial.mkdir()
            for name, array in each.arrays.items():
                np.save(partial / f"{name}.npy", array, allow_pickle=False)
            (partial / "meta.json").write_text(sealed(each.meta), encoding="utf-8")
        remove_scratch(results.packing(places[split].name))
        results.offer(places[split])


def _encode(
    data: Data, folder: Path, split: TextSplit, tokenizer: PreTrainedTokenizerBase, *, scratch: Path
) -> Encoded:
    num = _num_sequences(data, split)
    if data.pairs is not None:
        return pad(data, folder, split, tokenizer, num)
    packed = pack(data, folder, split, tokenizer, num_ids=num * data.sequence_length, scratch=scratch)
    ids = packed.ids.reshape(num, data.sequence_length)
    return Encoded(arrays={"ids": ids}, separator=int(tokenizer.eos_token_id), tokens_per_byte=packed.tokens_per_byte)


def find_prepared(data: Data, split: TextSplit, *, source_key: str, results: Results) -> Tokens | None:
    """Map what an earlier call of `prepare_all` stored, None if there is nothing.

    Raises:
        UserError: what is stored is damaged.
    """
    place = _place(data, split, source_key=source_key, results=results)
    return _open(place, data) if (place / "meta.json").exists() else None


def _num_tokens(data: Data, split: TextSplit) -> int:
    return data.train_tokens if split == "train" else data.heldout_tokens


def _num_sequences(data: Data, split: TextSplit) -> int:
    num_tokens = _num_tokens(data, split)
    if num_tokens < data.sequence_length:
        raise UserError(f"{num_tokens} tokens of {split} data are less than one sequence of {data.sequence_length}")
    return num_tokens // data.sequence_length


def _place(data: Data, split: TextSplit, *, source_key: str, results: Results) -> Path:
    name = f"{source_key}/{split}/{data.sequence_length}/{_num_tokens(data, split)}"
    return results.cache / f"tokens-{split}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _open(stored: Path, data: Data) -> Tokens:
    """Map a stored data set, after its checksum was verified once in this process."""
    names = _ARRAYS if data.pairs is not None else _ARRAYS[:1]
    try:
        meta = unsealed((stored / "meta.json").read_text(encoding="utf-8"))
        arrays = {name: np.load(stored / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
        for name in names:
            state = (stored / f"{name}.npy").stat()
            seen = (stored / name, meta["sha256"], state.st_ino, state.st_mtime_ns)
            if seen not in _VERIFIED and digest(*arrays.values()) != meta["sha256"]:
                raise ValueError("its checksum is wrong")
            _VERIFIED.add(seen)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = first_line(error)
        raise UserError(f"cached tokens {stored} are damaged ({what}); remove the folder and run again") from None
    return Tokens(
        ids=arrays["ids"],
        separator=int(meta["separator"]),
        cross_document_targets=data.cross_document_targets,
        tokens_per_byte=float(meta["tokens_per_byte"]),
        key=f"{stored.name.rpartition('-')[2]}-{meta['sha256']}",
        spans=arrays.get("spans"),
        prompt_targets=data.pairs is not None and data.pairs.prompt_targets,
    )
