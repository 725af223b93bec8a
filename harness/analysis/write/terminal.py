"""A table in a terminal."""

from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from harness.analysis.document import Cell, Table
from harness.analysis.write.marks import ARROWS, legend_text, sign


def print_table(console: Console, table: Table) -> None:
    """Print a table; columns that do not fit the width follow below, with the rows' names again.

    Better is marked * as well as bold, because not every terminal shows bold.
    """
    for block in _blocks(table, console.width):
        console.print(_grid(block))
        console.print()
    note = " ".join(part for part in (table.caption, legend_text(table, bold="*")) if part)
    console.print(escape(note), style="dim", highlight=False)


def _blocks(table: Table, width: int) -> Iterator[Table]:
    """Cut a table into as few tables as fit the width, each with the first column and at least one other."""
    measure = Console(width=10_000)
    rest = list(range(1, len(table.columns)))
    while rest:
        num = len(rest)
        while num > 1 and measure.measure(_grid(_select(table, rest[:num]))).maximum > width:
            num -= 1
        yield _select(table, rest[:num])
        rest = rest[num:]


def _select(table: Table, kept: list[int]) -> Table:
    indices = [0, *kept]
    rows = tuple(tuple(row[index] for index in indices) for row in table.rows)
    return replace(table, columns=tuple(table.columns[index] for index in indices), rows=rows)


def _grid(table: Table) -> Grid:
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in table.columns:
        heading = escape(column.heading.replace(" (", "\n(") + ARROWS[column.direction])
        grid.add_column(heading, justify="right" if column.numeric else "left", no_wrap=True)
    signed = [any(_sign(row[index]).strip() for row in table.rows) for index in range(len(table.columns))]
    for row in table.rows:
        grid.add_row(*(_cell(cell, aligned=aligned) for cell, aligned in zip(row, signed, strict=True)))
    return grid


def _sign(cell: Cell) -> str:
    return "*" if cell.mark == "better" else sign(cell)


def _cell(cell: Cell, *, aligned: bool) -> str:
    text = escape(" ".join(cell.text.split()))
    if cell.mark == "better":
        text = f"[bold]{text}[/bold]"
    # An unmarked value keeps the sign's column free, so that decimals stay aligned.
    return text + (_sign(cell) or " ") if aligned else text
