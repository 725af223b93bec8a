"""Every table that a grid's records can fill, as blocks of a document."""

from collections.abc import Sequence
from dataclasses import replace

from harness.analysis import published
from harness.analysis.document import Table
from harness.analysis.read import Run
from harness.analysis.tables.beside import published_tables
from harness.analysis.tables.cost import cost_table, head_table
from harness.analysis.tables.evidence import comparison_table, noise_table, rank_table
from harness.analysis.tables.matched import matched_table
from harness.analysis.tables.methods import method_table
from harness.analysis.tables.quality import (
    importance_table,
    main_table,
    multi_axis_table,
    other_table,
    policy_table,
    spread_table,
    task_table,
)  # fmt: skip
from harness.analysis.tables.savings import runtime_table, storage_table
from harness.analysis.tables.validity import validity_table

__all__ = ["document_tables", "noted"]


def document_tables(run: Run) -> tuple[Table, ...]:
    """Build every table that the records can fill, the main one first.

    Which ones there are depends on what the grid's strategies vary, read from the records: the paper's tables of
    importance metrics, selection policies, several axes and regimes; quality at equal cost, costs beside quality,
    storage, run time of sample selection, memory and speed of the selective head; standard deviations, further metrics,
    every difference with its intervals, what is noise, whether the workload can tell, the methods; ours beside the
    published figures.

    Raises:
        UnknownNameError: the baseline is not one of the grid's labels.
    """
    figures = published.load()
    built = [
        main_table(run),
        validity_table(run),
        importance_table(run),
        policy_table(run),
        multi_axis_table(run),
        task_table(run),
        comparison_table(run),
        rank_table(run),
        noise_table(run),
        spread_table(run),
        other_table(run),
        matched_table(run),
        cost_table(run),
        storage_table(run, figures),
        runtime_table(run, figures),
        head_table(run, figures),
        *published_tables(run, figures),
        method_table(run),
    ]
    reconstructed = [label for label, one in run.methods.items() if one.reconstructed]
    return tuple(noted(run, _labelled(table, reconstructed)) for table in built if table is not None)


def noted(run: Run, table: Table) -> Table:
    """Say below a table which rows got more seeds than the grid has, if any could."""
    return replace(table, caption=f"{table.caption} {run.seeds_note}".strip())


def _labelled(table: Table, reconstructed: Sequence[str]) -> Table:
    """Say below a table which of its rows were not written from a paper's own equations."""
    shown = {cell.text for row in table.rows for cell in row}
    named = [label for label in reconstructed if label in shown]
    if not named:
        return table
    return replace(table, caption=f"{table.caption} Reconstructed from an abstract: {', '.join(named)}.".strip())
