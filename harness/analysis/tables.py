"""The main table: one row per strategy, in the manifest's order; as Markdown, CSV, LaTeX and in the terminal."""

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from harness.analysis.frame import Frames, labels
from harness.analysis.metrics import COSTS, QUALITY, MetricInfo, describe
from harness.analysis.statistics import compare, summarise
from harness.results import Manifest

TERMINAL_KEYS = (
    "accuracy",
    "adherence",
    "perplexity",
    "ece",
    "heldout_loss",
    "teacher_kl",
    "realised_fraction",
    "wall_total_s",
    "peak_gib",
)

_ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "—": "---",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Cell:
    """One printed value.

    Attributes:
        text: the value in its printed unit, an em dash where there is none.
        verdict: how it compares with the baseline (`statistics.Verdict`), None where nothing is compared.
    """

    text: str
    verdict: str | None = None


@dataclass(frozen=True)
class Row:
    """One strategy.

    Attributes:
        label: its name.
        seeds: finished/planned, e.g. "2/3".
        rest: what became of the others, e.g. "1 failed"; empty if all finished.
        cells: one per column of the table.
    """

    label: str
    seeds: str
    rest: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table before it is written in any format.

    Attributes:
        columns: what the cells of each row are, after the label and the seeds.
        rows: one per label, in the manifest's order.
        caption: the rule behind the marks, as plain text; it calls the mark for better {better}.
    """

    columns: tuple[MetricInfo, ...]
    rows: tuple[Row, ...]
    caption: str

    def select(self, keys: tuple[str, ...]) -> "Table":
        """Return the same table with only these columns, in the order they stand in the table."""
        kept = [index for index, info in enumerate(self.columns) if info.key in keys]
        rows = tuple(replace(row, cells=tuple(row.cells[index] for index in kept)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[index] for index in kept), rows=rows)


def tidy(frames: Frames, manifest: Manifest) -> pd.DataFrame:
    """Compute the numbers behind the table: one row per label and metric, in the manifest's order.

    Returns:
        label, num_finished, num_planned, metric, mean, std, n, and the columns of `statistics.compare` (missing for
        costs, for the baseline, and without a baseline); in each metric's own unit. A label of which nothing finished
        has its rows, without a mean and with n = 0.
    """
    costs = frames.trials.melt(
        id_vars=["trial_id", "label", "seed", "status"], value_vars=[info.key for info in COSTS], var_name="metric"
    )
    costs["num"] = costs["value"].notna().map({True: 1, False: None}).astype("Int64")
    keys = [*frames.metrics["metric"].unique(), *(info.key for info in COSTS)]
    summary = pd.concat([summarise(frames.metrics), summarise(costs)])
    ended = frames.trials.assign(finished=frames.trials["status"] == "finished").groupby("label")["finished"]
    seeds = pd.DataFrame({"num_finished": ended.sum(), "num_planned": ended.size()})
    grid = pd.MultiIndex.from_product([labels(manifest), keys], names=["label", "metric"]).to_frame(index=False)
    table = grid.merge(seeds, left_on="label", right_index=True).merge(summary, on=["label", "metric"], how="left")
    table["num_seeds"] = table["num_seeds"].astype("float64").fillna(0).astype(int)
    table = table.rename(columns={"num_seeds": "n"})
    if manifest.baseline is not None:
        table = table.merge(compare(frames.metrics, manifest.baseline), on=["label", "metric"], how="left")
    head = ["label", "num_finished", "num_planned", "metric", "mean", "std", "n"]
    return table[head + [name for name in table.columns if name not in head]]


def main_table(numbers: pd.DataFrame, frames: Frames, manifest: Manifest) -> Table:
    """Build the paper's table from `tidy` numbers: quality, then cost. A column nothing measured is left out."""
    return _table([info.key for info in QUALITY + COSTS], numbers, frames, manifest)


def further_table(numbers: pd.DataFrame, frames: Frames, manifest: Manifest) -> Table:
    """Build the table of every metric the main table has no column for."""
    main = {info.key for info in QUALITY + COSTS}
    table = _table([key for key in numbers["metric"].unique() if key not in main], numbers, frames, manifest)
    return replace(table, caption="Marked as in the main table.")


def _table(keys: list[str], numbers: pd.DataFrame, frames: Frames, manifest: Manifest) -> Table:
    measured = set(numbers.loc[numbers["n"] > 0, "metric"])
    columns = tuple(describe(key) for key in keys if key in measured)
    by_cell = {(row["label"], row["metric"]): row for row in numbers.to_dict("records")}
    rows = tuple(
        Row(label, *_seeds(frames.trials, label), tuple(_cell(info, by_cell[label, info.key]) for info in columns))
        for label in labels(manifest)
    )
    return Table(columns, rows, _caption(manifest))


def _seeds(trials: pd.DataFrame, label: str) -> tuple[str, str]:
    status = trials.loc[trials["label"] == label, "status"].value_counts().to_dict()
    rest = ", ".join(f"{status[name]} {name}" for name in ("failed", "missing") if name in status)
    return f"{status.get('finished', 0)}/{sum(status.values())}", rest


def _full_seeds(row: Row) -> str:
    return f"{row.seeds} ({row.rest})" if row.rest else row.seeds


def _cell(info: MetricInfo, row: dict[Hashable, Any]) -> Cell:
    if row["n"] == 0:
        return Cell("—")
    spread = f" ± {info.show_spread(row['std'])}" if row["n"] > 1 and not info.cost else ""
    verdict = row.get("verdict")
    return Cell(info.show(row["mean"]) + spread, verdict if isinstance(verdict, str) else None)


def _caption(manifest: Manifest) -> str:
    if manifest.baseline is None:
        marks = "The grid names no baseline, so nothing is compared."
    else:
        marks = (
            f"{{better}}: better than {manifest.baseline}; †: worse; both only where the 95% Student-t interval of the "
            "difference over paired seeds excludes zero, without a correction for the number of comparisons. "
            "What is not marked is not distinguishable, or has too few seeds to tell."
        )
    return (
        f"{manifest.grid}, {manifest.workload}, {manifest.split} split. Mean ± standard deviation over seeds; seeds "
        f"are finished/planned. {marks} Costs are means over seeds and are not compared."
    )


def to_markdown(table: Table) -> str:
    """Write the table and its caption as GitHub Markdown."""
    head = ["Strategy", "Seeds", *(info.heading + _ARROWS[info.direction] for info in table.columns)]
    lines = [_pipe(head), _pipe(["---", "---", *("---:" for _ in table.columns)])]
    lines += [_pipe([markdown(row.label), _full_seeds(row), *map(_markdown_cell, row.cells)]) for row in table.rows]
    lines += ["", markdown(table.caption).replace("{better}", "**Bold**")]
    return "\n".join(lines) + "\n"


def markdown(text: str) -> str:
    """Escape what Markdown would read as markup, in one line that may stand in a table cell."""
    return re.sub(r"([\\|*`<\[])", r"\\\1", " ".join(text.split()))


def _pipe(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    return {"better": f"**{cell.text}**", "worse": f"{cell.text} †"}.get(cell.verdict or "", cell.text)


def to_latex(table: Table, *, name: str) -> str:
    r"""Write the table as a LaTeX float for the booktabs and graphicx packages, labelled tab:<name>."""
    head = ["Strategy", "Seeds", *(latex(info.heading + _ARROWS[info.direction]) for info in table.columns)]
    body = [[latex(row.label), latex(_full_seeds(row)), *map(_latex_cell, row.cells)] for row in table.rows]
    rows = [" & ".join(cells) + r" \\" for cells in body]
    caption = latex(table.caption).replace(latex("{better}"), r"\textbf{Bold}").replace("†", r"$^\dagger$")
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9:-]+', '-', name)}}}",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Escape what LaTeX would read as a command."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_cell(cell: Cell) -> str:
    text = latex(cell.text)
    return {"better": rf"\textbf{{{text}}}", "worse": rf"{text}$^\dagger$"}.get(cell.verdict or "", text)


def to_csv(numbers: pd.DataFrame) -> str:
    """Write `tidy` numbers as CSV, in each metric's own unit (shares in [0, 1]), ten significant digits."""
    return str(numbers.to_csv(index=False, float_format="%.10g", lineterminator="\n"))


def print_table(console: Console, table: Table, *, keys: tuple[str, ...] = TERMINAL_KEYS) -> None:
    """Print the table; columns that do not fit the width follow below, with the strategies' names again.

    Better is marked * as well as bold, worse †.
    """
    shown = table.select(keys)
    for block in _blocks(shown, console.width):
        console.print(_rich_table(block))
        console.print()
    for row in shown.rows:
        if row.rest:
            console.print(f"{escape(row.label)}: {row.rest}", style="yellow", highlight=False)
    console.print(escape(table.caption.replace("{better}", "*")), style="dim", highlight=False)


def _blocks(table: Table, width: int) -> Iterator[Table]:
    """Cut a table into as few tables as fit the width, at least one column each."""
    measure = Console(width=10_000)
    keys = [info.key for info in table.columns]
    while keys:
        num = len(keys)
        while num > 1 and measure.measure(_rich_table(table.select(tuple(keys[:num])))).maximum > width:
            num -= 1
        yield table.select(tuple(keys[:num]))
        keys = keys[num:]


def _rich_table(table: Table) -> RichTable:
    grid = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("Strategy", no_wrap=True)
    grid.add_column("Seeds", no_wrap=True)
    for info in table.columns:
        grid.add_column(info.heading.replace(" (", "\n(") + _ARROWS[info.direction], justify="right", no_wrap=True)
    for row in table.rows:
        grid.add_row(escape(row.label), row.seeds, *map(_rich_cell, row.cells))
    return grid


def _rich_cell(cell: Cell) -> str:
    # An unmarked value keeps the mark's column free, so that decimals stay aligned.
    return {"better": f"[bold]{cell.text}[/bold]*", "worse": f"{cell.text}†"}.get(cell.verdict or "", f"{cell.text} ")
