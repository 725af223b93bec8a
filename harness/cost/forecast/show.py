"""A forecast in the terminal."""

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.config.errors import UserError
from harness.config.overrides import Overrides
from harness.cost.accounting import GIB
from harness.cost.forecast.calibrate import measure
from harness.cost.forecast.disk import size_of
from harness.cost.forecast.forecast import MFU, Forecast, Row, make_forecast
from harness.cost.forecast.gpus import gpu_named, usable_gib
from harness.records.layout import Results

_SIGNS = {"exact": "", "at most": "≤ ", "about": "≈ "}


def forecast_and_print(
    console: Console,
    grid: Path | None,
    workload: str | None,
    *,
    overrides: Overrides,
    teacher: str | None = None,
    gpu: str | None,
    mfu: float,
    results: Results,
    steps: int,
    part: bool,
) -> None:
    """Work out what a grid takes and print it.

    Args:
        console: where to print.
        grid: a grid file; the paper's main rows if None.
        workload: instead of the grid's.
        overrides: what stands in the workload instead, by dotted path.
        teacher: `online` for every strategy that would read the teacher's cached states.
        gpu: a GPU of the table; hours and what fits are left out if None.
        mfu: the share of its peak that is taken to be reached.
        results: where packed text is looked for.
        steps: steps to train on the device that is there; none if 0.
        part: whether a part of the grid or a split was asked for, which a forecast does not know.

    Raises:
        UserError: as `make_forecast`.
        UnknownNameError: as `make_forecast`, or no GPU of this name.
    """
    if part:
        raise UserError(
            "--split, --seeds, --only, --sample, --decide and --tune choose what to run; a forecast is of every row of "
            "a grid, without evaluation"
        )
    with console.status("") as status:
        found = make_forecast(
            grid,
            workload,
            overrides=overrides,
            teacher=teacher,
            gpu=None if gpu is None else gpu_named(gpu),
            mfu=mfu,
            results=results,
            measured=partial(measure, steps=steps) if steps else None,
            on_row=lambda label: status.update(f"counting {label}"),
        )
    print_forecast(console, found)


def print_forecast(console: Console, found: Forecast) -> None:
    """Print a line per strategy, the grid's totals, and what to change if the largest does not fit."""
    table = Table(title=f"{found.name} on {found.workload.name}", title_justify="left")
    table.add_column("strategy")
    measured = any(row.measured is not None for row in found.rows)
    hours = "h per trial, measured" if measured else "h per trial"
    columns = ("trials", "steps", "PFLOP per trial", hours, "peak GiB", "teacher", "optimiser", "activations", "fits")
    for heading in (*columns, *(("peak GiB, measured",) if measured else ())):
        table.add_column(heading, justify="right")
    for row in found.rows:
        peak = "-" if row.measured is None else f"{row.measured.peak_gib:.3g}"
        table.add_row(row.label, *_cells(found, row), *((peak,) if measured else ()))
    console.print(table)
    for line in _lines(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _cells(found: Forecast, row: Row) -> list[str]:
    cells = [str(row.num_trials), f"{row.num_steps:,}"]
    if row.memory is None:
        return [*cells, *["-"] * 7]
    hours, fits = found.hours_of(row), found.fits(row)
    sign, memory = _SIGNS[row.exactness], row.memory
    sizes = (memory.total, memory.teacher, memory.optimiser, memory.activations)
    return [
        *cells,
        f"{sign}{sum(row.flops.values()) / 1e15:.4g}",
        "-" if hours is None else f"{hours:.3g}",
        *(_gib(size) for size in sizes),
        "-" if fits is None else "yes" if fits else "no",
    ]


def _lines(found: Forecast) -> list[str]:
    lines = []
    own = [found.hours_of(row) for row in found.rows if row.memory is not None for _ in range(row.num_trials)]
    shared = found.hours(found.shared_flops)
    total = f"In all {found.total_flops / 1e15:,.4g} PFLOP, {found.shared_flops / 1e15:,.4g} of them shared"
    if None not in own and own:
        known = sum(hours for hours in own if hours is not None)
        total += f"; {known + (shared or 0.0):,.3g} h one trial after the other, without evaluation"
    lines.append(total + ".")
    if found.gpu is not None:
        peak = found.gpu.peak(found.workload.resources.dtype) / 1e12
        shipped = ", an estimate for workloads as shipped" if found.mfu == MFU else ""
        lines.append(
            f"Hours without a measurement are at {found.mfu:.0%} (--mfu{shipped}) of {peak:,.0f} TFLOP/s, "
            f"{found.gpu.name}'s peak in {found.workload.resources.dtype}. It leaves "
            f"{usable_gib(found.gpu):.1f} of its {found.gpu.memory_gib:.1f} GiB to tensors."
        )
    processes = found.workload.resources.data_parallel
    if processes > 1:
        lines.append(
            f"A trial takes {processes} processes at once. Its hours are those of 1/{processes} of its work, as if "
            "none waited for another; its peak is one process's."
        )
    if found.cache_bytes:
        fits = found.gpu is None or found.cache_bytes / GIB <= usable_gib(found.gpu)
        verdict = "" if fits else ", which does not fit"
        lines.append(f"Building the teacher's caches takes {_gib(found.cache_bytes)} GiB{verdict}.")
    disk = sorted(found.disk.values(), key=lambda each: -each.num_bytes)
    parts = [f"{each.kind} {'at most ' if each.at_most else ''}{size_of(each.num_bytes)}" for each in disk]
    lines.append(f"On disk {size_of(sum(each.num_bytes for each in disk))}: {', '.join(parts)}.")
    if sum(each.num_bytes for each in disk) > found.free_bytes:
        lines.append(
            f"Only {size_of(found.free_bytes)} are free there. `--teacher online` stores no hidden states "
            "and runs the teacher in every trial; `teacher: sampled` (class policy rs) stores draws instead."
        )
    largest = max((row.memory.checkpoint for row in found.rows if row.memory is not None), default=0)
    lines.append(f"A trial that is under way has a checkpoint of up to {size_of(largest)} besides.")
    others = sum(found.fits(row) is False for row in found.rows) - 1
    for row in found.rows:
        if row.changes:
            told = "; ".join(f"{each.what} gives {each.gib:.1f}{'' if each.fits else ' (still no)'}"
                             for each in row.changes)  # fmt: skip
            most = f" It takes the most of {others + 1} that do not." if others else ""
            lines.append(f"{row.label} does not fit. In GiB: {told}.{most}")
    return lines


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.3g}"
