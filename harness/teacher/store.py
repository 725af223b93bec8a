"""What all teacher caches share: a sealed description, checksummed shards, one builder at a time, mapped reading.

A cache is a folder `<kind>-<key>`, the key a hash of what it is made from. It holds `meta.json` (sealed by its own
checksum; it says `complete` only after everything else is on disk) and safetensors files: shards of a fixed number of
sequences, and extras. While it is being built, each whole shard has a sealed `.json` beside it, by which a later
builder knows what it may keep.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.config.errors import UserError
from harness.records.layout import Results
from harness.teacher.files import (
    FORMAT,
    Arrays,
    File,
    Indices,
    Meta,
    Scalar,
    file_problem,
    map_arrays,
    read_meta,
    read_sealed,
    refuse,
    size_problem,
    unfinished_files,
    verify,
    write_arrays,
    write_sealed,
)
from harness.teacher.lock import building
from harness.teacher.source import Source

# Has other processes make some shards, given by number, with `make_shards`; calls its second argument while it waits.
# It may leave some of them unmade.
Spread = Callable[[Sequence[int], Callable[[], None]], None]


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
        found: npt.NDArray[np.generic] | None = None
        for places, inside, shard in self.parts(rows):
            if found is None:
                found = np.empty((len(rows), *shard[name].shape[1:]), dtype=shard[name].dtype)
            found[places] = shard[name][inside]
        assert found is not None, "at least one sequence is asked for"
        return found

    def parts(self, rows: Indices) -> Iterator[tuple[Indices, Indices, Arrays]]:
        """Group rows by shard: their places in `rows`, their places in the shard, and the shard."""
        numbers = rows // self.meta.shard_size
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            yield places, rows[places] % self.meta.shard_size, self.shard(int(number))


def key_of(kind: str, ingredients: Mapping[str, Scalar]) -> str:
    """Hash what a cache is made from."""
    return hashlib.sha256(json.dumps([FORMAT, kind, dict(sorted(ingredients.items()))]).encode()).hexdigest()[:16]


def shard_name(number: int) -> str:
    """Return a shard's file name."""
    return f"shard-{number:05d}.safetensors"


def open_store(folder: Path, kind: str, ingredients: Mapping[str, Scalar]) -> Store | None:
    """Map a finished cache of these ingredients, None if there is none.

    Sizes are checked here, a file's checksum when it is first mapped.

    Raises:
        UserError: a file is not what the description says, or the cache is made from something else; names it.
    """
    path = folder / f"{kind}-{key_of(kind, ingredients)}"
    if not (path / "meta.json").exists() and not Results.at(folder.parent).fetch(path):
        return None
    meta = read_meta(path)
    _check_ingredients(path, meta, kind, ingredients)
    if not meta.complete:
        return None
    for name, file in meta.files.items():
        problem = size_problem(path, name, file)
        if problem is not None:
            refuse(path, name, problem)
    store = Store(path=path, meta=meta, sequences=None)
    if "sequences.safetensors" not in meta.files:
        return store
    return Store(path=path, meta=meta, sequences=np.array(store.arrays("sequences.safetensors")["index"]))


def build_store(
    folder: Path,
    kind: str,
    ingredients: Mapping[str, Scalar],
    make: Callable[[Indices], dict[str, Tensor]],
    *,
    source: Source,
    batch_size: int,
    shard_size: int,
    extras: Mapping[str, dict[str, Tensor]] | None = None,
    on_shard: Callable[[int], None] | None = None,
    spread: Spread | None = None,
) -> Store:
    """Build a cache, or continue a build that was cut off, or wait for another process that builds it.

    Args:
        folder: where caches live.
        kind: hidden, scores, sampled or topk.
        ingredients: everything the content depends on.
        make: computes the arrays of a shard from the indices of its sequences.
        source: the teacher and the sequences to hold.
        batch_size: sequences that `make` computes at once.
        shard_size: sequences per shard, rounded up to whole batches; a continued build keeps its own.
        extras: files beside the shards, by stem.
        on_shard: called with the number of sequences done when a shard is there.
        spread: lets other processes make shards first; what they leave is made here.

    Raises:
        UserError: the folder holds something else or damage, or cannot be written to; names the file.
    """
    sequences = source.sequences
    if not len(sequences):
        raise UserError(f"a {kind} cache of no sequences was asked for")
    name = f"{kind}-{key_of(kind, ingredients)}"
    path = folder / name
    with building(folder, name):
        found = open_store(folder, kind, ingredients)
        if found is not None:
            return found
        meta = Meta(
            kind=kind,
            key=key_of(kind, ingredients),
            ingredients=dict(ingredients),
            about=dict(source.about),
            versions={library: version(library) for library in ("torch", "transformers", "numpy")},
            num_sequences=len(sequences),
            num_tokens=source.num_tokens,
            shard_size=-(-shard_size // batch_size) * batch_size,
            complete=False,
            files={},
        )
        if (path / "meta.json").exists():
            meta = meta.model_copy(update={"shard_size": read_meta(path).shard_size})
        else:
            write_sealed(path / "meta.json", meta)
        for litter in path.glob(".*.partial"):
            litter.unlink()
        parts = _parts(sequences, meta.shard_size)
        tell = on_shard or (lambda _: None)
        missing = [] if spread is None else [number for number in range(len(parts)) if _kept(path, number) is None]
        if spread is not None and len(missing) > 1:
            spread(missing, lambda: tell(min(len(unfinished_files(path)) * meta.shard_size, len(sequences))))
        files: dict[str, File] = {}
        for number, part in enumerate(parts):
            # What was written a moment ago is not read again for its checksum.
            kept = _kept(path, number, whole=number not in missing)
            files[shard_name(number)] = kept or _make_shard(path, number, make, part)
            tell(number * meta.shard_size + len(part))
        given = dict(extras or {}) | ({} if source.only is None else {"sequences": {"index": _tensor(sequences)}})
        for stem, arrays in given.items():
            files[f"{stem}.safetensors"] = write_arrays(path / f"{stem}.safetensors", arrays)
        write_sealed(path / "meta.json", meta.model_copy(update={"complete": True, "files": files}))
        for beside in path.glob("shard-*.json"):
            beside.unlink()
        Results.at(folder.parent).offer(path)
    finished = open_store(folder, kind, ingredients)
    assert finished is not None
    return finished


def make_shards(
    folder: Path,
    kind: str,
    ingredients: Mapping[str, Scalar],
    make: Callable[[Indices], dict[str, Tensor]],
    *,
    source: Source,
    numbers: Sequence[int],
) -> None:
    """Make some shards of a cache that another process is building and waits for.

    Args:
        folder: where caches live.
        kind: as in `build_store`.
        ingredients: as in `build_store`.
        make: as in `build_store`.
        source: as in `build_store`.
        numbers: which shards.

    Raises:
        UserError: nobody is building that cache, or it cannot be written to.
    """
    path = folder / f"{kind}-{key_of(kind, ingredients)}"
    meta = read_meta(path)
    _check_ingredients(path, meta, kind, ingredients)
    parts = _parts(source.sequences, meta.shard_size)
    for number in numbers:
        if _kept(path, number) is None:
            _make_shard(path, number, make, parts[number])


def _parts(sequences: Indices, shard_size: int) -> list[Indices]:
    return [sequences[start : start + shard_size] for start in range(0, len(sequences), shard_size)]


def _make_shard(path: Path, number: int, make: Callable[[Indices], dict[str, Tensor]], part: Indices) -> File:
    started = time.perf_counter()
    made = write_arrays(path / shard_name(number), make(part))
    made = made.model_copy(update={"build_s": time.perf_counter() - started})
    write_sealed(_beside(path, number), made)
    return made


def _beside(path: Path, number: int) -> Path:
    return path / f"shard-{number:05d}.json"


def _check_ingredients(path: Path, meta: Meta, kind: str, asked: Mapping[str, Scalar]) -> None:
    wanted, held = {"kind": kind, **asked}, {"kind": meta.kind, **meta.ingredients}
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            refuse(path, None, f"is of another {name}: asked for {wanted.get(name)!r}, it holds {held.get(name)!r}")


def _kept(path: Path, number: int, *, whole: bool = True) -> File | None:
    """Return what another builder finished, None if the shard has to be made; `whole` reads all of it."""
    try:
        file = read_sealed(_beside(path, number), File)
    except (OSError, ValueError):
        return None
    problem = (file_problem if whole else size_problem)(path, shard_name(number), file)
    return None if problem else file


def _tensor(array: Indices) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
