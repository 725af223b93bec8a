"""Files that are there whole or not at all, also after a crash, and JSON that carries a checksum of itself."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from harness.config.errors import UserError

_HOST = re.sub(r"\W", "_", socket.gethostname())
# What a writer that was killed leaves behind, see `temporary`.
_LITTER = re.compile(rf"^\..+\.{_HOST}-(\d+)\.(?:partial|retired)$")


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


def write_json(path: Path, payload: str) -> None:
    """Write text to `path`, whole or not at all.

    Raises:
        UserError: it cannot be written; names the path and the reason.
    """
    with written(path) as partial:
        partial.write_text(payload + "\n", encoding="utf-8")


def clear_litter(folder: Path) -> None:
    """Remove what writers of this machine that are dead left in a folder under temporary names."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        found = _LITTER.match(path.name)
        if found and not _lives(int(found[1])):
            _discard(path)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sealed(payload: str) -> str:
    """Return a JSON mapping with a checksum of its content in it."""
    content = json.loads(payload)
    return json.dumps({**content, "checksum": _checksum(content)}, indent=1, ensure_ascii=False)


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return a parsed mapping without its checksum; one that has none is taken as it is.

    Raises:
        ValueError: the content is not what was sealed.
    """
    inner = {key: value for key, value in content.items() if key != "checksum"}
    if "checksum" in content and content["checksum"] != _checksum(inner):
        raise ValueError("it is damaged: its checksum is wrong")
    return inner


def _checksum(content: dict[str, Any]) -> str:
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
