"""A cache's files: sealed descriptions, safetensors that are written whole, mapped, and verified by their checksums."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import numpy as np
import numpy.typing as npt
from safetensors.torch import save
from torch import Tensor

from harness.config.base import Scalar
from harness.config.errors import UserError
from harness.records.files import File, Sealed, read_sealed, written

Arrays = dict[str, npt.NDArray[Any]]
Indices = npt.NDArray[np.int64]

FORMAT: Final = 2

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


class Meta(Sealed):
    """What a cache is.

    Attributes:
        kind: see `harness.teacher.kind.KINDS`.
        key: hash of the ingredients, see `key_of`.
        ingredients: everything its content depends on; asked for again whenever it is opened.
        about: what its ingredients are called where it was built; not part of its identity.
        versions: of the libraries it was built with; not part of its identity.
        num_sequences: sequences it holds; 0 if it is not of sequences, like a head.
        num_tokens: tokens of those sequences.
        shard_size: sequences per shard.
        complete: whether every file is there.
        files: every file but this one.
    """

    format: Literal[2] = FORMAT
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


def read_meta(path: Path) -> Meta:
    """Read a cache's description.

    Raises:
        UserError: it is damaged or of another version; names the file.
    """
    try:
        return read_sealed(path / "meta.json", Meta)
    except (OSError, ValueError):
        refuse(path, "meta.json", "is damaged or was written by another version")


def unfinished_files(path: Path) -> dict[str, File]:
    """Return the shards that an unfinished build says are whole."""
    files: dict[str, File] = {}
    for beside in sorted(path.glob("shard-*.json")):
        try:
            files[beside.with_suffix(".safetensors").name] = read_sealed(beside, File)
        except (OSError, ValueError):
            continue
    return files


def verify(path: Path, name: str, file: File) -> None:
    """Refuse a file whose content is not what was written; looks once per process unless the file changed since.

    Raises:
        UserError: the file is damaged; names it.
    """
    state = (path / name).stat() if (path / name).exists() else None
    seen = None if state is None else (path / name, file.sha256, state.st_ino, state.st_mtime_ns, state.st_size)
    if seen in _VERIFIED:
        return
    problem = file.problem_at(path / name)
    if problem is not None:
        refuse(path, name, problem)
    assert seen is not None
    _VERIFIED.add(seen)


def write_arrays(path: Path, arrays: dict[str, Tensor]) -> File:
    """Write a file that is there as a whole or not at all, also after a crash."""
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in arrays.items()})
    with written(path) as partial:
        partial.write_bytes(content)
    return File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def map_arrays(path: Path) -> Arrays:
    """Map the arrays of a safetensors file, read-only."""
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


def refuse(path: Path, name: str | None, what: str) -> NoReturn:
    """Raise the error of a cache, or of one of its files, with what to do about it."""
    place = f"cache {path}" if name is None else f"cache file {path / name}"
    results = path.parent.parent
    where = "" if results == Path("results") else f" --results {results}"
    raise UserError(f"{place} {what}; remove it with `harness cache rm {path.name}{where}` and run again")
