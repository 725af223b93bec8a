"""Every table that a grid's records can fill, as blocks of a document."""

from collections.abc import Sequence
from dataclasses import replace

from harness.analysis import published
from harness.analysis.document import Table
from harness.analysis.frame import Frames
from harness.analysis.tables.beside import published_tables
from harness.analysis.tables.build import read
from harness.analysis.tables.cost import cost_tables
from harness.analysis.tables.evidence import comparison_table, noise_table, rank_table
from harness.analysis.tables.matched import matched_table
from harness.analysis.tables.methods import method_table
from harness.analysis.tables.quality import main_table, other_table, paper_tables, spread_table
from harness.records.record import Manifest

__all__ = ["document_tables"]


def document_tables(frames: Frames, manifest: Manifest, *, seed: int = 0) -> tuple[Table, ...]:
    """Build every table that the records can fill, the main one first.

    Which ones there are depends on what the grid's strategies vary, read from the records: the paper's tables of
    importance metrics, selection policies, several axes and regimes; quality at equal cost, costs beside quality,
    storage, run time of sample selection, memory and speed of the selective head; standard deviations, further metrics,
    every difference with its intervals, what is noise, the methods; ours beside the published figures.

    Args:
        frames: the grid's frames.
        manifest: the grid.
        seed: of resampling; see `statistics.compare`, `noise.noise_floor` and `tables.beside.agree`.

    Raises:
        UnknownNameError: the baseline is not one of the grid's labels.
    """
    grid = read(frames, manifest, seed=seed)
    figures = published.load()
    built = [
        main_table(grid),
        *paper_tables(grid),
        comparison_table(grid),
        rank_table(grid),
        noise_table(grid),
        spread_table(grid),
        other_table(grid),
        matched_table(grid),
        *cost_tables(grid, figures),
        *published_tables(grid, figures),
        method_table(grid),
    ]
    reconstructed = [label for label, one in grid.methods.items() if one.reconstructed]
    return tuple(_labelled(table, reconstructed) for table in built if table is not None)


def _labelled(table: Table, reconstructed: Sequence[str]) -> Table:
    """Say below a table which of its rows were not written from a paper's own equations."""
    shown = {cell.text for row in table.rows for cell in row}
    named = [label for label in reconstructed if label in shown]
    if not named:
        return table
    return replace(table, caption=f"{table.caption} Reconstructed from an abstract: {', '.join(named)}.".strip())
