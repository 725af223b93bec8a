"""What a benchmark leaves behind: a printed table, its numbers, figure and page, and how they were made."""

import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

from harness.analysis.document import Cell, Column, Contents, Plot, Section, Table, Text
from harness.analysis.figures.style import drawing, save
from harness.analysis.write.latex import to_latex
from harness.analysis.write.markdown import to_markdown
from harness.analysis.write.terminal import print_table
from harness.cost.bench.targets import Target
from harness.records.files import write_text


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a benchmark's results go.

    Attributes:
        console: where they are printed.
        folder: where they are written; made if it is not there.
        command: the command that makes them.
    """

    console: Console
    folder: Path
    command: str

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how much of it is done, on a terminal only."""
        with Progress(console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)

    def publish(
        self,
        name: str,
        title: str,
        found: pd.DataFrame,
        columns: Mapping[str, str],
        draw: Callable[[], Figure],
        *,
        shown: pd.DataFrame | None = None,
        caption: str = "",
        targets: Sequence[Target] = (),
        device: str = "fake tensors",
        notes: Sequence[str] = (),
    ) -> None:
        """Print a table, its targets and notes; write NAME.csv, .md, .tex and .json, and figures/NAME.png.

        Args:
            name: the benchmark.
            title: what the table shows.
            found: all numbers.
            columns: headings of the columns that are shown, by their names.
            draw: draws the figure.
            shown: the rows that are shown; all if None.
            caption: what a reader must know of the figure.
            targets: what was promised, with what was measured.
            device: what it ran on, in words.
            notes: what a reader must know besides.
        """
        about = {"command": self.command, "device": device, **_machine()}
        about |= {"targets": [{**vars(each), "met": each.met} for each in targets], "notes": list(notes)}
        table = _table(name, title, found if shown is None else shown, columns)
        with drawing():
            alt = f"{title}: the numbers are in the table."
            plot = Plot(name=name, title="In a figure", caption=f"{caption or title}.", alt=alt, figure=draw())
        document = document_of(table, plot, about)
        self.console.print(title, highlight=False, markup=False)
        print_table(self.console, table)
        for section in document.sections[1:]:
            for line in (section.title, *(line for block in section.blocks for line in getattr(block, "lines", ()))):
                self.console.print(line, highlight=False, markup=False)
        save(plot, self.folder / "figures")
        numbers = found.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        texts = {"csv": numbers, "md": to_markdown(document), "tex": to_latex(table)}
        for suffix, text in {**texts, "json": json.dumps(about, indent=2) + "\n"}.items():
            write_text(self.folder / f"{name}.{suffix}", text)
        self.console.print(f"{self.folder / name}.csv, .md, .tex, .json; figures/{name}.png", highlight=False)


def document_of(table: Table, plot: Plot, about: Mapping[str, Any]) -> Contents:
    """Say what a benchmark found: its table and figure, its targets, its notes."""
    targets = tuple(
        f"{'met' if each['met'] else 'MISSED'}: {each['what']}: {each['measured']:.3g} "
        f"({each['better']} {each['bound']:g})"
        for each in about["targets"]
    )
    texts = {"Targets": Text(lines=targets, points=True), "Notes": Text(lines=tuple(about["notes"]), points=True)}
    return Contents(
        title=f"harness bench {table.name}",
        lead=table.title,
        facts=(("Command", about["command"]), ("Device", about["device"])),
        sections=(
            Section(title="Results", blocks=(table, plot)),
            *(Section(title=heading, blocks=(text,)) for heading, text in texts.items() if text.lines),
        ),
    )


def device_name(device: str) -> str:
    """Return what a device is called."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"cpu ({platform.processor() or platform.machine()})"


def _table(name: str, title: str, shown: pd.DataFrame, columns: Mapping[str, str]) -> Table:
    numeric = [
        pd.api.types.is_numeric_dtype(shown[key]) and not pd.api.types.is_bool_dtype(shown[key]) for key in columns
    ]
    return Table(
        name=name,
        title=title,
        columns=tuple(
            Column(heading=heading, numeric=number) for heading, number in zip(columns.values(), numeric, strict=True)
        ),
        rows=tuple(
            tuple(Cell(text=_text(value)) for value in row)
            for row in shown[list(columns)].itertuples(index=False, name=None)
        ),
        caption="",
        numbers=shown,
    )


def _machine() -> dict[str, object]:
    versions = {package: _version(package) for package in ("torch", "transformers", "numpy", "trl", "liger-kernel")}
    there = {package: number for package, number in versions.items() if number is not None}
    return {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **there},
    }


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
