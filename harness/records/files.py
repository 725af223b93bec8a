"""Files that are there whole or not at all, also after a crash, and JSON that carries a checksum of itself."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from harness.config.errors import UserError

_HOST = re.sub(r"\W", "_", socket.gethostname())
# What a writer that was killed leaves behind, see `temporary`.
_LITTER = re.compile(rf"^\..+\.{_HOST}-(\d+)\.(?:partial|retired)$")

M = TypeVar("M", bound=BaseModel)


class Sealed(BaseModel):
    """A value that is stored with a checksum of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class File(Sealed):
    """Size and checksum of a file, and how long making it took."""

    bytes: int
    sha256: str
    build_s: float = 0.0

    def problem_at(self, path: Path) -> str | None:
        """Say what is wrong with the file at a path, read anew; None if nothing is."""
        return self.size_problem_at(path) or (
            None if checksum(path) == self.sha256 else "is damaged: its checksum is wrong"
        )

    def size_problem_at(self, path: Path) -> str | None:
        """Say whether the file at a path is missing, shorter or longer than it was written; None if it is not."""
        size = path.stat().st_size if path.exists() else 0
        return None if size == self.bytes else f"has {size} bytes instead of {self.bytes}"


def temporary(path: Path, kind: Literal["partial", "retired"] = "partial") -> Path:
    """Return a name beside a path that says whose it is, for what is not whole yet or not needed any more."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.{kind}")


@contextmanager
def written(path: Path, *, first_stays: bool = False) -> Iterator[Path]:
    """Write a file or a folder under a temporary name; on leaving it takes its place, flushed to the disk.

    A reader sees all of it or what was there before. A block that raises leaves nothing behind.

    Args:
        path: where it belongs; its folder is created.
        first_stays: what another process has written there in the meantime stays, and this is dropped: for content that
            is the same whoever writes it. Without it a folder may not be there yet.

    Yields:
        The temporary name, in the same folder.

    Raises:
        UserError: it cannot be written (a full disk, a quota, permissions); names the path and the reason.
    """
    partial = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_litter(path.parent)
        yield partial
        if partial.is_dir():
            for inside in partial.iterdir():
                _sync(inside)
        _sync(partial)
        if not _take_place(partial, path) and not first_stays:
            raise FileExistsError(errno.EEXIST, "it is there already")
        _sync(path.parent)
    except OSError as error:
        _discard(partial)
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    except BaseException:
        _discard(partial)
        raise


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all.

    Raises:
        UserError: it cannot be written; names the path and the reason.
    """
    with written(path) as partial:
        partial.write_text(text, encoding="utf-8")


def clear_litter(folder: Path) -> None:
    """Remove what writers of this machine that are dead left in a folder under temporary names."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        writer = _LITTER.match(path.name)
        if writer and not _lives(int(writer[1])):
            _discard(path)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sealed(content: Mapping[str, Any]) -> str:
    """Return JSON of a mapping with a checksum of its content in it."""
    return _rendered({**content, "checksum": _checksum(content)})


def unsealed(text: str, *, required: bool = False) -> dict[str, Any]:
    """Return what was sealed.

    Args:
        text: what `sealed` returned.
        required: refuse a mapping without a checksum; otherwise it is taken as it is.

    Raises:
        ValueError: it is no mapping, or not what was sealed.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it is not a mapping")
    inner = {key: value for key, value in content.items() if key != "checksum"}
    if inner == content and not required:
        return inner
    # Compared as text too: not even a changed blank passes.
    if content.get("checksum") != _checksum(inner) or text != _rendered(content):
        raise ValueError("it is damaged: its checksum is wrong")
    return inner


def write_sealed(path: Path, model: BaseModel) -> None:
    """Write a value with its checksum.

    Raises:
        UserError: it cannot be written; names the path and the reason.
    """
    write_text(path, sealed(json.loads(model.model_dump_json())))


def read_sealed(path: Path, kind: type[M]) -> M:
    """Read a value that was written with its checksum.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not what was written, to the byte.
    """
    return kind.model_validate(unsealed(path.read_text(encoding="utf-8"), required=True))


def _rendered(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _take_place(partial: Path, path: Path) -> bool:
    try:
        partial.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _discard(partial)
        return False
    return True


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
