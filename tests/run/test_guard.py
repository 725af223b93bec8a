"""What a run answers to signals; real runs and real signals are in tests/faults."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.run.guard import deaf, interruptible


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_interruption_asks_and_the_second_ends(number: signal.Signals, code: int, tmp_path: Path) -> None:
    said, stop, before = list[str](), tmp_path / "stop", signal.getsignal(number)
    with interruptible(stop, said.append) as interruption:
        assert interruption.code is None
        os.kill(os.getpid(), number)
        assert (interruption.code, stop.exists(), len(said)) == (code, True, 1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_who_is_started_deaf_outlives_sigterm_and_the_starter_answers_as_before() -> None:
    heard = list[int]()
    before = signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    try:
        with deaf():
            child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
            # As Ray does while it starts.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            assert not heard
        assert heard == [signal.SIGTERM]
        child.terminate()
        time.sleep(0.1)
        assert child.poll() is None
        child.communicate(b"\n")
        assert child.returncode == 0
    finally:
        signal.signal(signal.SIGTERM, before)
