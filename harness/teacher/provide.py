"""The one way to something stored: opened if it is there, else built, by one process at a time or by several together.

While a cache is being built, each whole shard has a sealed `.json` beside it, by which a later builder knows what it
may keep.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

import torch

from harness.config.arithmetic import described
from harness.config.errors import UserError
from harness.records.files import File, read_sealed, write_sealed
from harness.records.layout import Results
from harness.teacher.files import (
    Indices,
    Meta,
    read_meta,
    unfinished_files,
    write_arrays,
)
from harness.teacher.kind import KINDS, Kind, Read
from harness.teacher.source import Source
from harness.teacher.store import (
    Store,
    building,
    cache_path,
    check_ingredients,
    key_of,
    open_store,
    shard_name,
)

A = TypeVar("A")

# (what is being built, sequences done, sequences in all)
Progress = Callable[[str, int, int], None]

# Makes some shards, given by number.
Make = Callable[[Sequence[int]], None]

# Has other processes make shards of something (what, in words), each process some; calls the last argument while it
# waits. It may leave some of them unmade.
Spread = Callable[[str, Make, Sequence[int], Callable[[], None]], None]


@dataclass(frozen=True, kw_only=True)
class Stored(Generic[Read]):
    """Something stored, whole and mapped.

    Attributes:
        store: its files.
        read: reads it, as its kind does.
        built: whether this call made it, rather than finding it.
    """

    store: Store
    read: Read
    built: bool

    @property
    def num_bytes(self) -> int:
        """Size of its files."""
        return self.store.meta.num_bytes

    @property
    def build_s(self) -> float:
        """Seconds that building took, whoever did it."""
        return self.store.meta.build_s


def open_stored(kind: Kind[A, Read], source: Source, results: Results) -> Stored[Read] | None:
    """Map what is stored, None if it is not.

    Raises:
        UserError: a file is not what its description says, or the cache is of something else; names it.
    """
    part = kind.serves_part and source.only is not None
    for each in (replace(source, only=None), source) if part else (source,):
        store = open_store(results, kind.name, kind.ingredients(each))
        if store is not None:
            return Stored(store=store, read=kind.reader(store), built=False)
    return None


def provide(
    kind: Kind[A, Read],
    source: Source,
    asked: Callable[[], A],
    *,
    results: Results,
    batch_size: int,
    shard_size: int | None = None,
    on_progress: Progress | None = None,
    spread: Spread | None = None,
) -> Stored[Read]:
    """Map what is stored; build it if it is missing, continue a build that was cut off, or wait for who builds it.

    Args:
        kind: what is wanted.
        source: the data set it is of.
        asked: returns what it is made with; called only where something has to be computed.
        results: where it is kept.
        batch_size: sequences that are computed at once. The same as in training makes cached and online runs
            bit-identical on a CPU; matrix products of another shape may round differently.
        shard_size: sequences per file, the kind's own if None; rounded up to whole batches. A continued build keeps
            its own.
        on_progress: told of the building.
        spread: lets other processes make shards first, for which `kind`, `source` and `asked` are sent to them; what
            they leave is made here.

    Raises:
        UserError: a folder holds something else or damage, or cannot be written to; names the file.
    """
    stored = open_stored(kind, source, results)
    if stored is not None:
        return stored
    assert kind.name in KINDS, "or `harness cache` would not show it"
    if not len(source.sequences):
        raise UserError(f"a {kind.name} cache of no sequences was asked for")
    builder = _Builder(kind, source, asked, cache_path(results, kind.name, kind.ingredients(source)))
    with building(results, builder.path.name):
        stored = open_stored(kind, source, results)
        if stored is not None:
            return stored
        builder.build(-(-(shard_size or kind.shard_size or 1) // batch_size) * batch_size, on_progress, spread)
        results.offer(builder.path)
    stored = open_stored(kind, source, results)
    assert stored is not None
    return replace(stored, built=True)


@dataclass(frozen=True)
class _Builder(Generic[A, Read]):
    """What builds one cache in its folder."""

    kind: Kind[A, Read]
    source: Source
    asked: Callable[[], A]
    path: Path

    @functools.cached_property
    def models(self) -> A:
        """What it is made with, in this process."""
        return self.asked()

    def build(self, shard_size: int, on_progress: Progress | None, spread: Spread | None) -> None:
        """Make what is missing, and seal the whole."""
        meta = self.begin(shard_size)
        files = self.shards(meta.shard_size, on_progress, spread)
        if self.source.only is not None:
            index = {"index": torch.from_numpy(self.source.sequences)}
            files["sequences.safetensors"] = write_arrays(self.path / "sequences.safetensors", index)
        write_sealed(self.path / "meta.json", meta.model_copy(update={"complete": True, "files": files}))
        for beside in self.path.glob("shard-*.json"):
            beside.unlink()

    def begin(self, shard_size: int) -> Meta:
        """Describe what is being built, or read what an earlier builder said, and clear away what it half wrote."""
        ingredients, of_sequences = self.kind.ingredients(self.source), self.kind.shard_size is not None
        meta = Meta(
            kind=self.kind.name,
            key=key_of(self.kind.name, ingredients),
            ingredients=ingredients,
            about=dict(self.source.about),
            versions={library: version(library) for library in ("torch", "transformers", "numpy")}
            | {"arithmetic": described()},
            num_sequences=len(self.source.sequences) if of_sequences else 0,
            num_tokens=self.source.num_tokens if of_sequences else 0,
            shard_size=shard_size,
            complete=False,
            files={},
        )
        if (self.path / "meta.json").exists():
            meta = meta.model_copy(update={"shard_size": read_meta(self.path).shard_size})
        else:
            write_sealed(self.path / "meta.json", meta)
        for litter in self.path.glob(".*.partial"):
            litter.unlink()
        return meta

    def shards(self, shard_size: int, on_progress: Progress | None, spread: Spread | None) -> dict[str, File]:
        """Make the shards that are missing; return all, by name."""
        parts, source = self.parts(shard_size), self.source
        what = f"{self.kind.title}, {source.about.get('data', '')}"
        done = _Done(on_progress, what, len(source.sequences))
        missing = [] if spread is None else [number for number in range(len(parts)) if self.kept(number) is None]
        if spread is not None and missing:
            elsewhere = replace(self, path=self.path.resolve())
            spread(what, elsewhere.make_some, missing, lambda: done.tell(len(unfinished_files(self.path)) * shard_size))
        files: dict[str, File] = {}
        for number, part in enumerate(parts):
            first = number * shard_size
            # What was written a moment ago is not read again for its checksum.
            kept = self.kept(number, whole=number not in missing)
            files[shard_name(number)] = kept or self.make(number, part, functools.partial(done.beyond, first))
            done.tell(first + len(part))
        return files

    def make_some(self, numbers: Sequence[int]) -> None:
        """Make some shards of a cache that another process is building and waits for.

        Raises:
            UserError: nobody is building that cache, or it cannot be written to.
        """
        meta = read_meta(self.path)
        check_ingredients(self.path, meta, self.kind.name, self.kind.ingredients(self.source))
        parts = self.parts(meta.shard_size)
        for number in numbers:
            if self.kept(number) is None:
                self.make(number, parts[number], lambda _: None)

    def parts(self, shard_size: int) -> list[Indices]:
        """Return the sequences of each shard."""
        every = self.source.sequences
        size = shard_size if self.kind.shard_size is not None else len(every)
        return [every[start : start + size] for start in range(0, len(every), size)]

    def make(self, number: int, part: Indices, on_batch: Callable[[int], None]) -> File:
        """Make a shard."""
        started = time.perf_counter()
        with torch.no_grad():
            arrays = self.kind.make(self.source, self.models, part, on_batch)
        file = write_arrays(self.path / shard_name(number), arrays)
        file = file.model_copy(update={"build_s": time.perf_counter() - started})
        write_sealed(self._beside(number), file)
        return file

    def kept(self, number: int, *, whole: bool = True) -> File | None:
        """Return what another builder finished, None if the shard has to be made; `whole` reads all of it."""
        try:
            file = read_sealed(self._beside(number), File)
        except (OSError, ValueError):
            return None
        place = self.path / shard_name(number)
        problem = file.problem_at(place) if whole else file.size_problem_at(place)
        return None if problem else file

    def _beside(self, number: int) -> Path:
        return self.path / f"shard-{number:05d}.json"


class _Done:
    """Counts sequences, from batches inside a shard as from whole shards, and never back."""

    def __init__(self, on_progress: Progress | None, what: str, total: int) -> None:
        self._on_progress, self._what, self._total, self._count = on_progress, what, total, 0

    def tell(self, count: int) -> None:
        """Say that `count` sequences are done in all."""
        count = min(count, self._total)
        if self._on_progress is not None and count > self._count:
            self._on_progress(self._what, count, self._total)
        self._count = max(self._count, count)

    def beyond(self, first: int, count: int) -> None:
        """Say that `count` sequences are done after the first ones."""
        self.tell(first + count)
