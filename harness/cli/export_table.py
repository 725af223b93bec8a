"""`harness export-table`: one data frame of a report as a file."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.shared import check_writable
from harness.config.errors import UserError


def export_table(
    folder: Annotated[
        Path, typer.Argument(help="A report (reports/position_axis) or a grid's results.", metavar="REPORT")
    ],
    table: Annotated[str, typer.Argument(help="metrics, items, comparisons, costs or curves.")],
    to: Annotated[Path, typer.Argument(help="A file that ends in .csv or .parquet.", metavar="FILE")],
) -> None:
    """Write one of a report's tables of numbers, as `harness.load` gives it; needs no torch."""
    if to.suffix not in (".csv", ".parquet"):
        raise UserError(f"{to} ends in {to.suffix or 'nothing'!r}: it must end in .csv or .parquet")
    check_writable(to.parent)
    from harness.analysis.data import read_data
    from harness.records.files import written

    frame = read_data(folder).table(table)
    with written(to) as partial:
        if to.suffix == ".csv":
            frame.to_csv(partial, index=False, lineterminator="\n")
        else:
            frame.to_parquet(partial, index=False, compression="zstd")
    typer.echo(f"{to}: {len(frame)} rows")
