"""The `hidden` cache: the teacher's final hidden states; every signal and criterion stays exact without a teacher.

Costs hidden_size numbers per token; the head, stored beside them, is applied on demand to the rows a strategy needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from harness.data.tokens import Batch
from harness.models import DTYPES, Head
from harness.teacher.source import Done, Source, Trunk
from harness.teacher.store import Spread, Store, build_store, make_shards, open_store

# B = sequences of a batch, L = positions, D = the teacher's hidden size

SHARD_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class HiddenCache:
    """A finished cache, memory-mapped; any number of processes may read it.

    Attributes:
        store: its files.
        dtype: the teacher's dtype.
        head: the teacher's head.
    """

    store: Store
    dtype: torch.dtype
    head: Head

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.store.path

    @property
    def num_bytes(self) -> int:
        """Size on disk, head included."""
        return self.store.meta.num_bytes

    @property
    def bytes_per_token(self) -> float:
        """Size of the states by the tokens they stand for."""
        return self.store.meta.bytes_per_token

    @property
    def num_tokens(self) -> int:
        """Tokens whose states it holds."""
        return self.store.meta.num_tokens

    @property
    def build_s(self) -> float:
        """Seconds that building took."""
        return self.store.meta.build_s

    def hidden(self, batch: Batch) -> Float[Tensor, "B L D"]:
        """Return the teacher's hidden states of a batch, on the batch's device.

        Raises:
            UserError: the cache does not hold one of its sequences, or a file is damaged.
        """
        found = self.store.read("states", batch.index.numpy())
        return torch.from_numpy(found).view(self.dtype).to(batch.input_ids.device)


def open_hidden(folder: Path, source: Source) -> HiddenCache | None:
    """Map a finished cache, None if there is none.

    Raises:
        UserError: a file is not what its description says, or the cache is of another source; names it.
    """
    store = open_store(folder, "hidden", source.ingredients)
    if store is None:
        return None
    # A copy: a tensor must not lie on pages that may not be written to.
    weight = torch.from_numpy(np.array(store.arrays("head.safetensors")["weight"]))
    dtype = DTYPES[str(store.meta.ingredients["dtype"])]
    return HiddenCache(store=store, dtype=dtype, head=Head(weight=weight.view(dtype)))


def build_hidden(
    folder: Path,
    source: Source,
    trunk: Trunk,
    head: Head,
    *,
    batch_size: int,
    shard_size: int = SHARD_SIZE,
    on_progress: Callable[[int, int], None] | None = None,
    spread: Spread | None = None,
) -> HiddenCache:
    """Run the teacher once over a data set and store what it computed; goes on where an earlier build was cut off.

    Args:
        folder: where caches live.
        source: what to cache.
        trunk: the teacher without its head.
        head: the teacher's head.
        batch_size: sequences per forward pass. The same as in training makes cached and online runs bit-identical on a
            CPU; matrix products of another shape may round differently.
        shard_size: sequences per file, rounded up to whole batches.
        on_progress: called with sequences done and in all.
        spread: lets other processes make shards with `make_hidden_shards`.
    """
    assert head.weight.dtype == DTYPES[source.dtype], "the head is of the source's dtype"
    done = Done(on_progress, len(source.sequences))
    build_store(
        folder,
        "hidden",
        source.ingredients,
        _maker(source, trunk, batch_size, done),
        source=source,
        batch_size=batch_size,
        shard_size=shard_size,
        extras={"head": {"weight": head.weight}},
        on_shard=done.tell,
        spread=spread,
    )
    finished = open_hidden(folder, source)
    assert finished is not None
    return finished


def make_hidden_shards(folder: Path, source: Source, trunk: Trunk, *, batch_size: int, numbers: Sequence[int]) -> None:
    """Make some shards of a cache that another process is building; arguments as in `build_hidden`.

    Raises:
        UserError: nobody is building that cache, or it cannot be written to.
    """
    make_shards(
        folder,
        "hidden",
        source.ingredients,
        _maker(source, trunk, batch_size, Done(None, 0)),
        source=source,
        numbers=numbers,
    )


def _maker(
    source: Source, trunk: Trunk, batch_size: int, done: Done
) -> Callable[[npt.NDArray[np.int64]], dict[str, Tensor]]:
    dtype = DTYPES[source.dtype]

    def make(sequences: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        states, before = [], done.count
        with torch.no_grad():
            for start in range(0, len(sequences), batch_size):
                index = torch.from_numpy(sequences[start : start + batch_size])
                states.append(trunk(source.tokens.batch(index)).to(dtype).cpu())
                done.tell(before + start + len(index))
        return {"states": torch.cat(states)}

    return make
