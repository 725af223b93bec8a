"""What all teacher caches share: a sealed description, checksummed shards, one builder at a time, mapped reading.

A cache is a folder `<kind>-<key>`, the key a hash of what it is made from. It holds `meta.json` (sealed by its own
checksum; it says `complete` only after everything else is on disk) and safetensors files: shards of a fixed number of
sequences, and extras. While it is being built, each whole shard has a sealed `.json` beside it, by which a later
builder knows what it may keep.
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save
from torch import Tensor

from harness.errors import UserError
from harness.results import write_json

Scalar = bool | int | float | str
Arrays = dict[str, npt.NDArray[Any]]
Indices = npt.NDArray[np.int64]

FORMAT = 1

# numpy has no bfloat16: its bits are mapped as uint16.
_STORED = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "U8": np.uint8,
}

# Files whose checksum this process has found right, as they were then.
_VERIFIED: set[tuple[Path, str, int, int, int]] = set()


class _Sealed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


M = TypeVar("M", bound=_Sealed)


class File(_Sealed):
    """Size and checksum of a file, and how long making it took."""

    bytes: int
    sha256: str
    build_s: float = 0.0


class Meta(_Sealed):
    """What a cache is.

    Attributes:
        kind: hidden, sampled or topk.
        key: hash of the ingredients, see `key_of`.
        ingredients: everything its content depends on; asked for again whenever it is opened.
        about: what its ingredients are called where it was built; not part of its identity.
        versions: of the libraries it was built with; not part of its identity.
        num_sequences: sequences it holds.
        num_tokens: tokens of those sequences.
        shard_size: sequences per shard.
        complete: whether every file is there.
        files: every file but this one.
    """

    format: int = FORMAT
    kind: str
    key: str
    ingredients: dict[str, Scalar]
    about: dict[str, str]
    versions: dict[str, str]
    num_sequences: int
    num_tokens: int
    shard_size: int
    complete: bool
    files: dict[str, File]

    @property
    def num_bytes(self) -> int:
        """Size of all files but this one."""
        return sum(file.bytes for file in self.files.values())

    @property
    def bytes_per_token(self) -> float:
        """Size of the shards by the tokens they stand for; extras (a head) do not grow with the data."""
        return sum(file.bytes for name, file in self.files.items() if name.startswith("shard-")) / self.num_tokens

    @property
    def build_s(self) -> float:
        """Seconds that building took, interruptions not counted."""
        return sum(file.build_s for file in self.files.values())


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
        _verify(self.path, name, self.meta.files[name])
        return _map(self.path / name)

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
    if not (path / "meta.json").exists():
        return None
    meta = read_meta(path)
    _check_ingredients(path, meta, kind, ingredients)
    if not meta.complete:
        return None
    for name, file in meta.files.items():
        problem = _size_problem(path, name, file)
        if problem is not None:
            _refuse(path, name, problem)
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
    sequences: Indices,
    whole: bool,
    num_tokens: int,
    extras: Mapping[str, dict[str, Tensor]],
    about: Mapping[str, str],
    shard_size: int,
    on_shard: Callable[[int], None] | None = None,
) -> Store:
    """Build a cache, or continue a build that was cut off, or wait for another process that builds it.

    Args:
        folder: where caches live.
        kind: hidden, sampled or topk.
        ingredients: everything the content depends on.
        make: computes the arrays of a shard from the indices of its sequences.
        sequences: which sequences of the data set to hold, ascending.
        whole: whether those are all of it.
        num_tokens: tokens of those sequences.
        extras: files beside the shards, by stem.
        about: what the ingredients are called, for people.
        shard_size: sequences per shard; a continued build keeps its own.
        on_shard: called with the number of sequences done when a shard is there.

    Raises:
        UserError: the folder holds something else or damage, or cannot be written to; names the file.
    """
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
            about=dict(about),
            versions={library: version(library) for library in ("torch", "transformers", "numpy")},
            num_sequences=len(sequences),
            num_tokens=num_tokens,
            shard_size=shard_size,
            complete=False,
            files={},
        )
        if (path / "meta.json").exists():
            meta = meta.model_copy(update={"shard_size": read_meta(path).shard_size})
        else:
            _write_sealed(path / "meta.json", meta)
        for litter in path.glob(".*.partial"):
            litter.unlink()
        files: dict[str, File] = {}
        for number, start in enumerate(range(0, len(sequences), meta.shard_size)):
            part = sequences[start : start + meta.shard_size]
            shard, beside = shard_name(number), path / f"shard-{number:05d}.json"
            kept = _kept(path, shard, beside)
            if kept is None:
                started = time.perf_counter()
                kept = _write_arrays(path / shard, make(part))
                kept = kept.model_copy(update={"build_s": time.perf_counter() - started})
                _write_sealed(beside, kept)
            files[shard] = kept
            if on_shard is not None:
                on_shard(start + len(part))
        given = dict(extras) if whole else {**extras, "sequences": {"index": _tensor(sequences)}}
        for stem, arrays in given.items():
            files[f"{stem}.safetensors"] = _write_arrays(path / f"{stem}.safetensors", arrays)
        _write_sealed(path / "meta.json", meta.model_copy(update={"complete": True, "files": files}))
        for beside in path.glob("shard-*.json"):
            beside.unlink()
    finished = open_store(folder, kind, ingredients)
    assert finished is not None
    return finished


@contextmanager
def building(folder: Path, name: str, *, timeout_s: float = -1.0) -> Iterator[None]:
    """Hold a cache's lock: one process builds or removes, others wait. The system frees a dead owner's lock.

    Args:
        folder: where caches live.
        name: the cache's folder name.
        timeout_s: how long to wait; without limit if negative.

    Raises:
        UserError: another process still holds it after `timeout_s`; names the process.
    """
    locks = folder / "locks"
    owner = locks / f"{name}.owner.json"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{name}.lock", timeout=timeout_s):
            write_json(owner, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
            try:
                yield
            finally:
                owner.unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"cache {folder / name} is in use: {owner_of(folder, name) or 'being built'}") from None


def owner_of(folder: Path, name: str) -> str | None:
    """Say who holds a cache's lock and for how long, None if nobody does (a dead owner holds nothing)."""
    lock = folder / "locks" / f"{name}.lock"
    if not lock.exists():
        return None
    try:
        with FileLock(lock, timeout=0):
            return None
    except Timeout:
        pass
    try:
        owner = json.loads((folder / "locks" / f"{name}.owner.json").read_text(encoding="utf-8"))
        return f"built by process {owner['pid']} on {owner['host']} for {time.time() - owner['since']:.0f} s"
    except (OSError, ValueError, KeyError, TypeError):
        return "being built"


def read_meta(path: Path) -> Meta:
    """Read a cache's description.

    Raises:
        UserError: it is damaged or of another version; names the file.
    """
    try:
        return _read_sealed(path / "meta.json", Meta)
    except (OSError, ValueError):
        _refuse(path, "meta.json", "is damaged or was written by another version")


def unfinished_files(path: Path) -> dict[str, File]:
    """Return the shards that an unfinished build says are whole."""
    found: dict[str, File] = {}
    for beside in sorted(path.glob("shard-*.json")):
        try:
            found[beside.with_suffix(".safetensors").name] = _read_sealed(beside, File)
        except (OSError, ValueError):
            continue
    return found


def file_problem(path: Path, name: str, file: File) -> str | None:
    """Say what is wrong with a file, read anew; None if nothing is."""
    return _size_problem(path, name, file) or (
        None if _sha256(path / name) == file.sha256 else "is damaged: its checksum is wrong"
    )


def _size_problem(path: Path, name: str, file: File) -> str | None:
    size = (path / name).stat().st_size if (path / name).exists() else 0
    return None if size == file.bytes else f"has {size} bytes instead of {file.bytes}"


def _verify(path: Path, name: str, file: File) -> None:
    """Refuse a file whose content is not what was written; looks once per process unless the file changed since."""
    state = (path / name).stat() if (path / name).exists() else None
    seen = None if state is None else (path / name, file.sha256, state.st_ino, state.st_mtime_ns, state.st_size)
    if seen in _VERIFIED:
        return
    problem = file_problem(path, name, file)
    if problem is not None:
        _refuse(path, name, problem)
    assert seen is not None
    _VERIFIED.add(seen)


def _check_ingredients(path: Path, meta: Meta, kind: str, asked: Mapping[str, Scalar]) -> None:
    wanted, held = {"kind": kind, **asked}, {"kind": meta.kind, **meta.ingredients}
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            _refuse(path, None, f"is of another {name}: asked for {wanted.get(name)!r}, it holds {held.get(name)!r}")


def _refuse(path: Path, name: str | None, what: str) -> NoReturn:
    place = f"cache {path}" if name is None else f"cache file {path / name}"
    results = path.parent.parent
    where = "" if results == Path("results") else f" --results {results}"
    raise UserError(f"{place} {what}; remove it with `harness cache rm {path.name}{where}` and run again")


def _kept(path: Path, shard: str, beside: Path) -> File | None:
    """Return what an earlier builder finished, None if the shard has to be made."""
    try:
        file = _read_sealed(beside, File)
    except (OSError, ValueError):
        return None
    return None if file_problem(path, shard, file) else file


def _write_arrays(path: Path, arrays: dict[str, Tensor]) -> File:
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in arrays.items()})
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cache file {path} cannot be written: {error.strerror}") from None
    return File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _map(path: Path) -> Arrays:
    raw = np.memmap(path, mode="r", dtype=np.uint8)
    first = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8:first].tobytes())
    header.pop("__metadata__", None)
    return {
        name: raw[first + entry["data_offsets"][0] : first + entry["data_offsets"][1]]
        .view(_STORED[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _tensor(array: Indices) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _rendered(model: _Sealed) -> str:
    payload = model.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
    return json.dumps({**payload, "checksum": digest}, indent=1, sort_keys=True)


def _write_sealed(path: Path, model: _Sealed) -> None:
    try:
        write_json(path, _rendered(model))
    except OSError as error:
        raise UserError(f"cache file {path} cannot be written: {error.strerror}") from None


def _read_sealed(path: Path, kind: type[M]) -> M:
    text = path.read_text(encoding="utf-8")
    payload = json.loads(text)
    if not isinstance(payload, dict) or payload.pop("checksum", None) is None:
        raise ValueError(f"{path} has no checksum")
    try:
        model = kind.model_validate(payload)
    except ValidationError as error:
        raise ValueError(str(error)) from None
    # Compared as text: not even a changed blank passes.
    if text != _rendered(model) + "\n":
        raise ValueError(f"{path} does not match its checksum")
    return model
