"""How often the test of differences errs, by simulation: `python -m scripts.error_rates` prints docs/method.md's table.

Tables of comparisons are drawn in which no strategy differs from the baseline, with the variances that the comparisons
of a committed report show: what single answers alone bring about, what items bring about, and by what factor seeds
widen the former. A finding in such a table is an error.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.analysis.cells import PairedLabels
from harness.analysis.frame import load
from harness.analysis.inference import Spread, Values, holm, join, tail
from harness.analysis.moderation import Prior, prior_of
from harness.analysis.noise import noise_floor
from harness.analysis.read import Run
from harness.analysis.statistics import LEVEL, Versus, at_looks, judge, pair_with
from harness.records.store import read_manifest

REPORTS = Path(__file__).parents[1] / "reports"
SCENARIOS = ("homoscedastic", "observed", "fitted", "one at 5x", "baseline at 5x")
TABLES = 2000
# Of tables that are looked at twice, and of the difference that their first half finds with a power of 80%.
TABLES_OF_LOOKS, SHARE = 600, 0.7

REPORT_METRICS = (("position_axis", "accuracy"), ("position_axis", "heldout_loss"), ("literature", "accuracy"))

Flags = npt.NDArray[np.bool_]

# T = tables, K = comparisons, S = seeds


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


@dataclass(frozen=True)
class TwoLooks:
    """What came of tables of which undecided rows got as many seeds again: shares.

    Attributes:
        family: tables with any finding, where there is nothing to find.
        unallowed: the same if tests did not allow for the two looks.
        power: tables in which a strategy that differs by `SHARE` of `Calibration.detectable` is found.
    """

    family: float
    unallowed: float
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


def simulate_looks(
    calibration: Calibration, scenario: str, *, tables: int = TABLES_OF_LOOKS, seed: int = 0
) -> TwoLooks:
    """Draw tables of which undecided rows get as many seeds again, as `harness run --decide` gives them."""
    random = np.random.Generator(np.random.PCG64(seed))
    trained = np.flatnonzero(~calibration.constant)
    drawn = [_noise(calibration, scenario, random, 2 * calibration.seeds) for _ in range(tables)]
    noise, items = np.stack([one for one, _ in drawn]), np.stack([one for _, one in drawn])
    found, unallowed = (_looked_at(calibration, noise, items, looks=looks) for looks in (2, 1))
    places = np.arange(tables), trained[np.arange(tables) % len(trained)]
    items[places] += SHARE * calibration.detectable
    moved = _looked_at(calibration, noise, items, looks=2)
    return TwoLooks(
        family=float(found.any(axis=1).mean()),
        unallowed=float(unallowed.any(axis=1).mean()),
        power=float(moved[places].mean()),
    )


def _looked_at(calibration: Calibration, noise: Values, items: Values, *, looks: int) -> Flags:
    """Find differences by half of the seeds, (T, K, 2S), and then by all seeds of rows that are undecided; (T, K)."""
    longer = np.zeros(items.shape, dtype=bool)
    first = _tested(calibration, noise, items, longer, looks)
    longer = ~first & ~calibration.constant
    # Models as they are meet all seeds that the baseline has.
    longer |= calibration.constant & longer.any(axis=1, keepdims=True)
    return _tested(calibration, noise, items, longer, looks)


def _tested(calibration: Calibration, noise: Values, items: Values, longer: Flags, looks: int) -> Flags:
    """Test tables as `statistics.judge` does, many at once: rows that are `longer` with all seeds, others with half."""
    seeds = np.where(longer, noise.shape[2], calibration.seeds)
    kept = np.arange(noise.shape[2]) < seeds[..., None]
    mean = np.where(kept, noise, 0.0).sum(axis=2) / seeds
    squares = np.where(kept, noise - mean[..., None], 0.0) ** 2
    items_part, item_df = (
        np.broadcast_to(part, seeds.shape).ravel() for part in (calibration.spread.items, calibration.spread.item_df)
    )
    single = calibration.spread.single * calibration.seeds / seeds
    own_part = squares.sum(axis=2) / (seeds - 1) / seeds
    spread = Spread(own_part.ravel(), (seeds - 1.0).ravel(), items_part, item_df, single.ravel())
    tables = [spread[start : start + seeds.shape[1]] for start in range(0, seeds.size, seeds.shape[1])]
    moderated = join([prior_of(one[~calibration.constant]).moderate(one) for one in tables])
    estimate = (mean + items).ravel()
    own, steadied = (at_looks(tail(estimate, one), looks).reshape(seeds.shape) for one in (spread, moderated))
    corrected = np.stack([holm(one)[0] for one in steadied])
    return np.maximum(own, corrected) <= LEVEL


def _draw(calibration: Calibration, scenario: str, random: np.random.Generator) -> PairedLabels:
    """Draw one table, of as many seeds as the report has."""
    noise, items = _noise(calibration, scenario, random, calibration.seeds)
    return PairedLabels(
        differences=tuple(noise),
        mean=noise.mean(axis=1) + items,
        constant=calibration.constant,
        reference=np.zeros(len(items)),
        spread=replace(calibration.spread, seeds=noise.var(axis=1, ddof=1) / calibration.seeds),
        rows=(None,) * len(items),
    )


def _noise(calibration: Calibration, scenario: str, random: np.random.Generator, seeds: int) -> tuple[Values, Values]:
    """Draw differences between seeds' noise, (K, seeds), and what the items that all seeds share add, (K,)."""
    baseline, others = _variances(calibration, scenario, random)
    base = np.sqrt(baseline) * random.standard_normal(seeds)
    noise = np.sqrt(others)[:, None] * random.standard_normal((len(others), seeds)) - base
    return noise, np.sqrt(calibration.spread.items) * random.standard_normal(len(others))


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
    for report, metric in REPORT_METRICS:
        calibration = calibrate(report, metric)
        for scenario in SCENARIOS:
            rates = simulate(calibration, scenario, tables=tables)
            made.append(
                f"| {report}, {metric} | {len(calibration.constant)} | {calibration.seeds} | {scenario} "
                f"| {rates.family:.1%} | {rates.own:.1%} | {rates.coverage:.1%} | {rates.power:.0%} |"
            )
    return made


def rows_of_looks(tables: int = TABLES_OF_LOOKS) -> list[str]:
    """Return the rows of the table of two looks in Markdown."""
    made = ["| report, metric | scenario | a false finding | if tests did not allow for it | power |"]
    made += ["| --- | --- | ---: | ---: | ---: |"]
    for report, metric in REPORT_METRICS:
        calibration = calibrate(report, metric)
        for scenario in SCENARIOS:
            rates = simulate_looks(calibration, scenario, tables=tables)
            made.append(
                f"| {report}, {metric} | {scenario} | {rates.family:.1%} | {rates.unallowed:.1%} | {rates.power:.0%} |"
            )
    return made


if __name__ == "__main__":
    print("\n".join([*rows(), "", *rows_of_looks()]))  # noqa: T201 - run by hand, for minutes
