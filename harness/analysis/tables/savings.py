"""Tables of what selection saves: stored supervision, and the run time of sample selection."""

from collections.abc import Callable

import pandas as pd

from harness.analysis.document import Cell, Column, Table
from harness.analysis.published import Figures
from harness.analysis.read import Run
from harness.analysis.tables.build import NOTHING, number, seeds_cell, strategy_column
from harness.analysis.tables.reads import alone_seconds, bytes_per_token, own_seconds, phase_seconds, stored_share
from harness.records.record import Record

TOKENS = 100e9


def storage_table(run: Run, published: Figures) -> Table | None:
    """Build the measured bytes per token of each strategy's stored supervision, and what 100B tokens would take."""
    rows, numbers = [], []
    for label in run.labels:
        for kind in sorted({kind for record in run.records[label] for kind in record.cost.disk_bytes} - {"prepass"}):
            per_token = run.mean(label, lambda record, kind=kind: bytes_per_token(record, kind))  # type: ignore[misc]
            share = run.mean(label, lambda record, kind=kind: stored_share(record, kind))  # type: ignore[misc]
            if per_token is None or share is None:
                continue
            terabytes = per_token * share * TOKENS / 1e12
            theirs = published.value(run.methods.get(label), "terabytes") if kind != "hidden" else None
            arithmetic = f"{per_token:.4g} B x {share:.3g} x 1e11 / 1e12"
            rows.append(
                (
                    Cell(text=label),
                    Cell(text=kind),
                    number(per_token, "{:.1f}"),
                    number(100 * share, "{:.0f}"),
                    number(terabytes, "{:.2f}"),
                    Cell(text=arithmetic),
                    number(theirs, "{:g}"),
                )
            )
            numbers.append(
                {
                    "label": label,
                    "kind": kind,
                    "bytes_per_token": per_token,
                    "share_of_tokens": share,
                    "terabytes_100b": terabytes,
                    "published_terabytes": theirs,
                }
            )
    if not rows:
        return None
    for size, told in ((1, "as the paper counts"), (2, "float16")):
        terabytes = 100_000 * size * TOKENS / 1e12
        rows.append(
            (
                Cell(text=f"Full logits, {told}"),
                Cell(text="arithmetic"),
                number(100_000.0 * size, "{:.0f}"),
                number(100, "{:.0f}"),
                number(terabytes, "{:.0f}"),
                Cell(text=f"100000 classes x {size} B x 1e11 / 1e12"),
                number(published.find("Full KD", "terabytes"), "{:g}") if size == 1 else NOTHING,
            )
        )
    return Table(
        name="storage",
        title="Storage",
        columns=(
            strategy_column(),
            Column(heading="Stored", numeric=False),
            Column(heading="Bytes per token"),
            Column(heading="Tokens stored (%)"),
            Column(heading="100B tokens (TB)"),
            Column(heading="Arithmetic", numeric=False),
            Column(heading="Published (TB)"),
        ),
        rows=tuple(rows),
        caption=(
            "Bytes per token are measured: bytes of the cache on disk, its checksums and indices included, over the "
            "tokens it holds. They hold for this workload's vocabulary and teacher; ids of a larger vocabulary take "
            "more bits, a wider teacher's hidden states more bytes. The extrapolation is bytes per token, times the "
            "share of tokens stored, times 100B. The published column (100,000 classes) counts 3 bytes per draw, "
            "repeated draws included; here a class that is drawn again is stored once with its count."
        ),
        numbers=pd.DataFrame(numbers),
    )


def runtime_table(run: Run, published: Figures) -> Table | None:
    """Build the seconds of each phase, if any strategy selects samples."""
    if not any(one.sample_policy is not None for one in run.methods.values()):
        return None
    parts: dict[str, Callable[[Record], float | None]] = {
        "Prepass (s)": lambda record: phase_seconds(record, "prepass", ("prepass",)),
        "Cache (s)": lambda record: phase_seconds(record, "cache", ("hidden", "scores", "sampled", "topk")),
        "Train (s)": lambda record: record.cost.wall_s.get("train"),
        "Total alone (s)": alone_seconds,
        "Total, shared (s)": lambda record: own_seconds(record),
    }
    base = run.mean(run.manifest.baseline, alone_seconds)
    full = published.find("Full KD", "wall_hours_total")
    rows, numbers = [], []
    for label in run.labels:
        values = {heading: run.mean(label, read) for heading, read in parts.items()}
        if values["Train (s)"] is None:
            continue
        saved = None if not base or values["Total alone (s)"] is None else 100 * (values["Total alone (s)"] / base - 1)
        hours = published.value(run.methods.get(label), "wall_hours_total")
        theirs = None if hours is None or not full else 100 * (hours / full - 1)
        cells = [number(value, "{:.1f}") for value in values.values()]
        tail = (number(saved, "{:+.0f}"), number(hours, "{:.1f}"), number(theirs, "{:+.0f}"))
        rows.append((Cell(text=label), seeds_cell(run, label), *cells, *tail))
        named = {
            heading.replace(" (s)", "_s").replace(", ", "_").replace(" ", "_").lower(): value
            for heading, value in values.items()
        }
        numbers.append({"label": label, **named, "change_percent": saved, "published_hours": hours})
    if not rows:
        return None
    headings = [*parts, f"Against {run.manifest.baseline or 'the baseline'} (%)", "Published (h)", "Published (%)"]
    return Table(
        name="runtime",
        title="Run time of sample selection",
        columns=(strategy_column(), Column(heading="Seeds"), *(Column(heading=heading) for heading in headings)),
        rows=tuple(rows),
        caption=(
            "Means over seeds. Prepass: scoring every training sequence with the initial student. Cache: the teacher's "
            "pass. Alone: what the strategy would take if nothing were shared between trials; shared: what this trial "
            "itself took. Evaluation and loading are left out. Published: hours on an RTX 3090 for 80M tokens "
            "(arXiv:2602.01395), and against its Full KD: other hardware, models and data, so compare percentages at "
            "most. There SE-KD 3X builds its cache; with the cache at hand it takes 4.0 hours."
        ),
        numbers=pd.DataFrame(numbers),
    )
