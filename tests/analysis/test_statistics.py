"""Means, paired comparisons, ranks and noise, against numbers computed by hand or by scipy's own tests."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.analysis import noise, statistics
from harness.analysis.cells import gather
from harness.analysis.inference import Values, decompose, half_width, holm
from harness.analysis.measures import resamples
from harness.analysis.metrics import describe
from harness.config.errors import UnknownNameError

BASE = [2.0, 2.2, 2.1]
OURS = [1.9, 2.08, 1.99]


def frame(cells: dict[str, list[float | None] | float], *, metric: str = "heldout_loss") -> pd.DataFrame:
    """Rows as `frame.load` makes them: a list holds one value per seed (None: failed), a number has no seed."""
    rows = []
    for label, values in cells.items():
        pairs = list(enumerate(values)) if isinstance(values, list) else [(None, values)]
        for seed, value in pairs:
            status, num = ("failed", None) if value is None else ("finished", 100)
            row = {"trial_id": f"{label} {seed}", "label": label, "seed": seed, "status": status, "metric": metric}
            rows.append(row | {"value": value, "stderr": None, "num": num})
    return pd.DataFrame(rows).astype({"seed": "Int64", "value": "float64", "stderr": "float64", "num": "Int64"})


def answered(answers: dict[str, Values], *, metric: str = "accuracy") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Records and items of answers, (seeds, items) per label, (items,) for one without seeds; two tasks of one size."""
    cells: dict[str, list[float | None] | float] = {}
    parts = []
    for label, values in answers.items():
        cells[label] = list(values.mean(axis=1)) if values.ndim == 2 else float(values.mean())
        for seed, row in enumerate(np.atleast_2d(values)):
            trial = f"{label} {seed if values.ndim == 2 else None}"
            task = np.where(np.arange(len(row)) < len(row) // 2, "first", "second")
            parts.append(pd.DataFrame({"trial_id": trial, "task": task, "item": range(len(row)), "value": row}))
    items = pd.concat(parts, ignore_index=True).assign(metric=metric, confidence=np.nan, correct=np.nan)
    return frame(cells, metric=metric), items


def summarise(metrics: pd.DataFrame, items: pd.DataFrame | None = None) -> pd.DataFrame:
    return statistics.summarise(gather(metrics, items))


def compare(metrics: pd.DataFrame, baseline: str, items: pd.DataFrame | None = None, seed: int = 0) -> pd.DataFrame:
    return statistics.compare(gather(metrics, items), baseline, seed=seed)


def rank(metrics: pd.DataFrame, among: list[str], items: pd.DataFrame | None = None) -> pd.DataFrame:
    return statistics.rank(gather(metrics, items), among)


def noise_floor(metrics: pd.DataFrame, baseline: str, items: pd.DataFrame | None = None, seed: int = 0) -> pd.DataFrame:
    return noise.noise_floor(gather(metrics, items), baseline, seed=seed)


def only(comparison: pd.DataFrame, label: str) -> pd.Series:
    (row,) = (row for _, row in comparison[comparison["label"] == label].iterrows())
    return row


def test_mean_std_and_count():
    row = only(summarise(frame({"a": [1.0, 2.0, 4.0]})), "a")
    assert row["mean"] == pytest.approx(7 / 3)
    assert row["std"] == pytest.approx(math.sqrt(7 / 3))  # squares 16/9 + 1/9 + 25/9, over n - 1 = 2
    assert row["num_seeds"] == 3


def test_single_value_has_no_std():
    row = only(summarise(frame({"teacher": 1.5})), "teacher")
    assert (row["mean"], row["num_seeds"]) == (1.5, 1)
    assert math.isnan(row["std"])


def test_paired_interval_is_scipys():
    row = only(compare(frame({"base": BASE, "ours": OURS}), "base"), "ours")
    expected = stats.ttest_rel(OURS, BASE).confidence_interval(0.95)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((expected.low, expected.high))
    assert row["difference"] == pytest.approx(-0.11)
    assert row["difference_std"] == pytest.approx(0.01)
    # By hand: t(0.975, 2) = 4.302653, so -0.11 ± 4.302653 * 0.01 / sqrt(3).
    assert row["ci_high"] == pytest.approx(-0.11 + 4.302653 * 0.01 / math.sqrt(3), abs=1e-8)
    assert (row["num_pairs"], row["distinguishable"], row["verdict"]) == (3, True, "better")


def test_pairing_sees_what_unpaired_spreads_hide():
    # The seeds of each differ by ten times the difference between them.
    assert stats.ttest_ind(OURS, BASE).pvalue > 0.05
    assert only(compare(frame({"base": BASE, "ours": OURS}), "base"), "ours")["distinguishable"]


def test_only_shared_seeds_are_paired():
    row = only(compare(frame({"base": BASE, "ours": [1.9, None, 1.99]}), "base"), "ours")
    assert row["num_pairs"] == 2
    assert row["difference"] == pytest.approx(-0.105)


def test_one_shared_seed_is_untested():
    row = only(compare(frame({"base": BASE, "ours": [1.0, None, None]}), "base"), "ours")
    assert (row["num_pairs"], row["distinguishable"], row["verdict"]) == (1, False, "untested")
    assert math.isnan(row["ci_low"])


@pytest.mark.parametrize(("baseline", "other", "sign"), [("base", "teacher", 1), ("teacher", "base", -1)])
def test_seedless_row_is_a_constant(baseline: str, other: str, sign: int):
    row = only(compare(frame({"base": BASE, "teacher": 1.5}), baseline), other)
    expected = stats.ttest_1samp([1.5 - value for value in BASE], 0).confidence_interval(0.95)
    bounds = sorted(sign * bound for bound in (expected.low, expected.high))
    assert [row["ci_low"], row["ci_high"]] == pytest.approx(bounds)
    assert row["num_pairs"] == 3


def test_two_constants_have_a_difference_and_no_interval():
    row = only(compare(frame({"teacher": 1.5, "no kd": 2.5}), "teacher"), "no kd")
    assert (row["difference"], row["verdict"]) == (1.0, "untested")


@pytest.mark.parametrize(
    ("metric", "shift", "verdict"),
    [("accuracy", 0.1, "better"), ("accuracy", -0.1, "worse"), ("ece", 0.1, "worse"), ("novel", 0.1, "different")],
)
def test_verdict_follows_the_metrics_direction(metric: str, shift: float, verdict: str):
    shifted = [value + shift + 0.001 * index for index, value in enumerate(BASE)]
    assert only(compare(frame({"base": BASE, "ours": shifted}, metric=metric), "base"), "ours")["verdict"] == verdict


def test_rounding_is_no_difference():
    same = [value * (1 + 2e-16) for value in BASE]
    assert not only(compare(frame({"base": BASE, "ours": same}), "base"), "ours")["distinguishable"]


def test_diverged_seed_is_not_skipped():
    metrics = frame({"base": BASE, "ours": [1.0, math.inf, math.nan]})
    assert not math.isfinite(only(summarise(metrics), "ours")["mean"])
    assert only(compare(metrics, "base"), "ours")["verdict"] == "untested"


def test_order_of_rows_does_not_matter():
    metrics = frame({"base": BASE, "ours": OURS, "teacher": 1.5, "part": [2.0, None, 2.4]})
    for draw in range(5):
        shuffled = metrics.sample(frac=1, random_state=draw)
        pd.testing.assert_frame_equal(summarise(shuffled), summarise(metrics), check_exact=True)
        pd.testing.assert_frame_equal(compare(shuffled, "base"), compare(metrics, "base"), check_exact=True)


def test_unknown_baseline_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'Full KD'"):
        compare(frame({"Full KD": BASE}), "full KD")


def simulated(seed: int = 0) -> dict[str, Values]:
    """Answers of four arms to 400 items: "same" is the baseline's equal, "better" is right more often."""
    draw = np.random.default_rng(seed)
    easy = draw.normal(size=400)
    skill = {"base": 0.0, "same": 0.0, "better": 1.5}
    arms = {label: (draw.normal(size=(3, 400)) + easy + shift > 0).astype(float) for label, shift in skill.items()}
    return arms | {"teacher": (draw.normal(size=400) + easy + 3 > 0).astype(float)}


def test_a_true_difference_is_found_and_an_absent_one_is_not():
    metrics, items = answered(simulated())
    table = compare(metrics, "base", items=items).set_index("label")
    assert table["verdict"].to_dict() == {
        "better": "better",
        "same": "not distinguishable",
        "teacher": "better",
    }
    assert (table["covers"] == "seeds and items").all()
    assert (table["family"] == 3).all()
    assert table.loc["better", "improvement"] == 1.0
    assert 0.05 < table.loc["same", "improvement"] < 0.95


def test_items_widen_an_interval_that_seeds_alone_would_make_too_narrow():
    # The same items right for every seed: seeds agree, but another set of items would not.
    draw = np.random.default_rng(3)
    base, ours = (draw.random(200) < 0.5).astype(float), (draw.random(200) < 0.6).astype(float)
    noise = [np.roll(np.eye(1, 200)[0], seed) for seed in range(3)]
    metrics, items = answered({"base": np.stack([base] * 3), "ours": np.stack([np.abs(ours - one) for one in noise])})
    narrow = only(compare(metrics, "base"), "ours")
    wide = only(compare(metrics, "base", items=items), "ours")
    assert narrow["covers"] == "seeds"
    assert wide["ci_high"] - wide["ci_low"] > 2 * (narrow["ci_high"] - narrow["ci_low"])


def test_two_constants_are_compared_over_items():
    arms = simulated()
    metrics, items = answered({"teacher": arms["teacher"], "student": arms["base"][0]})
    row = only(compare(metrics, "teacher", items=items), "student")
    gaps = arms["base"][0] - arms["teacher"]
    assert (row["covers"], row["verdict"], row["num_pairs"]) == ("items", "worse", 1)
    tasks = [gaps[:200], gaps[200:]]
    error = math.sqrt(sum(part.var(ddof=1) / 200 for part in tasks)) / 2
    assert row["p_value"] == pytest.approx(2 * stats.t.sf(abs(gaps.mean()) / error, 398))


def test_items_that_do_not_give_the_recorded_number_are_not_used():
    metrics, items = answered(simulated())
    items.loc[items["trial_id"] == "same 1", "value"] = 0.0
    table = compare(metrics, "base", items=items).set_index("label")
    assert table["covers"].to_dict() == {"better": "seeds and items", "same": "seeds", "teacher": "seeds and items"}


def test_perplexity_is_compared_on_its_own_scale():
    draw = np.random.default_rng(0)
    nats = -1.5 + 0.3 * draw.normal(size=(3, 100)) + draw.normal(size=100)
    metrics, items = answered({"base": nats, "ours": nats + 0.2}, metric="log_likelihood")
    metrics["metric"] = "perplexity"
    metrics["value"] = np.exp(-metrics["value"])
    row = only(compare(metrics, "base", items=items), "ours")
    assert (row["covers"], row["verdict"]) == ("seeds and items", "better")
    ratio = math.exp(-0.2) - 1
    base = np.exp(-nats.mean(axis=1))
    assert row["difference"] == pytest.approx(ratio * base.mean())
    # By the delta method, the items' part of a difference c * exp(-m) is that of the mean times its slope.
    assert row["improvement"] == 1.0


def test_items_of_several_answers_weigh_as_many():
    draw = np.random.default_rng(0)
    count = draw.integers(1, 4, size=120)
    share = {
        label: draw.binomial(count, level, size=(3, 120)) / count for label, level in (("base", 0.3), ("ours", 0.8))
    }
    metrics, items = answered(share, metric="adherence/inst_strict")
    items["weight"] = np.tile(count, 6)
    items["task"] = "ifeval"
    weighted = {label: (values * count).sum(axis=1) / count.sum() for label, values in share.items()}
    metrics["value"] = np.concatenate([weighted["base"], weighted["ours"]])
    row = only(compare(metrics, "base", items=items), "ours")
    assert (row["covers"], row["verdict"], row["improvement"]) == ("seeds and items", "better", 1.0)
    # A ratio of sums: its error is that of the weighted residuals.
    gap = (share["ours"] - share["base"]) - (weighted["ours"] - weighted["base"])[:, None]
    linear = (weighted["ours"] - weighted["base"])[:, None] + count / count.mean() * gap
    spread = decompose(linear[None], np.zeros(120, dtype=np.intp))
    margin = half_width(spread, 0.05, matching=True)[0]
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((row["difference"] - margin, row["difference"] + margin))


def test_calibration_error_is_rebuilt_from_items():
    from harness.evaluate.calibration import expected_calibration_error

    draw = np.random.default_rng(0)
    parts, cells = [], {}
    for label, shift in (("base", 0.0), ("ours", 0.25)):
        cells[label] = []
        for seed in range(3):
            confidence = draw.uniform(0.3, 1.0, size=300)
            correct = (draw.random(300) < confidence - shift).astype(float)
            cells[label].append(expected_calibration_error(confidence, correct))
            columns = {"task": "mc", "item": range(300), "metric": "accuracy", "value": correct}
            columns |= {"confidence": confidence, "correct": correct}
            parts.append(pd.DataFrame({"trial_id": f"{label} {seed}", **columns}))
    metrics, items = frame(cells, metric="ece"), pd.concat(parts, ignore_index=True)
    row = only(compare(metrics, "base", items=items), "ours")
    assert (row["covers"], row["verdict"]) == ("seeds and items", "worse")


def test_means_have_intervals_over_seeds_and_items():
    metrics, items = answered(simulated())
    table = summarise(metrics, items=items).set_index("label")
    assert (table["mean_covers"] == ["seeds and items", "seeds and items", "seeds and items", "items"]).all()
    assert (table["mean_low"] < table["mean"]).all()
    # Where no items are known, the recorded standard error stands for them.
    metrics["stderr"] = 0.1
    row = only(summarise(metrics), "teacher")
    assert (row["mean_low"], row["mean_covers"]) == (pytest.approx(row["mean"] - 0.196, abs=1e-4), "items")


def test_effect_size_is_hedges_corrected():
    row = only(compare(frame({"base": BASE, "ours": OURS}), "base"), "ours")
    # J(2) = Gamma(1) / (sqrt(1) * Gamma(1/2)) = 1 / sqrt(pi); the mean difference is 11 standard deviations.
    assert row["effect_size"] == pytest.approx(-11 / math.sqrt(math.pi))


def test_holm_corrects_within_a_metric():
    cells = {"base": BASE} | {f"arm {n}": [value + 0.002 * n * k for k, value in enumerate(BASE)] for n in range(1, 6)}
    table = compare(pd.concat([frame(cells), frame({"base": BASE, "one": OURS}, metric="accuracy")]), "base")
    assert table.groupby("metric")["family"].unique().map(list).to_dict() == {"heldout_loss": [5], "accuracy": [1]}
    loss = table[table["metric"] == "heldout_loss"]
    assert (loss["p_corrected"] >= loss["p_value"]).all()
    accuracy = table[table["metric"] == "accuracy"].iloc[0]
    assert accuracy["p_corrected"] == accuracy["p_value"]


def test_seeds_that_agree_exactly_without_items_are_untested():
    row = only(compare(frame({"base": [2.0, 2.5, 3.0], "ours": [1.5, 2.0, 2.5]}), "base"), "ours")
    assert (row["difference"], row["verdict"]) == (-0.5, "untested")
    assert math.isnan(row["ci_low"])


def test_indistinguishable_rows_share_a_rank():
    wobble = [0.0, 0.001, -0.001]
    cells = {
        "best": [1.0, 1.1, 1.2],
        "tied a": [1.2, 1.3, 1.4],
        "tied b": [1.2 + w + s for w, s in zip(wobble, (0.0, 0.1, 0.2), strict=True)],
        "last": [2.0, 2.1, 2.203],
    }
    cells["best"] = [value + w / 2 for value, w in zip(cells["best"], wobble, strict=True)]
    table = rank(frame(cells), list(cells)).set_index("label")
    assert table["rank"].to_dict() == {"best": 1, "tied a": 2, "tied b": 2, "last": 4}
    assert table["rank_worst"].to_dict() == {"best": 1, "tied a": 3, "tied b": 3, "last": 4}


def noisy(spread: dict[str, float], *, shift: float = 0.0) -> dict[str, Values]:
    """Answers of three seeds on 400 items: seeds of a label are `spread` apart, and all but base's off by `shift`."""
    draw = np.random.default_rng(3)
    easy = draw.uniform(0.2, 0.8, 400)
    return {
        label: (
            draw.random((3, 400)) < easy + (shift if label != "base" else 0.0) + np.array([[-1], [0], [1]]) * width
        ).astype(float)
        for label, width in spread.items()
    }


def test_what_the_others_show_of_seeds_finds_a_difference_that_three_seeds_alone_do_not():
    metrics, items = answered(noisy(dict.fromkeys(["base", *"abcdefgh"], 0.01), shift=0.1))
    table = compare(metrics, "base", items=items)
    alone, both = holm(table["p_value"].to_numpy())[0] <= 0.05, table["distinguishable"].to_numpy()
    assert alone.sum() < both.sum()
    assert (table["p_corrected"] >= table["p_value"]).all()
    apart = (table["corrected_low"] > 0) | (table["corrected_high"] < 0)
    assert (apart == table["distinguishable"]).all()


def test_an_unsteady_strategy_is_not_found_by_the_calm_of_others():
    answers = noisy(dict.fromkeys(["base", *"abcdefgh"], 0.0))
    # Its seeds disagree by 15 points each way, its mean is 8 points off.
    answers["odd"] = noisy({"odd": 0.15}, shift=0.08)["odd"]
    metrics, items = answered(answers)
    row = only(compare(metrics, "base", items=items), "odd")
    assert row["p_value"] > 0.05
    assert not row["distinguishable"]


def test_noise_floor_of_halves_is_twice_the_standard_error():
    metrics, items = answered(simulated())
    metrics["stderr"] = 0.02
    row = noise_floor(metrics, "base", items=items).iloc[0]
    answers = simulated()
    errors = [values.var(axis=-1, ddof=1).mean() / 400 for values in answers.values() for _ in np.atleast_2d(values)]
    # The difference of two halves has a variance of 2 * sigma^2 / 200, four times that of a mean over all 400.
    assert row["halves"] == pytest.approx(2 * math.sqrt(np.mean(errors)), rel=0.1)
    assert row["item_error"] == 0.02
    assert row["detectable_own"] > row["detectable"] > row["detectable_one"] > 0
    assert (row["family"], row["num_pairs"], row["covers"]) == (3, 3, "seeds and items")


def test_the_resampling_seed_is_used():
    metrics, items = answered(simulated())
    tables = [compare(metrics, "base", items=items, seed=seed) for seed in (0, 0, 1)]
    assert tables[0].equals(tables[1])
    assert not tables[0]["improvement"].equals(tables[2]["improvement"])
    assert tables[0].drop(columns="improvement").equals(tables[2].drop(columns="improvement"))
    floors = [noise_floor(metrics, "base", items=items, seed=seed)["halves"][0] for seed in (0, 0, 1)]
    assert floors[0] == floors[1] != floors[2]


def test_as_many_right_answers_are_a_tie_however_a_product_sums_them():
    draw = np.random.default_rng(5)
    right = {label: (draw.random(598) < 0.4).astype(float) for label in ("base", "ours")}
    metrics, items = answered(right)
    evidence = gather(metrics, items)
    measured = evidence.measured["accuracy"]
    rows = {label: evidence.of("accuracy")[label].rows(measured)[0] for label in right}
    # Whole numbers of right answers in each resample; both tasks are of one size, so their means compare as these do.
    counts = [
        np.rint(2 * 299 * drawn).astype(int) @ (measured.contributions > 0.5).T.astype(int)
        for drawn in resamples(measured.strata, statistics.RESAMPLES, 0, "accuracy")
    ]
    ahead = np.concatenate([each[:, rows["ours"]] - each[:, rows["base"]] for each in counts])
    assert (ahead == 0).sum() > 10
    assert only(compare(metrics, "base", items=items), "ours")["improvement"] == np.mean((np.sign(ahead) + 1) / 2)


def test_order_of_items_does_not_matter():
    metrics, items = answered(simulated())
    for draw in range(3):
        shuffled = metrics.sample(frac=1, random_state=draw), items.sample(frac=1, random_state=draw)
        for function in (
            lambda m, i: summarise(m, items=i),
            lambda m, i: compare(m, "base", items=i),
            lambda m, i: rank(m, ["base", "same", "better"], items=i),
            lambda m, i: noise_floor(m, "base", items=i),
        ):
            pd.testing.assert_frame_equal(function(*shuffled), function(metrics, items), check_exact=True)


def test_numbers_are_printed_as_the_paper_does():
    accuracy, loss = describe("accuracy"), describe("heldout_loss")
    assert (accuracy.show(0.6442), accuracy.show_spread(0.002)) == ("64.4", "0.20")
    assert (describe("perplexity").show(7.304), loss.show(2.10344)) == ("7.30", "2.1034")
    assert (loss.show_difference(0.01), loss.show_difference(-0.01)) == ("+0.0100", "-0.0100")
    assert loss.show(-1e-9) == "0.0000"
    assert describe("accuracy/gsm8k").heading == "Accuracy, gsm8k (%)"
    assert (describe("novel").title, describe("novel").show(12.3456)) == ("novel", "12.3")


def test_the_layer_needs_no_torch():
    code = "import sys, harness.analysis.report; print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_a_row_with_more_seeds_is_paired_over_all_of_them_and_another_over_those_it_has():
    base = [2.0, 2.2, 2.1, 2.3, 2.15, 2.05]
    long, short = [1.9, 2.15, 2.04, 2.18, 2.11, 1.97], [2.05, 2.2, 2.21]
    table = compare(frame({"base": base, "long": [*long], "short": [*short]}), "base")
    for label, values in (("long", long), ("short", short)):
        row, num = only(table, label), len(values)
        assert row["num_pairs"] == num
        assert row["difference"] == pytest.approx(np.mean(values) - np.mean(base[:num]))
        assert row["p_value"] == pytest.approx(stats.ttest_rel(values, base[:num]).pvalue)


@pytest.mark.parametrize("looks", [1, 2])
def test_the_corrected_interval_and_the_verdict_agree_however_often_they_are_looked_at(looks: int):
    draw = np.random.default_rng(3)
    base = draw.normal(size=(6, 80))
    rows = {f"row {n}": base[: 3 + 3 * (n % 2)] + 0.15 * n + draw.normal(size=(3 + 3 * (n % 2), 80)) for n in range(6)}
    table = statistics.compare(gather(*answered({"base": base, **rows}), looks=looks), "base")
    assert 0 < table["distinguishable"].sum() < 6
    outside = (table["corrected_low"] > 0) | (table["corrected_high"] < 0)
    assert (outside == table["distinguishable"]).all()
