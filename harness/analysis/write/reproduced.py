"""What reproducing a report found, on the terminal and as files."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from harness.analysis.metrics import QUALITY, describe
from harness.analysis.reproduced import Reproduced, frame, summary
from harness.records.files import write_text

_SHOWN = ("heldout_loss", "teacher_kl", "accuracy", "perplexity")


def show(console: Console, trials: Sequence[Reproduced]) -> None:
    """Print of each trial whether its digits are equal; else the metrics that differ, in their own units."""
    for trial in trials:
        console.print(f"{trial.name}: {_verdict(trial)}", highlight=False, markup=False, soft_wrap=True)
    differing = [(trial, each) for trial in trials for each in trial.metrics if not each.only_error]
    if differing:
        table = Grid(title="What differs", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for heading in ("trial", "metric"):
            table.add_column(heading)
        for heading in ("report", "now", "difference", "std over its seeds"):
            table.add_column(heading, justify="right")
        for trial, each in differing:
            numbers = (f"{each.recorded:.9g}", f"{each.measured:.9g}", f"{each.size:+.2g}")
            spread = trial.spreads[each.metric]
            table.add_row(trial.name, each.metric, *numbers, "-" if math.isnan(spread) else f"{spread:.2g}")
        console.print(table)
    num = sum(trial.equal for trial in trials)
    console.print(f"{num} of {len(trials)} trials are equal to the byte.", highlight=False)
    for line in conditions(trials):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def conditions(trials: Sequence[Reproduced]) -> list[str]:
    """List the conditions that differ, each once, with how many trials it is of where that is not all."""
    counts: dict[str, int] = {}
    for trial in trials:
        for line in trial.conditions:
            counts[line] = counts.get(line, 0) + 1
    return [
        f"Condition that differs{'' if num == len(trials) else f' ({num} of {len(trials)} trials)'}: {line}"
        for line, num in counts.items()
    ]


def write(path: Path, trials: Sequence[Reproduced], report: Path, command: str) -> None:
    """Write what differs as PATH.csv, one row per trial and metric, and as PATH.md, one row per label.

    Args:
        path: without its ending.
        trials: what was found.
        report: of which.
        command: how to do this again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    table = frame(trials).to_csv(index=False, float_format="%.10g", lineterminator="\n")
    write_text(path.with_name(f"{path.name}.csv"), table)
    measured = {key for trial in trials for key in trial.spreads}
    shown = [key for key in _SHOWN if key in measured] or [info.key for info in QUALITY if info.key in measured]
    rows = summary(trials, shown)
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (rows[0], rule, *rows[1:])]
    units = ", ".join(describe(key).title for key in shown)
    about = (
        f"# {report.name} run again\n\n"
        f"Trials of [{report.name}](../{report.name}/report.md), with the same seeds, beside their records there. "
        f"{units}: the largest difference of the label's trials, in parentheses the standard deviation over the "
        "report's seeds. Every number is in the file ending in csv.\n"
    )
    said = "".join(f"- {line}\n" for line in conditions(trials))
    write_text(path.with_name(f"{path.name}.md"), "\n".join([about, *lines, "", f"`{command}`", "", said]))


def _verdict(trial: Reproduced) -> str:
    if trial.equal:
        return f"equal to the byte ({len(trial.spreads)} metrics, {trial.num_tables} tables)"
    moved = [each for each in trial.metrics if not each.only_error]
    errors = len(trial.metrics) - len(moved)
    parts = [f"{len(moved)} of {len(trial.spreads)} metrics differ"] if moved else ["all values of metrics are equal"]
    parts += [f"{errors} standard errors differ"] if errors else []
    parts += [f"tables differ: {', '.join(trial.tables)}"] if trial.tables else ["all tables are equal to the byte"]
    return "; ".join(parts)
