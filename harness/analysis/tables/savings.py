"""Tables of what selection saves: stored supervision, and the run time of sample selection."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from harness.analysis.document import Column, Table
from harness.analysis.published import Figures
from harness.analysis.read import Run
from harness.analysis.tables.build import STRATEGY, Filled, build, figures, metric_column, number, seeds, timed, words
from harness.analysis.tables.reads import alone_seconds, bytes_per_token, phase_seconds, stored_share, wall

TOKENS = 100e9

# What a pass of the teacher stores; targets are all that a student then needs of it.
_TARGETS = ("sampled", "topk")
_TEACHERS = ("hidden", "scores", *_TARGETS)
_PARTS = {"prepass_s": "Prepass (s)", "cache_s": "Cache (s)", "train_s": "Train (s)", "total_s": "Total (s)"}


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
    for name, classes, size, row in (
        ("Full logits, as the paper counts", 100_000, 1, "Full KD"),
        ("Full logits, float16", 100_000, 2, ""),
        ("Cross-entropy, targets as packed here", 1, 4, "Vanilla CE"),
    ):
        paper = published.find(row, "terabytes")
        full.append(
            _stored(
                name,
                "arithmetic",
                float(classes * size),
                1.0,
                paper,
                f"{classes} class{'es' * (classes > 1)} x {size} B",
            )
        )

    def measured(heading: str, key: str, text: str) -> Filled:
        exact = "{:.6g}"
        return Column(heading=heading), lambda row: number(row[key], exact if row["kind"] == "arithmetic" else text)

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
    """Build seconds of each phase beside accuracy, if any strategy selects samples.

    A strategy that trains from stored targets stands there twice: its cache to be made, and its cache at hand.
    """
    if not any(one.sample_policy is not None for one in run.methods.values()):
        return None
    base = run.mean(run.manifest.baseline, alone_seconds, timed=True)
    full = published.runtime(None)["wall_hours_total"]
    rows = list[dict[str, Any]]()
    for label in run.labels:
        train = run.mean(label, partial(wall, phase="train"), timed=True)
        if train is None:
            continue
        parts = {
            "prepass_s": run.mean(label, partial(phase_seconds, phase="prepass", shared=("prepass",)), timed=True),
            "cache_s": run.mean(label, partial(phase_seconds, phase="cache", shared=_TEACHERS), timed=True),
            "train_s": train,
            "total_s": run.mean(label, alone_seconds, timed=True),
        }
        method = run.methods.get(label)
        stores = method is not None and method.teacher in _TARGETS
        rows.append(_run(f"{label}, making its cache" if stores else label, label, parts, published.runtime(method)))
        if stores:
            reused = {"prepass_s": None, "cache_s": None, "train_s": train, "total_s": train}
            theirs = published.runtime(method, cache_at_hand=True)
            rows.append(_run(f"{label}, its cache at hand", label, reused, theirs))
    if not rows:
        return None
    for row in rows:
        row["change_percent"] = _change(row["total_s"], base)
        row["published_change_percent"] = _change(row["published_hours"], full)
    return build(
        "runtime",
        "Run time and accuracy of sample selection",
        rows,
        [
            words("Strategy", "row"),
            seeds(run),
            *(timed(run, heading, name) for name, heading in _PARTS.items()),
            timed(
                run,
                f"Against {run.manifest.baseline or 'the baseline'} (%)",
                "change_percent",
                "{:+.0f}",
                also=run.manifest.baseline,
            ),
            *(metric_column(run, info) for info in run.measured(("accuracy",))),
            figures("Published selection (h)", "published_selection_hours", "{:.1f}"),
            figures("Published (h)", "published_hours", "{:.1f}"),
            figures("Published (%)", "published_change_percent", "{:+.0f}"),
            figures("Published accuracy (%)", "published_accuracy", "{:.1f}"),
        ],
        caption=(
            "Means over seeds. Prepass: scoring every training sequence with the initial student. Cache: the teacher's "
            "pass. Total: what the strategy would take if nothing were shared between trials; with its cache at hand, "
            "its training alone. Evaluation and loading are left out. Published: hours on an RTX 3090 for 80M tokens, "
            "single runs (arXiv:2602.01395), and against its Full KD: other hardware, models and data, so compare "
            f"percentages at most.{run.busy_note}"
        ),
        numbers=run.flagged(pd.DataFrame(rows)),
    )


def _run(row: str, label: str, parts: Mapping[str, float | None], published: Mapping[str, float]) -> dict[str, Any]:
    return {
        "row": row,
        "label": label,
        **parts,
        "published_selection_hours": published.get("wall_hours_prepass"),
        "published_hours": published.get("wall_hours_total"),
        "published_accuracy": published.get("accuracy"),
    }


def _change(value: float | None, base: float | None) -> float | None:
    """Return in percent how much a value exceeds another."""
    return None if value is None or not base else 100 * (value / base - 1)
