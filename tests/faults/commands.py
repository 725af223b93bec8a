"""`harness run` as a user starts it, through Ray, and what is left of its processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
from world import PATIENCE_S, PROJECT, World

_MARK = "HARNESS_FAULTS"
SECONDS_TO_VANISH = 20.0


class Command:
    """One `harness run` in a session of its own, and every process that it started."""

    def __init__(self, world: World, folder: Path) -> None:
        self._mark = uuid.uuid4().hex
        self._known: set[psutil.Process] = set()
        self.results = folder / "results"
        self._log = folder / f"log-{self._mark}.txt"
        folder.mkdir(parents=True, exist_ok=True)
        places = ["--results", str(self.results), "--reports", str(folder / "reports"), "--checkpoint-every", "2"]
        with self._log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "harness.cli", "run", str(world.grid), *places],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=PROJECT,
                env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", _MARK: self._mark},
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """What it has printed."""
        return self._log.read_text(encoding="utf-8")

    def wait_for_a_trial(self, draws: random.Random) -> int:
        """Wait until a worker holds a trial, and some more; return the worker's process id."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            for owner in (self.results / "locks").glob("trial-*.owner.json"):
                with suppress(OSError, ValueError):
                    worker = int(json.loads(owner.read_text(encoding="utf-8"))["pid"])
                    time.sleep(draws.uniform(0.0, 2.0))
                    self.look()
                    return worker
            time.sleep(0.05)
        raise AssertionError(f"no trial began: {self.said}")

    def look(self) -> None:
        """Take note of the processes there are: a title may hide the mark of one later."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark:
                    self._known |= {process, *process.children(recursive=True)}

    def kill(self) -> None:
        """Kill the driver."""
        self.look()
        self.process.kill()
        self.process.wait()

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Press Ctrl-C, or end a batch job: every process of the terminal or the job is told."""
        os.killpg(self.process.pid, number)

    def kill_node(self) -> None:
        """Kill what runs Ray on this machine."""
        self.look()
        for process in self._known:
            with suppress(psutil.Error):
                if process.name() == "raylet":
                    process.kill()

    def end(self) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(timeout=PATIENCE_S)

    def orphans(self) -> int:
        """Return how many processes are left some seconds after the driver is gone, and end them."""
        deadline = time.monotonic() + SECONDS_TO_VANISH
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        return len(left)

    def _left(self) -> list[psutil.Process]:
        self.look()
        left = []
        for process in self._known:
            with suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(process)
        return left
