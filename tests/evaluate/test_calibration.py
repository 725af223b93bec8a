"""Expected calibration error against a plain reference and against cases known in advance."""

import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from harness.evaluate.calibration import (
    bin_sums,
    calibration_error_of,
    calibration_stderr_of,
    expected_calibration_error,
    expected_calibration_stderr,
    reliability,
    reliability_of,
)


def reference(confidence: list[float], correct: list[float], num_bins: int) -> float:
    total = 0.0
    for i in range(num_bins):
        low, high = i / num_bins, (i + 1) / num_bins
        inside = [
            (c, hit) for c, hit in zip(confidence, correct, strict=True) if low < c <= high or (i == 0 and c == 0.0)
        ]
        if inside:
            mean_confidence = sum(c for c, _ in inside) / len(inside)
            mean_accuracy = sum(hit for _, hit in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(mean_confidence - mean_accuracy)
    return total


@pytest.mark.parametrize("num_bins", [1, 3, 10, 15])
@pytest.mark.parametrize("num", [1, 7, 400])
def test_matches_a_plain_reference(num: int, num_bins: int) -> None:
    generator = np.random.default_rng(num * 31 + num_bins)
    confidence = generator.beta(2, 1, size=num)
    correct = (generator.random(num) < confidence**2).astype(float)
    expected = reference(confidence.tolist(), correct.tolist(), num_bins)
    assert expected_calibration_error(confidence, correct, num_bins=num_bins) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_bins", [5, 15])
def test_matches_scikit_learn(num_bins: int) -> None:
    generator = np.random.default_rng(num_bins)
    confidence = generator.beta(3, 1, size=3000)
    correct = (generator.random(3000) < confidence**2).astype(float)
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=num_bins, strategy="uniform")
    sizes = np.histogram(confidence, bins=num_bins, range=(0, 1))[0]
    expected = (np.abs(accuracy - mean_confidence) * sizes[sizes > 0]).sum() / sizes.sum()
    assert expected_calibration_error(confidence, correct, num_bins=num_bins) == pytest.approx(expected, abs=1e-9)
    table = reliability(confidence, correct, num_bins=num_bins)
    filled = table[table["num"] > 0]
    assert filled["accuracy"].to_numpy() == pytest.approx(accuracy, abs=1e-9)
    assert filled["confidence"].to_numpy() == pytest.approx(mean_confidence, abs=1e-9)


def test_sums_of_parts_are_the_sums_of_the_whole() -> None:
    generator = np.random.default_rng(7)
    confidence, correct = generator.random(100), generator.random(100) < 0.4
    parts = bin_sums(confidence[:30], correct[:30]) + bin_sums(confidence[30:], correct[30:])
    assert calibration_error_of(parts) == pytest.approx(expected_calibration_error(confidence, correct), abs=1e-12)
    assert reliability_of(parts)["num"].tolist() == reliability(confidence, correct)["num"].tolist()


def test_copies_of_a_prediction_in_one_unit_do_not_narrow_its_error() -> None:
    """Tokens of a sequence stand or fall together: ten copies of each item tell no more than the items do."""
    generator = np.random.default_rng(2)
    confidence, correct = generator.random(150), generator.random(150) < 0.5
    single = expected_calibration_stderr(confidence, correct)
    units = np.stack([bin_sums([c] * 10, [hit] * 10) for c, hit in zip(confidence, correct, strict=True)])
    assert calibration_stderr_of(units) == pytest.approx(single)
    copies = expected_calibration_stderr(np.repeat(confidence, 10), np.repeat(correct, 10))
    assert copies < 0.5 * single


def test_confidences_on_edges_match_a_plain_reference() -> None:
    confidence = [i / 15 for i in range(16)] + [np.nextafter(i / 15, 1.0) for i in range(15)]
    correct = [float(i % 2) for i in range(31)]
    assert expected_calibration_error(confidence, correct) == pytest.approx(reference(confidence, correct, 15))


def test_always_sure_and_always_wrong_is_one() -> None:
    assert expected_calibration_error(np.ones(50), np.zeros(50)) == 1.0


def test_always_sure_and_always_right_is_zero() -> None:
    assert expected_calibration_error([1.0] * 50, [True] * 50) == 0.0


def test_sure_at_chance_is_three_quarters() -> None:
    assert expected_calibration_error([1.0] * 40, [1, 0, 0, 0] * 10) == pytest.approx(0.75)


def test_a_calibrated_predictor_tends_to_zero() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.random(200_000)
    assert expected_calibration_error(confidence, generator.random(200_000) < confidence) < 0.01


def test_errors_of_opposite_sign_do_not_cancel_across_bins() -> None:
    assert expected_calibration_error([0.25, 0.75], [1, 0], num_bins=2) == pytest.approx(0.75)
    assert expected_calibration_error([0.25, 0.75], [1, 0], num_bins=1) == pytest.approx(0.0)


def test_bins_are_closed_on_the_right_and_zero_falls_in_the_first() -> None:
    bins = reliability([0.0, 0.2, 0.2000001, 1.0], [0, 1, 0, 1], num_bins=5)
    assert bins["num"].tolist() == [2, 1, 0, 0, 1]
    assert bins["low"].tolist() == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert bins["high"].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert bins.loc[0, "confidence"] == pytest.approx(0.1)
    assert bins.loc[0, "accuracy"] == pytest.approx(0.5)
    assert bins["accuracy"].isna().tolist() == [False, False, True, True, False]


def test_stderr_is_the_bootstrap_spread() -> None:
    generator = np.random.default_rng(1)
    confidence = generator.random(120)
    correct = generator.random(120) < 0.5
    draws = generator.integers(0, 120, size=(800, 120))
    plain = np.std([expected_calibration_error(confidence[draw], correct[draw]) for draw in draws])
    assert expected_calibration_stderr(confidence, correct) == pytest.approx(plain, rel=0.15)


def test_stderr_repeats_and_leaves_the_global_generator_alone() -> None:
    confidence, correct = [0.3, 0.6, 0.9, 0.5], [1, 0, 1, 1]
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    first = expected_calibration_stderr(confidence, correct)
    assert first == expected_calibration_stderr(confidence, correct)
    assert first != expected_calibration_stderr(confidence, correct, seed=1)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


@pytest.mark.parametrize(
    ("confidence", "correct", "num_bins", "message"),
    [
        ([], [], 15, "not empty"),
        ([0.5, 0.5], [1], 15, r"\(2,\).*\(1,\)"),
        ([[0.5]], [[1]], 15, "one-dimensional"),
        ([1.5], [1], 15, r"1\.5.*\[0, 1\]"),
        ([math.nan], [1], 15, "nan"),
        ([0.5], [0.5], 15, "0 or 1"),
        ([0.5], [1], 0, "num_bins is 0"),
    ],
)
def test_refuses_bad_input(confidence: list[float], correct: list[float], num_bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(confidence, correct, num_bins=num_bins)


def test_a_single_resample_has_no_spread() -> None:
    with pytest.raises(ValueError, match="num_resamples is 1"):
        expected_calibration_stderr([0.5], [1], num_resamples=1)


def test_module_is_free_of_torch() -> None:
    probe = "import sys, harness.evaluate.calibration; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
