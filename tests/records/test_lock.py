"""One process at a time: nobody enters beside the holder, whoever waited and however long."""

import fcntl
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from harness.records.lock import LockedError, held, owner_of

TIMES = 60


def enter_often(locks: str, inside: str) -> int:
    """Take the lock many times; return how often another process was in too."""
    met = 0
    for _ in range(TIMES):
        with held(Path(locks), "cache", doing="built"):
            try:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                met += 1
            time.sleep(0.001)
            Path(inside).unlink(missing_ok=True)
    return met


def test_two_never_enter_together(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.starmap(enter_often, [(str(tmp_path), str(tmp_path / "inside"))] * 3) == [0, 0, 0]


def test_who_waited_with_the_file_open_meets_the_next_holder(tmp_path: Path) -> None:
    with held(tmp_path, "cache", doing="built"):
        waiting = os.open(tmp_path / "cache.lock", os.O_RDWR)
    # Between its opening and its locking, the first holder has left and another has come.
    with held(tmp_path, "cache", doing="built"), pytest.raises(BlockingIOError):
        fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(LockedError), held(tmp_path, "cache", doing="built", timeout_s=0.0):
        pass
    os.close(waiting)


def test_who_holds_it_is_said_while_it_is_held(tmp_path: Path) -> None:
    assert owner_of(tmp_path, "trial") is None
    with held(tmp_path, "trial", doing="run") as mine:
        told = owner_of(tmp_path, "trial")
        assert told is not None
        assert told.startswith(f"run by process {os.getpid()} on ")
        os.utime(mine.owner, (0, 0))
        mine.beat()
        assert mine.owner.stat().st_mtime > time.time() - 60
    assert owner_of(tmp_path, "trial") is None
    assert [path.name for path in tmp_path.iterdir()] == ["trial.lock"], "the lock's file stays, the note goes"
