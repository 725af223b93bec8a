"""`harness claims`: what the grids of several reports claim, and whether their records bear it out."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.shared import check_writable, console
from harness.config.errors import UserError


def claims(
    reports: Annotated[list[Path], typer.Argument(help="Reports, e.g. reports/position_axis.", metavar="REPORT...")],
    table: Annotated[
        Path | None, typer.Option(help="Write the table to PATH.csv and PATH.md as well.", metavar="PATH")
    ] = None,
) -> None:
    """Say of every claim that the reports' grids make whether it holds; needs no torch."""
    from harness.analysis.claims import claims_table, judge_claims
    from harness.analysis.frame import is_report
    from harness.analysis.report import read_run
    from harness.analysis.write.csv import to_csv
    from harness.analysis.write.markdown import to_markdown_table

    for folder in reports:
        if not is_report(folder):
            raise UserError(f"{folder} is no report: it has no manifest.json and records/")
    if table is not None:
        check_writable(table.parent)
    screen, judged = console(), []
    for folder in reports:
        run = read_run(folder)
        name = f"{run.manifest.grid}, {run.manifest.workload}"
        screen.print(f"[bold]{name}[/bold]", highlight=False)
        found = judge_claims(run)
        for each in found:
            screen.print(f"- {each.sentence}", highlight=False, markup=False, soft_wrap=True)
            judged.append((name, each))
        if not found:
            screen.print("- its grid makes no claim", highlight=False)
    made = claims_table(judged, "claims", "Claims")
    if table is not None and made is not None:
        for suffix, text in ((".csv", to_csv(made)), (".md", to_markdown_table(made))):
            table.with_name(table.name + suffix).write_text(text, encoding="utf-8")
