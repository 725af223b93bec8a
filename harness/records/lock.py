"""One process at a time: locks that go with their owner, so that nobody waits for the dead."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from harness.config.errors import UserError

_SECONDS_BETWEEN_SIGNS = 5.0


class LockedError(Exception):
    """Another process holds the lock; the message says which."""


@dataclass(kw_only=True)
class Held:
    """A lock while it is held.

    Attributes:
        owner: the file that says who holds it, for people; its time of change is the last sign of life.
    """

    owner: Path
    _last: float = 0.0

    def beat(self) -> None:
        """Give a sign of life; costs nothing when called more than once in a few seconds."""
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_SIGNS:
            self._last = time.monotonic()
            # Nobody's work depends on it: a lock is held by the system, not by this file.
            with suppress(OSError):
                os.utime(self.owner)


@contextmanager
def held(locks: Path, name: str, *, doing: str, timeout_s: float = -1.0) -> Iterator[Held]:
    """Hold a lock for the length of a block. The system frees a dead owner's lock, however it died.

    The lock's file stays, empty: one that waits has it open, and would take the file that was removed while another
    process takes a new one under the same name. Two would be in at once.

    Args:
        locks: the folder of locks.
        name: the lock's name.
        doing: what the holder does, for others to read: "built", "run".
        timeout_s: how long to wait; without limit if negative.

    Raises:
        LockedError: another process still holds it after `timeout_s`; says who and since when.
        UserError: the lock cannot be written.
    """
    owner, path = locks / f"{name}.owner.json", locks / f"{name}.lock"
    lock = FileLock(path, timeout=timeout_s)
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "doing": doing}
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise LockedError(owner_of(locks, name) or f"{doing} by another process") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    try:
        # Whom others read about is worth nothing more than a sentence: a disk too full for it is told elsewhere.
        with suppress(OSError):
            owner.write_text(json.dumps(who) + "\n", encoding="utf-8")
        yield Held(owner=owner)
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def owner_of(locks: Path, name: str) -> str | None:
    """Say who holds a lock, since when, and when it last gave a sign; None if nobody does (the dead hold nothing)."""
    path, owner = locks / f"{name}.lock", locks / f"{name}.owner.json"
    if not path.exists():
        return None
    try:
        with FileLock(path, timeout=0):
            return None
    except Timeout:
        pass
    try:
        who = json.loads(owner.read_text(encoding="utf-8"))
        now, sign = time.time(), owner.stat().st_mtime
        age = f"for {now - who['since']:.0f} s, last sign {max(now - sign, 0):.0f} s ago"
        return f"{who['doing']} by process {who['pid']} on {who['host']} {age}"
    except (OSError, ValueError, KeyError, TypeError):
        return "held by another process"
