"""A finished cache: a sealed description and checksummed shards, mapped by any number of processes.

A cache is a folder `<kind>-<key>`, the key a hash of what it is made from. It holds `meta.json` (sealed by its own
checksum; it says `complete` only after everything else is on disk) and safetensors files: shards of a fixed number of
sequences, and which sequences these are where they are not all.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.config.base import Scalar
from harness.config.errors import UserError
from harness.records import lock
from harness.records.layout import Results
from harness.teacher.files import (
    FORMAT,
    Arrays,
    Indices,
    Meta,
    map_arrays,
    read_meta,
    refuse,
    verify,
)


@dataclass(frozen=True, kw_only=True)
class Store:
    """A finished cache, memory-mapped; any number of processes may read it.

    Attributes:
        path: its folder.
        meta: its description.
        sequences: which sequences of the data set its rows are, ascending; None if all.
    """

    path: Path
    meta: Meta
    sequences: Indices | None
    _mapped: dict[int, Arrays] = field(default_factory=dict, repr=False)

    def rows(self, index: Indices) -> Indices:
        """Return where the cache holds these sequences of the data set.

        Raises:
            UserError: it does not hold one of them.
        """
        if self.sequences is None:
            known, rows = (index >= 0) & (index < self.meta.num_sequences), index
        else:
            rows = np.searchsorted(self.sequences, index).clip(max=len(self.sequences) - 1)
            known = self.sequences[rows] == index
        if not known.all():
            missing = int(index[~known][0])
            raise UserError(f"cache {self.path} has no sequence {missing}: it holds {self.meta.num_sequences} others")
        return rows

    def shard(self, number: int) -> Arrays:
        """Map one shard, after its checksum was verified once in this process."""
        if number not in self._mapped:
            self._mapped[number] = self.arrays(shard_name(number))
        return self._mapped[number]

    def arrays(self, name: str) -> Arrays:
        """Map a file's arrays, after its checksum was verified once in this process.

        Raises:
            UserError: the file is not what the description says; names it.
        """
        verify(self.path, name, self.meta.files[name])
        return map_arrays(self.path / name)

    def read(self, name: str, index: Indices) -> npt.NDArray[np.generic]:
        """Return one array's rows of these sequences, in the order asked for.

        Raises:
            UserError: the cache does not hold one of them, or a file is damaged.
        """
        rows = self.rows(index)
        values: npt.NDArray[np.generic] | None = None
        for places, inside, shard in self.parts(rows):
            if values is None:
                values = np.empty((len(rows), *shard[name].shape[1:]), dtype=shard[name].dtype)
            values[places] = shard[name][inside]
        assert values is not None, "at least one sequence is asked for"
        return values

    def parts(self, rows: Indices) -> Iterator[tuple[Indices, Indices, Arrays]]:
        """Group rows by shard: their places in `rows`, their places in the shard, and the shard."""
        numbers = rows // self.meta.shard_size
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            yield places, rows[places] % self.meta.shard_size, self.shard(int(number))


def key_of(kind: str, ingredients: Mapping[str, Scalar]) -> str:
    """Hash what a cache is made from."""
    return hashlib.sha256(json.dumps([FORMAT, kind, dict(sorted(ingredients.items()))]).encode()).hexdigest()[:16]


def cache_path(results: Results, kind: str, ingredients: Mapping[str, Scalar]) -> Path:
    """Return a cache's folder."""
    return results.cache / f"{kind}-{key_of(kind, ingredients)}"


def shard_name(number: int) -> str:
    """Return a shard's file name."""
    return f"shard-{number:05d}.safetensors"


def open_store(results: Results, kind: str, ingredients: Mapping[str, Scalar]) -> Store | None:
    """Map a finished cache of these ingredients, None if there is none.

    Sizes are checked here, a file's checksum when it is first mapped.

    Raises:
        UserError: a file is not what the description says, or the cache is made from something else; names it.
    """
    path = cache_path(results, kind, ingredients)
    if not (path / "meta.json").exists() and not results.fetch(path):
        return None
    meta = read_meta(path)
    check_ingredients(path, meta, kind, ingredients)
    if not meta.complete:
        return None
    for name, file in meta.files.items():
        problem = file.size_problem_at(path / name)
        if problem is not None:
            refuse(path, name, problem)
    store = Store(path=path, meta=meta, sequences=None)
    if "sequences.safetensors" not in meta.files:
        return store
    return Store(path=path, meta=meta, sequences=np.array(store.arrays("sequences.safetensors")["index"]))


def check_ingredients(path: Path, meta: Meta, kind: str, asked: Mapping[str, Scalar]) -> None:
    """Refuse a cache that is made from something else, by the first ingredient that differs."""
    wanted, held = {"kind": kind, **asked}, {"kind": meta.kind, **meta.ingredients}
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            refuse(path, None, f"is of another {name}: asked for {wanted.get(name)!r}, it holds {held.get(name)!r}")


@contextmanager
def building(results: Results, name: str, *, timeout_s: float = -1.0) -> Iterator[None]:
    """Hold a cache's lock: one process builds or removes, others wait. The system frees a dead owner's lock.

    Args:
        results: where it is.
        name: the cache's, as its folder is called.
        timeout_s: how long to wait; without limit if negative.

    Raises:
        UserError: another process still holds it after `timeout_s`, and which; or the lock cannot be written.
    """
    try:
        with lock.held(results.cache_locks, name, doing="built", timeout_s=timeout_s):
            yield
    except lock.LockedError as error:
        raise UserError(f"cache {results.cache / name} is in use: {error}") from None
