"""How often the test of differences errs, by simulation: `python -m scripts.error_rates` prints docs/method.md's table.

Tables of comparisons are drawn in which no strategy differs from the baseline, with the variances that the comparisons
of a committed report show: what single answers alone bring about, what items bring about, and by what factor seeds
widen the former. A finding in such a table is an error.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.analysis.cells import PairedLabels
from harness.analysis.frame import load
from harness.analysis.inference import Spread, Values, holm, tail
from harness.analysis.moderation import Prior, prior_of
from harness.analysis.noise import noise_floor
from harness.analysis.read import Run
from harness.analysis.statistics import LEVEL, Versus, judge, pair_with
from harness.records.store import read_manifest

REPORTS = Path(__file__).parents[1] / "reports"
SCENARIOS = ("homoscedastic", "observed", "fitted", "one at 5x", "baseline at 5x")
TABLES = 2000

# K = comparisons, S = seeds


@dataclass(frozen=True)
class Calibration:
    """What the comparisons of one metric in a report show.

    Attributes:
        spread: of the mean differences, K of them, over `seeds` seeds.
        constant: whether each is from a model as it is, (K,).
        seeds: S.
        prior: as `moderation.prior_of` estimates it.
        detectable: the difference that the noise table says is found with a power of 80%.
    """

    spread: Spread
    constant: np.ndarray
    seeds: int
    prior: Prior
    detectable: float


@dataclass(frozen=True)
class Rates:
    """What came of the simulated tables: shares, each of `TABLES` or of all their comparisons.

    Attributes:
        family: tables with any finding, where there is nothing to find.
        own: the same by each strategy's own seeds alone, Holm-corrected.
        coverage: 95% intervals of single comparisons that hold the true difference.
        power: tables in which a strategy that differs by `Calibration.detectable` is found.
    """

    family: float
    own: float
    coverage: float
    power: float


def calibrate(report: str, metric: str) -> Calibration:
    """Read a committed report's comparisons of a metric with the baseline.

    Args:
        report: a folder of `REPORTS`.
        metric: one whose items are known.
    """
    manifest = read_manifest(REPORTS / report / "manifest.json")
    run = Run(manifest=manifest, frames=load(REPORTS / report, manifest))
    compared = pair_with(run.evidence, metric, str(manifest.baseline))
    if compared is None:
        raise ValueError(f"{report} has no comparison in {metric}")
    pairs = compared.pairs
    floor = noise_floor(run.evidence, manifest.baseline)
    (detectable,) = floor.loc[floor["metric"] == metric, "detectable"].astype(float)
    return Calibration(
        pairs.spread,
        pairs.constant,
        max(map(len, pairs.differences)),
        prior_of(pairs.spread[~pairs.constant]),
        detectable,
    )


def simulate(calibration: Calibration, scenario: str, *, tables: int = TABLES, seed: int = 0) -> Rates:
    """Draw tables without a difference, and the same tables with one of the size that should be found."""
    random = np.random.Generator(np.random.PCG64(seed))
    errors = own = covered = found = 0
    names = list(map(str, range(len(calibration.constant))))
    trained = np.flatnonzero(~calibration.constant)
    for number in range(tables):
        pairs = _draw(calibration, scenario, random)
        compared = Versus.of(names, pairs)
        table, _levels = judge("accuracy", compared)
        errors += bool(table["distinguishable"].any())
        own += bool((holm(table["p_value"].to_numpy())[0] <= LEVEL).any())
        covered += int((tail(pairs.mean, pairs.spread, matching=True) > LEVEL).sum())
        moved = pairs.mean.copy()
        different = trained[number % len(trained)]
        moved[different] += calibration.detectable
        shifted, _levels = judge("accuracy", replace(compared, pairs=replace(pairs, mean=moved)))
        found += bool(shifted["distinguishable"][different])
    return Rates(errors / tables, own / tables, covered / tables / len(names), found / tables)


def _draw(calibration: Calibration, scenario: str, random: np.random.Generator) -> PairedLabels:
    """Draw one table: differences between seeds' noise, and the items that all seeds share."""
    spread, seeds = calibration.spread, calibration.seeds
    baseline, others = _variances(calibration, scenario, random)
    base = np.sqrt(baseline) * random.standard_normal(seeds)
    noise = np.sqrt(others)[:, None] * random.standard_normal((len(others), seeds)) - base
    mean = noise.mean(axis=1) + np.sqrt(spread.items) * random.standard_normal(len(others))
    estimated = replace(spread, seeds=noise.var(axis=1, ddof=1) / seeds)
    return PairedLabels(
        differences=tuple(noise),
        mean=mean,
        constant=calibration.constant,
        reference=np.zeros(len(others)),
        spread=estimated,
        rows=(None,) * len(others),
    )


def _variances(calibration: Calibration, scenario: str, random: np.random.Generator) -> tuple[float, Values]:
    """Return the variance between seeds of the baseline and of the others, (K,), which is 0 for a constant."""
    spread, prior, constant = calibration.spread, calibration.prior, calibration.constant
    trained = ~constant
    single = spread.single * calibration.seeds
    factor = np.full(len(constant), max(prior.factor, float((spread.seeds / spread.single)[trained].mean())))
    if scenario == "observed":
        factor = np.maximum(spread.seeds / spread.single, 1.0)
    elif scenario == "fitted":
        factor = np.maximum(prior.factor * prior.df / random.chisquare(prior.df, len(constant)), 1.0)
    differences = factor * single
    # Half of a difference's variance is the baseline's, but never more than the calmest difference has.
    baseline = float(min(differences[trained].mean() / 2, differences[trained].min()))
    others = np.where(trained, differences - baseline, 0.0)
    if scenario == "one at 5x":
        others[np.flatnonzero(trained)[0]] *= 25
    if scenario == "baseline at 5x":
        baseline *= 25
    return baseline, others


def rows(tables: int = TABLES) -> list[str]:
    """Return the table's rows in Markdown."""
    made = [
        "| report, metric | comparisons | seeds | scenario | a false finding | own seeds alone | coverage | power |"
    ]
    made += ["| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |"]
    for report, metric in (
        ("position_axis", "accuracy"),
        ("position_axis", "heldout_loss"),
        ("literature", "accuracy"),
    ):
        calibration = calibrate(report, metric)
        for scenario in SCENARIOS:
            rates = simulate(calibration, scenario, tables=tables)
            made.append(
                f"| {report}, {metric} | {len(calibration.constant)} | {calibration.seeds} | {scenario} "
                f"| {rates.family:.1%} | {rates.own:.1%} | {rates.coverage:.1%} | {rates.power:.0%} |"
            )
    return made


if __name__ == "__main__":
    print("\n".join(rows()))  # noqa: T201 - run by hand, for minutes
