"""What a benchmark leaves behind: a printed table, a csv, a figure, and how it was made."""

import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib import style
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from harness.cost.bench.figures import STYLE
from harness.cost.bench.targets import Target
from harness.records.files import write_text


def show(console: Console, title: str, found: pd.DataFrame, columns: dict[str, str]) -> None:
    """Print some columns of a table.

    Args:
        console: where to.
        title: above it.
        found: the table.
        columns: headings by column's name.
    """
    table = Table(title=title, box=None, padding=(0, 2, 0, 0), title_justify="left")
    for name, heading in columns.items():
        numeric = pd.api.types.is_numeric_dtype(found[name]) and not pd.api.types.is_bool_dtype(found[name])
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in found[list(columns)].itertuples(index=False):
        table.add_row(*(_text(value) for value in row))
    console.print(table)


def show_targets(console: Console, targets: Sequence[Target]) -> None:
    """Print every target with what was measured."""
    table = Table(title="Targets", box=None, padding=(0, 2, 0, 0), title_justify="left")
    for heading, justify in (("figure", "left"), ("measured", "right"), ("target", "right"), ("", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for target in targets:
        bound = f"{target.better} {target.bound:g}"
        table.add_row(target.what, f"{target.measured:.3g}", bound, "met" if target.met else "[bold]missed[/bold]")
    console.print(table)


def save(
    folder: Path,
    name: str,
    found: pd.DataFrame,
    *,
    figure: Figure,
    targets: Sequence[Target],
    command: str,
    device: str,
    notes: Sequence[str] = (),
) -> None:
    """Write NAME.csv, NAME.png, NAME.svg and NAME.json.

    Args:
        folder: where to; made if it is not there.
        name: the benchmark.
        found: its table.
        figure: its picture.
        targets: what was promised, with what was measured.
        command: the command that made it.
        device: what it ran on, in words.
        notes: what a reader must know besides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    # Without date and random ids the same numbers give the same file.
    with style.context(STYLE):
        figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    about = {
        "command": command,
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "numpy")},
            **{package: there for package in ("trl", "liger-kernel") if (there := _version(package)) is not None},
        },
        "targets": [{**vars(target), "met": target.met} for target in targets],
        "notes": list(notes),
    }
    write_text(folder / f"{name}.json", json.dumps(about, indent=2) + "\n")


def device_name(device: str) -> str:
    """Return what a device is called."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"cpu ({platform.processor() or platform.machine()})"


@contextmanager
def progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far it is, on a terminal only."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
