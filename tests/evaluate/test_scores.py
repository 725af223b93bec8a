"""Item rows and metrics from samples known in advance."""

import math

import pandas as pd
import pytest

from harness.evaluate.scores import COLUMNS, adherence, item_rows, summarise


def test_summary_of_known_rows() -> None:
    rows = [
        *(("a", i, "accuracy", value, 0.5, value, 1) for i, value in enumerate([1.0, 1.0, 0.0, 0.0])),
        *(("b", i, "accuracy", value, math.nan, math.nan, 1) for i, value in enumerate([1.0, 0.0])),
        *(("b", i, "log_likelihood", value, math.nan, math.nan, 1) for i, value in enumerate([-1.0, -3.0])),
    ]
    got = summarise(pd.DataFrame(rows, columns=list(COLUMNS)))
    assert set(got) == {"accuracy", "accuracy/a", "accuracy/b", "perplexity", "ece", "ece/a"}
    assert got["accuracy/a"].stderr == pytest.approx(math.sqrt(0.25 / 3))  # p (1 - p) / (n - 1)
    assert got["accuracy/b"].stderr == pytest.approx(0.5)
    assert (got["accuracy"].value, got["accuracy"].num) == (0.5, 6)
    assert got["accuracy"].stderr == pytest.approx(math.sqrt(0.25 / 3 + 0.25) / 2)
    assert got["perplexity"].value == pytest.approx(math.exp(2))
    assert got["perplexity"].stderr == pytest.approx(math.exp(2) * 1.0)
    assert (got["ece"].value, got["ece"].num) == (0.0, 4)


def test_one_item_has_no_standard_error() -> None:
    samples = [
        {"doc_id": 0, "target": 1, "filter": "none", "filtered_resps": [(-1.0, False), (-2.0, True)], "acc": 0.0}
    ]
    items = item_rows("a", {"acc,none": "accuracy"}, samples, [0])
    assert items.loc[0, "confidence"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert items.loc[0, "correct"] == 0.0
    assert all(metric.stderr is None and metric.num == 1 for metric in summarise(items).values())


def test_top_option_need_not_be_the_shortest() -> None:
    """Options are compared by their total log-likelihood, whatever their lengths."""
    samples = [
        {
            "doc_id": 0,
            "target": 0,
            "filter": "none",
            "filtered_resps": [(-1.0, True), (-1.0 - math.log(3), False)],
            "acc": 1.0,
        }
    ]
    items = item_rows("a", {"acc,none": "accuracy"}, samples, [0])
    assert items.loc[0, "confidence"] == pytest.approx(0.75)
    assert items.loc[0, "correct"] == 1.0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_refuses_likelihoods_that_are_not_finite(broken: float) -> None:
    samples = [
        {"doc_id": 0, "target": " x", "filter": "none", "filtered_resps": [(broken, False)], "perplexity": broken}
    ]
    with pytest.raises(FloatingPointError, match=r"words, item 7: log-likelihood"):
        item_rows("words", {"perplexity,none": "log_likelihood"}, samples, [7])


def test_adherence_ignores_surrounding_space() -> None:
    doc = {"verifier": "repeat_word", "arguments": '{"word": "lamp", "count": 2}'}
    assert adherence(doc, [" lamp lamp "]) == {"adherence": 1.0}
    assert adherence(doc, [" lamp"]) == {"adherence": 0.0}
