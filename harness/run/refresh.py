"""A grid's report, written again only where it could be another one.

A report is a function of the manifest, the trials' files, the code and the packages that write it. `report.json`,
beside the manifest, keeps one digest of all of these, of the report's own files and of the committed report, with what
was printed: where the digest is still the same, all of it is too.
"""

import hashlib
import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

import harness
import strategies
from harness.config.errors import UserError
from harness.records.files import write_text
from harness.records.layout import Results
from harness.records.store import read_manifest

_PACKAGES = ("jinja2", "matplotlib", "numpy", "pandas", "pillow", "pyarrow", "pydantic", "rich", "scipy", "seaborn")


# Where the reports are that a checkout commits.
COMMITTED = Path("reports")


def refresh_report(results: Results, grid: str, reports: Path, console: Console, *, pdf: bool = False) -> None:
    """Write and print a grid's report, with `pdf` its figures as PDF too; only print it where it is what it would be.

    Where another report of the grid is committed, one more line compares the records with its own.

    Raises:
        UserError: as `harness.analysis.report.write_report`.
    """
    stamp, folder = results.manifest(grid).with_name("report.json"), reports / grid
    text = _printed(stamp, _digest(results, grid, folder, pdf), console.width)
    if text is None:
        from harness.analysis.report import print_report, write_report

        report = write_report(results.root, grid, reports, pdf=pdf)
        recorder = Console(width=console.width, file=StringIO(), force_terminal=True, record=True)
        print_report(report, recorder)
        if line := _beside_the_committed(results, grid, folder):
            recorder.print(line, highlight=False, markup=False, soft_wrap=True)
        text = recorder.export_text(styles=True)
        stored = {"digest": _digest(results, grid, folder, pdf), "width": console.width, "text": text}
        write_text(stamp, json.dumps(stored) + "\n")
    else:
        console.print("The report is up to date.")
    console.print(Text.from_ansi(text.rstrip("\n")), soft_wrap=True, highlight=False)


def _beside_the_committed(results: Results, grid: str, folder: Path) -> str | None:
    """Compare a grid's records with those of its committed report; None where there is none, or this is it."""
    from harness.analysis.frame import is_report
    from harness.analysis.original import read_original, say_difference

    committed = COMMITTED / grid
    if not is_report(committed) or committed.resolve() == folder.resolve():
        return None
    try:
        return say_difference(read_original(committed), read_manifest(results.manifest(grid)), results)
    except UserError as error:
        return f"The records cannot be compared with the committed ones: {error}"


def _printed(stamp: Path, digest: str, width: int) -> str | None:
    """Return what was printed when the report was written, None if something has changed since."""
    try:
        stored = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(stored, dict) and (stored.get("digest"), stored.get("width")) == (digest, width)
    return str(stored["text"]) if same else None


def _digest(results: Results, grid: str, folder: Path, pdf: bool) -> str:
    """Return one digest of all that a report depends on, and of what it consists of."""
    total = hashlib.sha256()
    total.update(repr([platform.python_version(), *((name, version(name)) for name in _PACKAGES), pdf]).encode())
    for path in (*_code(), *_records(results, grid), *_files(folder), *_files(COMMITTED / grid)):
        total.update(f"{path}\n".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _code() -> Iterator[Path]:
    for package in (harness, strategies):
        root = Path(str(package.__file__)).parent
        yield from (path for path in _files(root) if path.suffix != ".pyc" and "workloads" not in path.parts)


def _records(results: Results, grid: str) -> Iterator[Path]:
    yield results.manifest(grid)
    for trial_id in read_manifest(results.manifest(grid)).trial_ids:
        yield from _files(results.trial(trial_id))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
