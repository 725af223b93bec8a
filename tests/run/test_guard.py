"""What a run answers to signals; real runs and real signals are in tests/faults."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.run.guard import interruptible


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


# In a process without other threads, any of which might take the signal.
STARTER = """
import os, signal, subprocess, sys
from harness.run.guard import deaf

heard = []
signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
with deaf():
    child = subprocess.Popen([sys.executable, "-c", "print('here', flush=True); input()"], stdin=-1, stdout=-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does while it starts
    os.kill(os.getpid(), signal.SIGTERM)
    assert not heard
assert heard == [signal.SIGTERM]
assert child.stdout.readline() == b"here\\n"
child.terminate()
child.communicate(b"\\n")
assert child.returncode == 0, child.returncode
"""


def test_who_is_started_deaf_outlives_sigterm_and_the_starter_answers_as_before() -> None:
    ended = subprocess.run([sys.executable, "-c", STARTER], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
