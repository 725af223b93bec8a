"""What `harness cache` does: list, verify and remove teacher caches."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.config.errors import UserError, unknown
from harness.records.layout import Results
from harness.records.lock import owner_of
from harness.teacher.files import Meta, read_meta, unfinished_files
from harness.teacher.kind import KINDS
from harness.teacher.store import building


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """A cache's folder as it is on disk.

    Attributes:
        path: the folder.
        meta: its description, None if that cannot be read.
        state: complete, unfinished, being built (and by whom) or damaged.
        num_bytes: what it occupies on disk now.
    """

    path: Path
    meta: Meta | None
    state: str
    num_bytes: int

    @property
    def kind(self) -> str:
        """Kind of cache, by the folder's name."""
        return self.path.name.partition("-")[0]

    @property
    def key(self) -> str:
        """Key, by the folder's name."""
        return self.path.name.partition("-")[2]


def entries(results: Results) -> list[CacheEntry]:
    """Return every teacher cache under a folder of caches, by kind and age."""
    paths = [path for kind in KINDS for path in results.cache.glob(f"{kind}-*") if path.is_dir()]
    return [
        _entry(results, path)
        for path in sorted(paths, key=lambda path: (path.name.partition("-")[0], path.stat().st_mtime))
    ]


def remove_cache(results: Results, key: str) -> CacheEntry:
    """Remove a cache, so that the next run builds it again; processes that read it keep what they have mapped.

    Args:
        results: where they are.
        key: its key, or kind and key.

    Raises:
        UserError: a process is building it.
        UnknownNameError: no such cache; suggests the nearest.
    """
    entry = find(results, key)
    aside = results.cache / f".removed-{entry.path.name}-{os.getpid()}"
    with building(results, entry.path.name, timeout_s=0.0):
        try:
            # Aside first: a removal that is cut short leaves no half of a cache under its name.
            entry.path.rename(aside)
        except OSError as error:
            raise UserError(f"cache {entry.path} cannot be removed: {error.strerror}") from None
    shutil.rmtree(aside)
    return entry


def find(results: Results, key: str) -> CacheEntry:
    """Return a cache by its key, or kind and key.

    Raises:
        UnknownNameError: no such cache; suggests the nearest.
    """
    named = {name: entry for entry in entries(results) for name in (entry.key, entry.path.name)}
    if key not in named:
        raise unknown("cache", key, sorted(entry.key for entry in entries(results)))
    return named[key]


def _entry(results: Results, path: Path) -> CacheEntry:
    num_bytes = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    try:
        meta = read_meta(path)
    except UserError:
        meta = None
    if meta is not None and meta.complete:
        state = "complete"
    elif (owner := owner_of(results.cache_locks, path.name)) is not None:
        state = owner
    elif meta is None:
        state = "damaged, or of another version" if (path / "meta.json").exists() else "unfinished"
    else:
        done = min(meta.num_sequences, len(unfinished_files(path)) * meta.shard_size)
        state = f"unfinished: {done} of {meta.num_sequences} sequences" if meta.num_sequences else "unfinished"
    return CacheEntry(path=path, meta=meta, state=state, num_bytes=num_bytes)


def problems(entry: CacheEntry) -> list[str]:
    """Check the checksum of every file of a cache; return one line for each that is bad."""
    if entry.meta is None:
        return [f"{entry.path / 'meta.json'} {entry.state}"] if (entry.path / "meta.json").exists() else []
    files = entry.meta.files if entry.meta.complete else unfinished_files(entry.path)
    found = ((name, file.problem_at(entry.path / name)) for name, file in files.items())
    return [f"{entry.path / name} {problem}" for name, problem in found if problem is not None]
