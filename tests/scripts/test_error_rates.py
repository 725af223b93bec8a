"""The test of differences errs as rarely as it says, on tables drawn with the variances of committed reports."""

import math

import pytest

from scripts.error_rates import SCENARIOS, Calibration, calibrate, simulate


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


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "baseline at 5x"])
def test_the_rate_of_false_findings_is_held(calibration: Calibration, scenario: str) -> None:
    rates = simulate(calibration, scenario, tables=2000)
    assert rates.family <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert 0.93 <= rates.coverage <= 0.97
    if scenario in ("homoscedastic", "observed"):
        assert rates.power > 0.7
