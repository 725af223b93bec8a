"""Tables of cost: beside quality, and of the selective head."""

from collections.abc import Callable
from functools import partial

import pandas as pd

from harness.analysis.document import Table
from harness.analysis.published import Figures
from harness.analysis.read import Run
from harness.analysis.tables.build import STRATEGY, build, figures, metric_column, timed, words
from harness.analysis.tables.reads import alone_seconds, flops, scaled, tokens_per_second, wall
from harness.records.record import Record

MB = 1e6

_BESIDE = ("accuracy", "perplexity", "heldout_loss", "teacher_kl")

_COSTS: dict[str, Callable[[Record], float | None]] = {
    "FLOPs": flops,
    "Training (s)": alone_seconds,
    "Read from disk (MB)": lambda record: sum(record.cost.disk_bytes.values()) / MB or None,
}

_HEAD: dict[str, Callable[[Record], float | None]] = {
    "Peak of a step (MiB)": lambda record: scaled(record.cost.peak_gib.get("step"), 1024),
    "GPU peak (MiB)": lambda record: scaled(record.cost.peak_gib.get("cuda"), 1024),
    "Training (s)": partial(wall, phase="train"),
    "Tokens per second": tokens_per_second,
    "Head, scoring (GFLOP)": lambda record: scaled(record.cost.flops.get("student_head_scoring"), 1e-9),
    "Head, training (GFLOP)": lambda record: scaled(record.cost.flops.get("student_head_training"), 1e-9),
    "Trunk (GFLOP)": lambda record: scaled(record.cost.flops.get("student_trunk"), 1e-9),
    "Teacher (GFLOP)": lambda record: scaled(
        sum(value for part, value in record.cost.flops.items() if part.startswith("teacher")) or None, 1e-9
    ),
}

_TIMED = ("Training (s)", "Tokens per second")


def cost_table(run: Run) -> Table | None:
    """Build what each strategy cost beside what it reached, also relative to the baseline."""
    means, shares = {}, {}
    columns = []
    for heading, read in _COSTS.items():
        in_time = heading in _TIMED
        base = run.mean(run.manifest.baseline, read, timed=in_time)
        ours = means[heading] = {label: run.mean(label, read, timed=in_time) for label in run.labels}
        shares[heading] = {label: one / base if base and one is not None else None for label, one in ours.items()}
        percent = {label: scaled(one, 100) for label, one in shares[heading].items()}
        relative = f"{heading.split(' (')[0]} (% of baseline)"
        if in_time:
            columns.append(timed(run, heading, ours.get, "{:.3g}"))
            columns.append(timed(run, relative, percent.get, "{:.0f}", also=run.manifest.baseline))
        else:
            columns.append(figures(heading, ours.get))
            columns.append(figures(relative, percent.get, "{:.0f}"))
    numbers = pd.DataFrame(
        {"label": label, "cost": heading, "mean": means[heading][label], "relative_to_baseline": shares[heading][label]}
        for label in run.labels
        for heading in _COSTS
    )
    if numbers["mean"].isna().all():
        return None
    return build(
        "cost",
        "Cost beside quality",
        run.labels,
        [STRATEGY, *(metric_column(run, info) for info in run.measured(_BESIDE)), *columns],
        caption=(
            "Costs are means over seeds and are not compared. FLOPs are counted for the whole trial, with what shared "
            "caches cost. Training seconds are prepass, cache, generation and training, as if the trial ran alone: "
            "what it shared with others is counted in full; evaluation and loading are not. Seconds are those of the "
            "machine at hand, and of whatever ran beside. Disk: bytes of the caches that the trial read or wrote."
            f"{run.busy_note}"
        ),
        numbers=run.flagged(numbers),
    )


def head_table(run: Run, published: Figures) -> Table | None:
    """Build memory, speed and FLOPs of the student's head, if some rows apply it to a part of the positions."""
    methods = run.methods.values()
    if len({one.flow for one in methods}) < 2 and not any("position" in one.axes for one in methods):
        return None
    means = {
        label: {name: run.mean(label, read, timed=name in _TIMED) for name, read in _HEAD.items()}
        for label in run.labels
    }
    rows = [{"label": label, **values} for label, values in means.items() if values["Training (s)"] is not None]
    kept = [name for name in _HEAD if any(row[name] is not None for row in rows)]
    if not rows:
        return None
    return build(
        "head",
        "Memory and speed of the selective head",
        rows,
        [
            STRATEGY,
            words("Logits", lambda row: getattr(run.methods.get(row["label"]), "flow", None)),
            *(
                timed(run, name, name, "{:.1f}" if "(s)" in name else "{:.4g}")
                if name in _TIMED
                else figures(name, name, "{:.1f}" if "MiB" in name else "{:.4g}")
                for name in kept
            ),
            figures(
                "Published student peak (GB)",
                lambda row: published.value(run.methods.get(row["label"]), "student_peak_gb"),
                "{:.2f}",
            ),
        ],
        caption=(
            "Means over seeds. Peak of a step: tensors that the first step's loss and gradients bring to life, the "
            "same on every machine; chunked logits are alive a chunk at a time, dense ones all at once. The head "
            "is applied without gradient to every position a signal scores, with gradient to the selected ones. "
            "Seconds are those of the machine at hand. Published: RTX 3090, batch 2, length 512 (arXiv:2602.01395)."
            f"{run.busy_note}"
        ),
        numbers=run.flagged(pd.DataFrame(rows)[["label", *kept]]),
    )
