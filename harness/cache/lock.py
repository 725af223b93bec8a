"""One builder at a time: a lock that goes with its owner."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.results import write_json


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
