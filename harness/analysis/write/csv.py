"""The numbers behind a table, as CSV."""

from harness.analysis.document import Table


def to_csv(table: Table) -> str:
    """Write the unrounded numbers, in each metric's own unit (shares in [0, 1]), ten significant digits."""
    return str(table.numbers.to_csv(index=False, float_format="%.10g", lineterminator="\n"))
