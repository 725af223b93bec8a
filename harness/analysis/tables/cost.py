"""Tables of cost: beside quality, and of the selective head."""

from collections.abc import Callable, Iterator

import pandas as pd

from harness.analysis.document import Cell, Column, Table
from harness.analysis.published import Figures
from harness.analysis.read import Run
from harness.analysis.tables.build import metric_cell, metric_column, number, strategy_column
from harness.analysis.tables.reads import alone_seconds, scaled, tokens_per_second
from harness.analysis.tables.savings import runtime_table, storage_table
from harness.records.record import Record

MB = 1e6

_BESIDE = ("accuracy", "perplexity", "heldout_loss", "teacher_kl")


def cost_table(run: Run) -> Table | None:
    """Build what each strategy cost beside what it reached, also relative to the baseline."""
    shown = run.measured(_BESIDE)
    reads: dict[str, Callable[[Record], float | None]] = {
        "FLOPs": lambda record: sum(record.cost.flops.values()) or None,
        "Training (s)": lambda record: alone_seconds(record),
        "Read from disk (MB)": lambda record: sum(record.cost.disk_bytes.values()) / MB or None,
    }
    rows, numbers = [], []
    for label in run.labels:
        cells = []
        for heading, read in reads.items():
            ours, theirs = run.mean(label, read), run.mean(run.manifest.baseline, read)
            relative = None if ours is None or not theirs else ours / theirs
            cells += [number(ours), number(None if relative is None else 100 * relative, "{:.0f}")]
            numbers.append({"label": label, "cost": heading, "mean": ours, "relative_to_baseline": relative})
        rows.append((Cell(text=label), *(metric_cell(run, label, info) for info in shown), *cells))
    table = pd.DataFrame(numbers)
    if table["mean"].isna().all():
        return None
    columns = [
        Column(heading=name) for heading in reads for name in (heading, f"{heading.split(' (')[0]} (% of baseline)")
    ]
    return Table(
        name="cost",
        title="Cost beside quality",
        columns=(strategy_column(), *map(metric_column, shown), *columns),
        rows=tuple(rows),
        caption=(
            "Costs are means over seeds and are not compared. FLOPs are counted for the whole trial, with what shared "
            "caches cost. Training seconds are prepass, cache, generation and training, as if the trial ran alone: "
            "what it shared with others is counted in full; evaluation and loading are not. Seconds are those of the "
            "machine at hand, and of whatever ran beside. Disk: bytes of the caches that the trial read or wrote."
        ),
        numbers=table,
    )


def head_table(run: Run, published: Figures) -> Table | None:
    """Build memory, speed and FLOPs of the student's head, if some rows apply it to a part of the positions."""
    methods = run.methods.values()
    if len({one.flow for one in methods}) < 2 and not any("position" in one.axes for one in methods):
        return None
    reads: dict[str, Callable[[Record], float | None]] = {
        "Peak of a step (MiB)": lambda record: scaled(record.cost.peak_gib.get("step"), 1024),
        "GPU peak (MiB)": lambda record: scaled(record.cost.peak_gib.get("cuda"), 1024),
        "Training (s)": lambda record: record.cost.wall_s.get("train"),
        "Tokens per second": tokens_per_second,
        "Head, scoring (GFLOP)": lambda record: scaled(record.cost.flops.get("student_head_scoring"), 1e-9),
        "Head, training (GFLOP)": lambda record: scaled(record.cost.flops.get("student_head_training"), 1e-9),
        "Trunk (GFLOP)": lambda record: scaled(record.cost.flops.get("student_trunk"), 1e-9),
        "Teacher (GFLOP)": lambda record: scaled(
            sum(value for part, value in record.cost.flops.items() if part.startswith("teacher")) or None, 1e-9
        ),
    }
    found = {label: {name: run.mean(label, read) for name, read in reads.items()} for label in run.labels}
    found = {label: values for label, values in found.items() if values["Training (s)"] is not None}
    kept = [name for name in reads if any(values[name] is not None for values in found.values())]
    if not found:
        return None
    rows = []
    for label, values in found.items():
        one = run.methods.get(label)
        theirs = published.value(one, "student_peak_gb")
        cells = [number(values[name], "{:.1f}" if "MiB" in name or "(s)" in name else "{:.4g}") for name in kept]
        rows.append((Cell(text=label), Cell(text="—" if one is None else one.flow), *cells, number(theirs, "{:.2f}")))
    numbers = pd.DataFrame(
        [{"label": label, **{name: values[name] for name in kept}} for label, values in found.items()]
    )
    return Table(
        name="head",
        title="Memory and speed of the selective head",
        columns=(
            strategy_column(),
            Column(heading="Logits", numeric=False),
            *(Column(heading=name) for name in kept),
            Column(heading="Published student peak (GB)"),
        ),
        rows=tuple(rows),
        caption=(
            "Means over seeds. Peak of a step: tensors that the first step's loss and gradients bring to life, the "
            "same on every machine; chunked logits are alive a chunk at a time, dense ones all at once. The head "
            "is applied without gradient to every position a signal scores, with gradient to the selected ones. "
            "Seconds are those of the machine at hand. Published: RTX 3090, batch 2, length 512 (arXiv:2602.01395)."
        ),
        numbers=numbers,
    )


def cost_tables(run: Run, published: Figures) -> Iterator[Table | None]:
    """Yield the tables of cost; None for those this grid cannot fill."""
    yield cost_table(run)
    yield storage_table(run, published)
    yield runtime_table(run, published)
    yield head_table(run, published)
