"""Packed token sequences: documents joined by end-of-text tokens and cut into equal lengths, stored once and mapped."""

import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from harness.config import Data
from harness.data.text import TextSplit, texts
from harness.errors import UserError
from harness.results import write_json

# S = sequences of a data set, B = sequences of a batch, L = positions

_DOCUMENTS_PER_CALL = 256


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences on their way through the core; everything is aligned on positions.

    Attributes:
        index: which sequences of the data set these are.
        input_ids: tokens.
        targets: the next token of each position, 0 where there is none.
        valid: positions whose next token is a target.
    """

    index: Int[Tensor, " B"]
    input_ids: Int[Tensor, "B L"]
    targets: Int[Tensor, "B L"]
    valid: Bool[Tensor, "B L"]

    def to(self, device: torch.device | str) -> "Batch":
        """Move the tensors the models read; the index stays on the CPU, where the caches are."""
        return Batch(
            index=self.index,
            input_ids=self.input_ids.to(device),
            targets=self.targets.to(device),
            valid=self.valid.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A packed data set.

    Attributes:
        ids: token ids, memory-mapped.
        separator: the end-of-text token's id.
        cross_document_targets: whether the token after a separator is a target.
        tokens_per_byte: tokens of text per byte of text, separators not counted.
        key: hash of everything above.
    """

    ids: npt.NDArray[np.int32]
    separator: int
    cross_document_targets: bool
    tokens_per_byte: float
    key: str

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, index: Int[Tensor, " B"]) -> Batch:
        """Return the sequences of these indices, with targets shifted by one."""
        input_ids = torch.from_numpy(self.ids[index.numpy()].astype(np.int64))
        return with_targets(input_ids, index=index, separator=None if self.cross_document_targets else self.separator)


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
    return Batch(index=index, input_ids=input_ids, targets=targets, valid=valid)


def prepare(
    data: Data,
    folder: Path,
    split: TextSplit,
    tokenizer: PreTrainedTokenizerBase,
    *,
    source_key: str,
    cache: Path,
) -> Tokens:
    """Tokenise and pack a split, or map what an earlier call stored.

    Args:
        data: the workload's data section.
        folder: where its relative paths are looked up.
        split: which documents.
        tokenizer: the shared tokenizer.
        source_key: hash of the documents and the tokenizer.
        cache: folder of stored data sets.

    Raises:
        UserError: the split has fewer tokens than asked for.
    """
    num_tokens = data.train_tokens if split == "train" else data.heldout_tokens
    key = hashlib.sha256(f"{source_key}/{split}/{data.sequence_length}/{num_tokens}".encode()).hexdigest()[:16]
    stored = cache / f"tokens-{split}-{key}"
    if not (stored / "meta.json").exists():
        _store(data, folder, split, tokenizer, num_tokens, stored)
    meta = json.loads((stored / "meta.json").read_text(encoding="utf-8"))
    return Tokens(
        ids=np.load(stored / "ids.npy", mmap_mode="r", allow_pickle=False),
        separator=int(meta["separator"]),
        cross_document_targets=data.cross_document_targets,
        tokens_per_byte=float(meta["tokens_per_byte"]),
        key=f"{key}-{meta['sha256']}",
    )


def _store(
    data: Data, folder: Path, split: TextSplit, tokenizer: PreTrainedTokenizerBase, num_tokens: int, stored: Path
) -> None:
    """Write ids.npy and meta.json into a folder that appears whole or not at all."""
    num_sequences = num_tokens // data.sequence_length
    if num_sequences == 0:
        raise UserError(f"{num_tokens} tokens of {split} data are less than one sequence of {data.sequence_length}")
    separator = int(tokenizer.eos_token_id)
    packed: list[int] = []
    num_bytes = num_text_tokens = 0
    for text, ids in _encode(texts(data, folder, split), tokenizer):
        packed.extend((*ids, separator))
        num_bytes += len(text.encode())
        num_text_tokens += len(ids)
        if len(packed) >= num_sequences * data.sequence_length:
            break
    else:
        raise UserError(
            f"the {split} split has {len(packed)} tokens, the workload asks for {num_tokens}: "
            "add documents or lower train_tokens / heldout_tokens"
        )
    array = np.asarray(packed[: num_sequences * data.sequence_length], dtype=np.int32)
    array = array.reshape(num_sequences, data.sequence_length)
    stored.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{stored.name}-", dir=stored.parent))
    np.save(partial / "ids.npy", array, allow_pickle=False)
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    meta = {"separator": separator, "tokens_per_byte": num_text_tokens / num_bytes, "sha256": digest}
    write_json(partial / "meta.json", json.dumps(meta))
    try:
        partial.rename(stored)
    except OSError:
        # Another process finished first; what it stored is the same, because the key says so.
        shutil.rmtree(partial)
        if not (stored / "meta.json").exists():
            raise


def _encode(documents: Iterator[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, list[int]]]:
    while chunk := [text for text in itertools.islice(documents, _DOCUMENTS_PER_CALL) if text]:
        encoded = tokenizer(chunk, add_special_tokens=False)["input_ids"]
        yield from zip(chunk, encoded, strict=True)
