"""The test of differences errs as rarely as it says, on tables drawn with the variances of committed reports."""

import math

import numpy as np
import pytest

from harness.analysis.statistics import Versus, judge
from scripts import error_rates
from scripts.error_rates import SCENARIOS, Calibration, calibrate, simulate, simulate_looks


@pytest.fixture(scope="module", params=[("position_axis", 13), ("literature", 45)], ids=["13", "45"])
def calibration(request: pytest.FixtureRequest) -> Calibration:
    report, num = request.param
    found = calibrate(report, "accuracy")
    assert len(found.constant) == num
    return found


def test_few_tables_err_as_rarely_as_the_test_says() -> None:
    rates = simulate(calibrate("position_axis", "accuracy"), "one at 5x", tables=200)
    assert rates.family <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert 0.93 <= rates.coverage <= 0.97
    assert rates.power > 0.4


def test_two_looks_err_as_rarely_as_the_test_says_and_are_those_of_the_reports() -> None:
    calibration = calibrate("position_axis", "accuracy")
    rates = simulate_looks(calibration, "one at 5x", tables=100)
    assert rates.family <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)
    assert rates.family <= rates.unallowed
    assert rates.power > 0.4
    for seed in range(10):
        first, second = (np.random.Generator(np.random.PCG64(seed)) for _ in range(2))
        compared = Versus.of("abcdefghijklm", error_rates._draw(calibration, "fitted", first), looks=2)
        noise, items = error_rates._noise(calibration, "fitted", second, calibration.seeds)
        found = error_rates._tested(calibration, noise[None], items[None], np.zeros((1, len(items)), dtype=bool), 2)
        assert (judge("accuracy", compared)[0]["distinguishable"].to_numpy() == found[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_rate_of_false_findings_is_held_at_two_looks(calibration: Calibration, scenario: str) -> None:
    assert simulate_looks(calibration, scenario, tables=2000).family <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "baseline at 5x"])
def test_the_rate_of_false_findings_is_held(calibration: Calibration, scenario: str) -> None:
    rates = simulate(calibration, scenario, tables=2000)
    assert rates.family <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert 0.93 <= rates.coverage <= 0.97
    if scenario in ("homoscedastic", "observed"):
        assert rates.power > 0.7
