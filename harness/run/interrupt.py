"""Ctrl-C once: stop at the next step, with a checkpoint. Twice: at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# A scheduler that takes a machine away sends SIGTERM first.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(stop: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Turn the first interruption into a file that the workers look for, and the second into KeyboardInterrupt.

    Args:
        stop: the file.
        say: told of the first interruption.
    """

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        if stop.exists():
            raise KeyboardInterrupt
        stop.touch()
        say("Stopping: every running trial takes its step to the end and saves its state. Again: stop at once.")

    before = {number: signal.signal(number, interrupted) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
