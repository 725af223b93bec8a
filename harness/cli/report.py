"""`harness report`: a grid's report from its records, one's own or the one that a checkout commits."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.shared import Pdf, console
from harness.records.layout import Results


def report(
    folder: Annotated[
        Path, typer.Argument(help="A grid's results (results/position_axis) or a report (reports/position_axis).")
    ],
    reports: Annotated[
        Path | None,
        typer.Option(
            help="Where it is written: `reports` publishes it. Left out: RESULTS/reports, or where a report lies.",
            metavar="DIR",
        ),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Results or a report of another run to compare with.", metavar="FOLDER")
    ] = None,
    pdf: Pdf = False,
) -> None:
    """Write a grid's report from its records, and print its main table; needs no torch."""
    from harness.analysis.report import print_report, rebuild, write_report

    if (folder / "records").is_dir():
        written = rebuild(folder, destination=reports, compare=compare, pdf=pdf)
    else:
        place = Results(folder.parent if folder.name else folder.resolve().parent)
        written = write_report(place.root, folder.resolve().name, reports or place.reports, compare=compare, pdf=pdf)
    print_report(written, console())
