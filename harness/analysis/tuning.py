"""What tuning says: the best of so many trials, which row would have won, and where the choice lies.

Values are costs, lower is better; a trial that diverged counts as infinite.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.analysis.frame import load
from harness.analysis.inference import Values
from harness.analysis.metrics import describe
from harness.analysis.read import Run
from harness.records.record import Manifest, ManifestEntry, Tuning

RESAMPLES = 1000

# R = rows, D = draws of each, S = tuning seeds


@dataclass(frozen=True)
class Tuned:
    """The trials that a grid's rows were tuned by.

    Attributes:
        tuning: which they are, and what was chosen.
        costs: by row, (D, S): the metric that chose, its sign such that lower is better; infinite where it diverged.
        flops: of all of them, in training.
        common: the rows as they are reported at the workload's own settings.
    """

    tuning: Tuning
    costs: Mapping[str, Values]
    flops: float
    common: Run

    def chosen_draw(self, label: str) -> int | None:
        """Return which draw was chosen for a row; None where all diverged."""
        return best_draw(self.costs[label])

    def at_edge(self, label: str) -> tuple[str, ...]:
        """Return the settings whose chosen value is the least or the largest that was tried."""
        chosen = self.tuning.chosen[label]
        tried = {path: [trial.settings[path] for trial in self.tuning.trials] for path in chosen}
        return tuple(path for path, value in chosen.items() if value in (min(tried[path]), max(tried[path])))


def read_tuned(folder: Path, manifest: Manifest) -> Tuned | None:
    """Read the tuning trials of a manifest, and its rows at the common settings; None where nothing was tuned."""
    tuning = manifest.tuning
    if tuning is None:
        return None
    entries = tuple(
        ManifestEntry(trial_id=trial.trial_id, label=f"{trial.label} {trial.draw}", seed=trial.seed)
        for trial in tuning.trials
    )
    alone = {"tuning": None, "claims": (), "second_look": None}
    frames = load(folder, manifest.model_copy(update={**alone, "trials": entries}))
    found = {
        (trial.label, trial.draw, trial.seed): math.nan if record is None else _value(record.metrics, tuning.metric)
        for trial, record in zip(tuning.trials, frames.records, strict=True)
    }
    draws, sign = range(1 + max(trial.draw for trial in tuning.trials)), _sign(tuning.metric)
    costs = {
        label: np.array([[sign * found[label, draw, seed] for seed in tuning.seeds] for draw in draws])
        for label in tuning.chosen
    }
    flops = float(sum(sum(record.cost.flops.values()) for record in frames.records if record is not None))
    shared = manifest.model_copy(update={**alone, "trials": tuning.common})
    finite = {label: np.where(np.isfinite(each), each, np.inf) for label, each in costs.items()}
    return Tuned(tuning, finite, flops, Run(shared, load(folder, shared)))


def best_draw(costs: Values) -> int | None:
    """Return the draw of the least mean over seeds, (D, S), the first of equals; None where every one diverged."""
    means = costs.mean(axis=1)
    return int(means.argmin()) if np.isfinite(means).any() else None


def expected_best(costs: Values, num: int, *, replacement: bool) -> float:
    """Return the expected least of `num` of the costs, (D,).

    Args:
        costs: one of each draw.
        num: trials that are drawn from them, from 1 to D.
        replacement: draw with replacement, which is biased upwards and varies less (arXiv:1909.03004, equation 3);
            without, which is unbiased (arXiv:2004.13705, equation 2).
    """
    ordered, size = np.sort(costs)[::-1], len(costs)
    rank = np.arange(1, size + 1)
    if replacement:
        weights = (rank / size) ** num - ((rank - 1) / size) ** num
    else:
        weights = np.array([math.comb(int(place) - 1, num - 1) for place in rank]) / math.comb(size, num)
    return float(np.dot(weights[weights > 0], ordered[weights > 0]))


def win_shares(costs: Mapping[str, Values], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, float]:
    """Return how often each row would have had the least cost, had the tuning been done anew.

    Draws and seeds are drawn with replacement, the same for every row, since rows share both; each row chooses its best
    draw among them. Rows that are equal share a win.
    """
    stacked = np.stack(list(costs.values()))
    num_rows, num_draws, num_seeds = stacked.shape
    random = np.random.Generator(np.random.PCG64(seed))
    wins = np.zeros(num_rows)
    for _ in range(resamples):
        draws, seeds = random.integers(num_draws, size=num_draws), random.integers(num_seeds, size=num_seeds)
        best = stacked[:, draws][:, :, seeds].mean(axis=2).min(axis=1)
        first = best == best.min()
        wins += first / first.sum()
    return dict(zip(costs, (wins / resamples).tolist(), strict=True))


def _value(metrics: Mapping[str, object], key: str) -> float:
    return float(getattr(metrics.get(key), "value", math.nan))


def _sign(metric: str) -> float:
    return -1.0 if describe(metric).direction == "higher" else 1.0
