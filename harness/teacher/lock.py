"""One builder of a cache at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.config.errors import UserError
from harness.records import lock


@contextmanager
def building(folder: Path, name: str, *, timeout_s: float = -1.0) -> Iterator[None]:
    """Hold a cache's lock: one process builds or removes, others wait. The system frees a dead owner's lock.

    Args:
        folder: where caches live.
        name: the cache's folder name.
        timeout_s: how long to wait; without limit if negative.

    Raises:
        UserError: another process still holds it after `timeout_s`, and which; or the lock cannot be written.
    """
    try:
        with lock.held(folder / "locks", name, doing="built", timeout_s=timeout_s):
            yield
    except lock.LockedError as error:
        raise UserError(f"cache {folder / name} is in use: {error}") from None


def owner_of(folder: Path, name: str) -> str | None:
    """Say who holds a cache's lock and for how long, None if nobody does (a dead owner holds nothing)."""
    return lock.owner_of(folder / "locks", name)
