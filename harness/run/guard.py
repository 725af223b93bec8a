"""How a run ends: Ctrl-C stops it with checkpoints, and a small process ends what it started once it is gone.

Ray's own processes and workers notice a killed driver after a second to a minute, each in its own way, and some never.
The guard reads from a pipe whose other end only the driver holds: however the driver dies, the pipe closes. Everything
that was started with the run's mark in its environment is then killed, and the run's scratch folder removed.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

MARK = "HARNESS_RUN"
_SECONDS_TO_END = 10.0
# A scheduler that takes a machine away sends SIGTERM first.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHELL_SAYS = 128
_FIRST_LOOK_S, _SECONDS_BETWEEN_LOOKS = 0.5, 60.0


@dataclass
class Interruption:
    """What has come from outside to end a run.

    Attributes:
        code: what a shell says of a process that ended by it: 130 of Ctrl-C, 143 of SIGTERM; None if nothing came.
    """

    code: int | None = None


@contextmanager
def interruptible(stop: Path, say: Callable[[str], None]) -> Iterator[Interruption]:
    """Turn the first interruption into a file that the workers look for, and the second into KeyboardInterrupt.

    To be entered once Ray runs: it installs handlers of its own, in Python and in C++, and the last one holds.

    Args:
        stop: the file.
        say: told of the first interruption.
    """
    interruption = Interruption()

    def interrupted(number: int, _frame: FrameType | None) -> None:
        if stop.exists():
            raise KeyboardInterrupt
        stop.touch()
        interruption.code = _SHELL_SAYS + number
        say("Stopping: every running trial takes its step to the end and saves its state. Again: stop at once.")

    before = {number: signal.signal(number, interrupted) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deaf() -> Iterator[None]:
    """Have the processes that are started inside the block never hear SIGTERM.

    A batch system, or `timeout`, tells every process of a job that the time is up; it is the driver that answers.
    """
    handler = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        # Whoever has put a handler of its own in its place: one that came meanwhile is answered as before.
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def guarded(scratch: Path) -> Iterator[None]:
    """Mark what is started inside the block, and see that none of it outlives this process or the block.

    Args:
        scratch: removed too.
    """
    mark = uuid.uuid4().hex
    # -I: nothing of the working folder or of PYTHONPATH is imported. A session of its own: Ctrl-C is not for it.
    guard = subprocess.Popen(  # noqa: S603 - our own file, no shell
        [sys.executable, "-I", __file__, mark, str(scratch)], stdin=subprocess.PIPE, start_new_session=True
    )
    before = os.environ.get(MARK)
    os.environ[MARK] = mark
    try:
        yield
    finally:
        os.environ.pop(MARK)
        if before is not None:
            os.environ[MARK] = before
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def marked(mark: str) -> set[psutil.Process]:
    """Return the processes that were started with a mark in their environment, and their descendants.

    A process that writes its own title may write over its environment; its parent is then what tells.
    """
    processes = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                processes |= {process, *process.children(recursive=True)}
    return processes


def watch(mark: str, pipe: int) -> set[psutil.Process]:
    """Return once the other end of a pipe is closed, with the marked processes that were seen until then.

    Who has written over its environment and then lost its parent, as Ray's agents do when their node dies before them,
    carries no mark any more: it is known from an earlier look, of which there are fewer and fewer.
    """
    known, wait_s = set[psutil.Process](), _FIRST_LOOK_S
    while not select.select([pipe], [], [], wait_s)[0]:
        known |= marked(mark)
        wait_s = min(2 * wait_s, _SECONDS_BETWEEN_LOOKS)
    return known


def end(mark: str, scratch: Path, known: set[psutil.Process]) -> None:
    """Kill known processes and what carries a mark until nothing does, and remove the scratch folder."""
    deadline = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < deadline:
        # Again, because one that is being killed may just have started another.
        known |= marked(mark)
        known = {process for process in known if lives(process)}
        if not known:
            break
        for process in known:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(known, timeout=1.0)
    shutil.rmtree(scratch, ignore_errors=True)


def lives(process: psutil.Process) -> bool:
    """Tell whether a process has not ended."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


if __name__ == "__main__":
    seen = watch(sys.argv[1], sys.stdin.fileno())
    end(sys.argv[1], Path(sys.argv[2]), seen)
