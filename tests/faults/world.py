"""What the fault tests share: a small grid, a server that runs it and dies on demand, and the comparison of records."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from table import Faults

PROJECT = Path(__file__).parent.parent.parent
# A child that takes longer hangs.
PATIENCE_S = 300.0


@dataclass(kw_only=True)
class Ended:
    """How a child ended: -9 if it was killed; what it said, and how many events it came through."""

    status: int
    text: str = ""
    events: int = 0


class Server:
    """Runs orders in forked children, see `victim.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "victim.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)},
        )
        assert self._read() == "ready"

    def start(self, **order: Any) -> int:
        """Fork a child and return its process id."""
        self._write(order)
        return int(self._read())

    def wait(self, num: int) -> list[Ended]:
        """Wait for the children started since the last time."""
        self._write("wait")
        return [Ended(**json.loads(self._read())) for _ in range(num)]

    def run(self, *, after_s: float | None = None, **order: Any) -> Ended:
        """Run one order; kill it from outside after some seconds if asked to."""
        pid = self.start(**order)
        if after_s is not None:
            time.sleep(after_s)
            os.kill(pid, signal.SIGKILL)
        return self.wait(1)[0]

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.communicate(timeout=30)

    def _write(self, order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order, default=str) + "\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the server died"
        return line


@dataclass(kw_only=True)
class World:
    """A grid, its undisturbed results, and what was found of all faults so far.

    Attributes:
        grid: the grid's file.
        whole: results and reports of the undisturbed run.
        server: runs it again.
        faults: counts by kind of fault.
        num_events: events of the undisturbed run, by part.
    """

    grid: Path
    whole: Path
    server: Server
    faults: Faults
    num_events: dict[str, int] = field(default_factory=dict)

    def order(self, folder: Path, *do: str, **more: Any) -> dict[str, Any]:
        """Return an order on a folder."""
        parts = list(do) or ["prepare", "trials", "report"]
        places = {"grid": self.grid, "results": folder / "results", "reports": folder / "reports"}
        return {"do": parts, **places, "every": 2, **more}

    def run_whole(self) -> None:
        """Run everything once, undisturbed."""
        for part in ("prepare", "trials", "report"):
            ended = self.server.run(**self.order(self.whole, part))
            assert ended.status == 0, ended.text
            self.num_events[part] = ended.events

    def begin(self, folder: Path, *done: str) -> None:
        """Copy what parts of an undisturbed run leave: `prepare` the caches, `trials` the records too."""
        folder.mkdir(parents=True)
        if "prepare" in done:
            shutil.copytree(self.whole / "results" / "cache", folder / "results" / "cache")
        if "trials" in done:
            for name in ("trials", self.grid.stem):
                shutil.copytree(self.whole / "results" / name, folder / "results" / name)

    def finish(self, folder: Path, kind: str, *, faults: int, same_report: bool = False, **more: Any) -> None:
        """Run to the end, compare with the undisturbed run, note the outcome, and fail if anything is lost."""
        ended = self.server.run(**self.order(folder, **more))
        lost, differing = compare(self.whole / "results", folder / "results")
        left = len(locks(folder / "results"))
        whole = ended.status == 0 and not lost and not differing
        counts = {"records_lost": len(lost), "records_that_differ": len(differing), "locks_left": left}
        self.faults.note(kind, faults=faults, survived=faults * whole, **counts)
        assert ended.status == 0, ended.text
        assert (lost, differing, left) == ([], [], 0)
        assert litter(folder) == []
        if same_report:  # a report tells seconds, so one of records that were made again differs
            assert digests(folder / "reports") == digests(self.whole / "reports")


def make_world(workload: Path, folder: Path, faults: Faults, *, strategies: list[Any], seeds: list[int]) -> World:
    """Write a grid, and start what runs it."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = folder / "question.yaml"
    fields = {"workload": str(workload), "split": "validation", "seeds": seeds, "strategies": strategies}
    grid.write_text("# Does it survive?\n" + yaml.safe_dump(fields), encoding="utf-8")
    world = World(grid=grid, whole=folder / "whole", server=Server(), faults=faults)
    world.whole.mkdir()
    return world


def plain_record(path: Path) -> dict[str, Any]:
    """Read a record without what tells time, memory of the whole process, and the way it came about."""
    record = json.loads(path.read_text(encoding="utf-8"))
    for name in ("started_at", "finished_at", "history", "checksum"):
        record.pop(name, None)
    for name in ("wall_s", "cpu_s", "thread_s", "shared_s"):
        record["cost"].pop(name, None)
    record["cost"]["peak_gib"].pop("process", None)
    for task in record["evaluation"].values():
        task.pop("wall_s", None)
    return dict(record)


def compare(whole: Path, results: Path) -> tuple[list[str], list[str]]:
    """Return the ids of trials whose record is missing, and of those whose record, tables or weights differ."""
    lost, differing = [], []
    for path in sorted((whole / "trials").glob("*/record.json")):
        other = results / "trials" / path.parent.name / "record.json"
        weights, others = (root / "weights" / f"{path.parent.name}.sha256" for root in (whole, results))
        if not other.exists():
            lost.append(path.parent.name)
        elif plain_record(path) != plain_record(other) or (
            weights.exists() and others.exists() and weights.read_text() != others.read_text()
        ):
            differing.append(path.parent.name)
    return lost, differing


def locks(results: Path) -> list[Path]:
    """Return what is left of locks: the notes of who holds them. Their files stay, see `harness.records.lock`."""
    return list(results.rglob("*.owner.json"))


def litter(folder: Path) -> list[Path]:
    """Return temporary names and checkpoints that a finished run has left."""
    found = (path for path in folder.rglob(".*") if "trash" not in path.parts)
    names = [path for path in found if path.name.endswith((".partial", ".retired"))]
    return names + list(folder.glob("results/checkpoints/*"))


def digests(folder: Path) -> dict[str, str]:
    """Return the hash of every file under a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def flip(path: Path, draws: random.Random) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, draws: random.Random) -> None:
    """Cut a file short."""
    path.write_bytes(path.read_bytes()[: draws.randrange(path.stat().st_size)])


@contextmanager
def small_filesystem(folder: Path, num_bytes: int) -> Iterator[Path]:
    """Mount a file system of so many bytes in memory.

    Raises:
        PermissionError: only root may, on Linux.
    """
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        raise PermissionError(mounted.stderr.decode())
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def grow(folder: Path, num_bytes: int) -> None:
    """Give a mounted file system more room."""
    subprocess.run(["mount", "-o", f"remount,size={num_bytes}", str(folder)], check=True)
