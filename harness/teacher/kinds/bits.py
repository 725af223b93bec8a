"""Class ids and draw counts in whole bytes, as few as hold both, and positions of unequal length one after another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.teacher.store import Store

# R = records, B = sequences, L = positions, U = records of the fullest position


@dataclass(frozen=True, kw_only=True)
class PairLayout:
    """How one (id, count) pair is laid out: the id in the low bits, count - 1 above it, little-endian.

    A count is at least 1, so 6 bits hold 1..64, and a vocabulary of up to 262 144 with up to 64 draws takes 3 bytes.

    Attributes:
        vocab_size: ids are below it.
        draws: counts are at most this; 1 where there is nothing to count.
    """

    vocab_size: int
    draws: int = 1

    @property
    def id_bits(self) -> int:
        """Bits that hold every id."""
        return max(1, (self.vocab_size - 1).bit_length())

    @property
    def num_bytes(self) -> int:
        """Bytes of a record."""
        return -(-(self.id_bits + (self.draws - 1).bit_length()) // 8)

    def pack(self, ids: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Pack R pairs into (R, num_bytes).

        Raises:
            ValueError: an id or a count that the layout cannot hold; a wrapped id would train on another class.
        """
        for name, values, low, high in (("id", ids, 0, self.vocab_size - 1), ("count", counts, 1, self.draws)):
            if len(values) and not (low <= values.min() and values.max() <= high):
                raise ValueError(f"{name}s must lie in [{low}, {high}], they span [{values.min()}, {values.max()}]")
        codes = (ids | ((counts - 1) << self.id_bits)).astype("<i8")
        return np.ascontiguousarray(codes[:, None].view(np.uint8)[:, : self.num_bytes])

    def unpack(self, packed: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the ids and counts of (R, num_bytes)."""
        wide = np.zeros((len(packed), 8), dtype=np.uint8)
        wide[:, : self.num_bytes] = packed
        codes = wide.view("<i8")[:, 0].astype(np.int64)
        return codes & ((1 << self.id_bits) - 1), (codes >> self.id_bits) + 1


def ragged(lengths: Tensor, columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """Lay out a shard of columns that hold a few records for each position, in the order of the positions.

    Args:
        lengths: how many records each position (B, L) has.
        columns: one row per record.

    Returns:
        The columns, `lengths` in as few bytes as hold them, and `starts`: where each sequence's records begin.
    """
    starts = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    starts[1:] = lengths.sum(dim=-1).cumsum(dim=0)
    largest = int(lengths.max())
    small = torch.uint8 if largest < 1 << 8 else torch.int16 if largest < 1 << 15 else torch.int32
    return {"lengths": lengths.to(small), "starts": starts, **columns}


def gather(
    store: Store, rows: npt.NDArray[np.int64], names: Sequence[str]
) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.generic]]]:
    """Return how many records each position of these sequences has (B, L), and the named columns joined in order."""
    lengths: npt.NDArray[np.int64] | None = None
    pieces: dict[str, list[npt.NDArray[np.generic]]] = {name: [np.empty(0)] * len(rows) for name in names}
    for places, inside, shard in store.parts(rows):
        if lengths is None:
            lengths = np.zeros((len(rows), shard["lengths"].shape[1]), dtype=np.int64)
        lengths[places] = shard["lengths"][inside]
        for place, row in zip(places, inside, strict=True):
            first, last = shard["starts"][row : row + 2]
            for name in names:
                pieces[name][place] = shard[name][first:last]
    assert lengths is not None, "a batch has sequences"
    return lengths, {name: np.concatenate(parts) for name, parts in pieces.items()}


def laid_out(
    lengths: npt.NDArray[np.int64], column: npt.NDArray[np.generic], width: int, fill: float
) -> npt.NDArray[np.generic]:
    """Spread a joined column over its positions: (B, L, width), unused places last and filled with `fill`."""
    spread = np.full((*lengths.shape, width), fill, dtype=column.dtype)
    spread[np.arange(width) < lengths[..., None]] = column
    return spread
