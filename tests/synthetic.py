"""Synthetic records with known effects: strategies as records hold them, items that give the recorded numbers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.frame import load
from harness.analysis.read import Run
from harness.records.layout import Results
from harness.records.record import Cost, Failure, Manifest, ManifestEntry, Metric, Record, Rollouts, SampleSummary
from harness.records.store import write_record

SEEDS = (1, 2, 3)
ITEMS = 200


def strategy(**parts: Any) -> dict[str, Any]:
    """A trained strategy as a record holds it: every position, forward KL, off-policy, unless told otherwise."""
    position = {"signal": None, "policy": {"name": "all", "options": {}}, "budget": None}
    return {
        "source": "arXiv:2602.01395",
        "model": "student",
        "train": True,
        "position": position | parts.pop("position", {}),
        "criterion": component("forward_kl"),
        "samples": None,
        "classes": None,
        "normaliser": "sequence_mean",
        "lambda": 1.0,
        "temperature": 1.0,
        "teacher": "cached",
        "flow": "chunked",
    } | parts


def component(name: str, **options: object) -> dict[str, object]:
    return {"name": name, "options": options}


def top_k(signal: str, budget: float = 0.2) -> dict[str, object]:
    return {"signal": component(signal), "policy": component("top_k"), "budget": budget}


TOP_SAMPLES = {"signal": component("student_entropy"), "policy": component("top"), "budget": 0.2}
NO_KD = {"model": "student", "train": False, "source": "the student as it is"}
TEACHER = {"model": "teacher", "train": False, "source": "the teacher as it is"}


def grid(
    folder: Path,
    strategies: Mapping[str, dict[str, Any]],
    effects: Mapping[str, float],
    *,
    baseline: str | None = "Full KD",
    failed: tuple[tuple[str, int], ...] = (),
    core: Mapping[tuple[str, int], float] | None = None,
    seed: int = 0,
) -> Run:
    """Write and load a grid whose labels differ from one another by known amounts.

    Args:
        folder: where the results go.
        strategies: the strategy of each label; an untrained one has one trial without a seed.
        effects: what each label's items gain in ability and its held-out loss loses; 0 where none is given.
        baseline: the manifest's.
        failed: (label, seed) of trials that failed.
        core: by (label, seed), the share of training in which the trial's thread had a core; a trial that had less took
            as much longer. Not recorded where None; 1 for a trial that is not named.
        seed: of everything random.
    """
    draw = np.random.default_rng(seed)
    easy = draw.normal(size=ITEMS)
    entries = []
    for label, described in strategies.items():
        for number in SEEDS if described.get("train", True) else (None,):
            trial = "t" + re.sub(r"[^A-Za-z0-9.-]", "_", f"{label}-{number}")
            entries.append(ManifestEntry(trial_id=trial, label=label, seed=number))
            effect = effects.get(label, 0.0)
            right = (draw.normal(size=ITEMS) + easy + effect > 0).astype(float)
            loss = 2.0 - 0.1 * effect + 0.002 * draw.normal()
            lost = (label, number) in failed
            metrics = {
                "accuracy": Metric(value=right.mean(), stderr=right.std(ddof=1) / ITEMS**0.5, num=ITEMS),
                "heldout_loss": Metric(value=loss, stderr=0.01, num=10_000),
            }
            items = pd.DataFrame({"task": "quiz", "item": range(ITEMS), "metric": "accuracy", "value": right})
            record = Record(
                trial_id=trial,
                label=label,
                strategy={"label": label, **described},
                workload={
                    "name": "synthetic",
                    "teacher": {"path": "./teacher"},
                    "student": {"path": "./student"},
                    "data": {"generator": "tiny", "sequence_length": 100, "train_tokens": 100_050},
                    "optimisation": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
                    "evaluation": {"suite": "quiz", "num_items": ITEMS},
                },
                seed=number,
                sources={},
                core="c0ffee",
                status="failed" if lost else "finished",
                metrics={} if lost else metrics,
                samples=_samples(described),
                rollouts=_rollouts(described),
                cost=Cost()
                if lost or number is None
                else _cost(described, None if core is None else core.get((label, number), 1.0)),
                environment={"torch": "2.13.0"} | ({} if core is None else {"device": "cpu"}),
                started_at="",
                finished_at="",
                failure=Failure(kind="MemoryError", message="out of memory", traceback="") if lost else None,
            )
            extra = items.assign(confidence=np.nan, correct=np.nan)
            write_record(Results(folder), record, {} if lost else {"items": extra})
    manifest = Manifest(
        grid="synthetic",
        hypothesis="",
        workload="synthetic",
        baseline=baseline,
        split="test",
        command="harness run grids/synthetic.yaml",
        trials=tuple(entries),
    )
    return Run(manifest, load(folder, manifest))


def _rollouts(described: dict[str, Any]) -> Rollouts | None:
    return Rollouts(sequences=10, generated_tokens=1200, ended=9) if described.get("rollout") else None


def _samples(described: dict[str, Any]) -> SampleSummary | None:
    if not described.get("samples"):
        return None
    return SampleSummary(num_samples=1000, kept_samples=200, prepass="reused")


def _cost(described: dict[str, Any], core: float | None) -> Cost:
    share = described["samples"]["budget"] if described.get("samples") else 1.0
    stored = described["teacher"] == "sampled"
    prepass = bool(described.get("samples")) and described["samples"].get("signal") is not None
    train = 50.0 * share / (core or 1.0)
    return Cost(
        wall_s={"load": 1.0, "train": train, "eval": 3.0} | ({"prepass": 0.0} if prepass else {}),
        cpu_s={} if core is None else {"train": 2 * 50.0 * share},
        thread_s={} if core is None else {"train": 50.0 * share},
        peak_gib={"step": 0.25, "process": 1.0},
        flops={"student_trunk": 1e12 * share, "student_head_training": 5e11 * share},
        tokens=int(100_000 * share),
        disk_bytes={"sampled": int(3_000_000 * share)} if stored else {"hidden": 51_200_000},
        shared_s={"sampled": 4.0 * share} if stored else {"hidden": 20.0} | ({"prepass": 6.0} if prepass else {}),
    )
