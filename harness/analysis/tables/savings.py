"""Tables of what selection saves: stored supervision, and the run time of sample selection."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from harness.analysis.document import Column, Table
from harness.analysis.published import Figures
from harness.analysis.read import Run
from harness.analysis.tables.build import STRATEGY, Filled, build, figures, number, seeds, words
from harness.analysis.tables.reads import alone_seconds, bytes_per_token, own_seconds, phase_seconds, stored_share
from harness.records.record import Record

TOKENS = 100e9

# What a pass of the teacher stores.
_TEACHERS = ("hidden", "scores", "sampled", "topk")


def storage_table(run: Run, published: Figures) -> Table | None:
    """Build the measured bytes per token of each strategy's stored supervision, and what 100B tokens would take."""
    rows, full = [], []
    for label in run.labels:
        for kind in sorted({kind for record in run.records[label] for kind in record.cost.disk_bytes} - {"prepass"}):
            per_token = run.mean(label, partial(bytes_per_token, kind=kind))
            share = run.mean(label, partial(stored_share, kind=kind))
            if per_token is None or share is None:
                continue
            theirs = None if kind == "hidden" else published.value(run.methods.get(label), "terabytes")
            rows.append(_stored(label, kind, per_token, share, theirs, f"{per_token:.4g} B x {share:.3g}"))
    if not rows:
        return None
    theirs = published.find("Full KD", "terabytes")
    for size, name, paper in ((1, "as the paper counts", theirs), (2, "float16", None)):
        arithmetic = f"100000 classes x {size} B"
        full.append(_stored(f"Full logits, {name}", "arithmetic", 100_000.0 * size, 1.0, paper, arithmetic))

    def measured(heading: str, key: str, text: str) -> Filled:
        whole = "{:.0f}"
        return Column(heading=heading), lambda row: number(row[key], whole if row["kind"] == "arithmetic" else text)

    return build(
        "storage",
        "Storage",
        rows + full,
        [
            STRATEGY,
            words("Stored", "kind"),
            measured("Bytes per token", "bytes_per_token", "{:.1f}"),
            figures("Tokens stored (%)", lambda row: 100 * row["share_of_tokens"], "{:.0f}"),
            measured("100B tokens (TB)", "terabytes_100b", "{:.2f}"),
            words("Arithmetic", "arithmetic"),
            figures("Published (TB)", "published_terabytes", "{:g}"),
        ],
        caption=(
            "Bytes per token are measured: bytes of the cache on disk, its checksums and indices included, over the "
            "tokens it holds. They hold for this workload's vocabulary and teacher; ids of a larger vocabulary take "
            "more bits, a wider teacher's hidden states more bytes. The extrapolation is bytes per token, times the "
            "share of tokens stored, times 100B. The published column (100,000 classes) counts 3 bytes per draw, "
            "repeated draws included; here a class that is drawn again is stored once with its count."
        ),
        numbers=pd.DataFrame(rows).drop(columns="arithmetic"),
    )


def _stored(
    label: str, kind: str, per_token: float, share: float, published: float | None, arithmetic: str
) -> dict[str, object]:
    return {
        "label": label,
        "kind": kind,
        "bytes_per_token": per_token,
        "share_of_tokens": share,
        "terabytes_100b": per_token * share * TOKENS / 1e12,
        "published_terabytes": published,
        "arithmetic": f"{arithmetic} x 1e11 / 1e12",
    }


def runtime_table(run: Run, published: Figures) -> Table | None:
    """Build the seconds of each phase, if any strategy selects samples."""
    if not any(one.sample_policy is not None for one in run.methods.values()):
        return None
    parts: dict[str, tuple[str, Callable[[Record], float | None]]] = {
        "prepass_s": ("Prepass (s)", lambda record: phase_seconds(record, "prepass", ("prepass",))),
        "cache_s": ("Cache (s)", lambda record: phase_seconds(record, "cache", _TEACHERS)),
        "train_s": ("Train (s)", lambda record: record.cost.wall_s.get("train")),
        "total_alone_s": ("Total alone (s)", alone_seconds),
        "total_shared_s": ("Total, shared (s)", own_seconds),
    }
    base = run.mean(run.manifest.baseline, alone_seconds)
    full = published.find("Full KD", "wall_hours_total")
    rows = []
    for label in run.labels:
        row: dict[str, Any] = {"label": label} | {name: run.mean(label, read) for name, (_, read) in parts.items()}
        if row["train_s"] is None:
            continue
        row["change_percent"] = _change(row["total_alone_s"], base)
        row["published_hours"] = published.value(run.methods.get(label), "wall_hours_total")
        rows.append(row)
    if not rows:
        return None
    return build(
        "runtime",
        "Run time of sample selection",
        rows,
        [
            STRATEGY,
            seeds(run),
            *(figures(heading, name, "{:.1f}") for name, (heading, _) in parts.items()),
            figures(f"Against {run.manifest.baseline or 'the baseline'} (%)", "change_percent", "{:+.0f}"),
            figures("Published (h)", "published_hours", "{:.1f}"),
            figures("Published (%)", lambda row: _change(row["published_hours"], full), "{:+.0f}"),
        ],
        caption=(
            "Means over seeds. Prepass: scoring every training sequence with the initial student. Cache: the teacher's "
            "pass. Alone: what the strategy would take if nothing were shared between trials; shared: what this trial "
            "itself took. Evaluation and loading are left out. Published: hours on an RTX 3090 for 80M tokens "
            "(arXiv:2602.01395), and against its Full KD: other hardware, models and data, so compare percentages at "
            "most. There SE-KD 3X builds its cache; with the cache at hand it takes 4.0 hours."
        ),
        numbers=pd.DataFrame(rows),
    )


def _change(value: float | None, base: float | None) -> float | None:
    """Return in percent how much a value exceeds another."""
    return None if value is None or not base else 100 * (value / base - 1)
