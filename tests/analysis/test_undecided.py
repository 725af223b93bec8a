"""Rows that a run leaves undecided, and tables that say which of them got more seeds."""

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import NO_KD, grid, strategy, top_k

from harness.analysis.read import Run
from harness.analysis.tables import document_tables
from harness.analysis.undecided import undecided
from harness.records.record import SecondLook

STRATEGIES = {
    "No KD": NO_KD,
    "Full KD": strategy(),
    "Far": strategy(position=top_k("kl")),
    "Near": strategy(position=top_k("student_entropy")),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return grid(tmp_path_factory.mktemp("grid"), STRATEGIES, {"Far": 2.0})


def test_rows_that_train_and_cannot_be_told_from_the_baseline_are_undecided(run: Run) -> None:
    verdicts = {key: row["verdict"] for key, row in run.rows.items() if key[0] in ("Far", "Near")}
    assert verdicts["Far", "accuracy"] == verdicts["Far", "heldout_loss"] == "better"
    assert verdicts["Near", "accuracy"] == "not distinguishable"
    assert run.rows["No KD", "accuracy"]["verdict"] == "not distinguishable"
    assert undecided(run) == ("Near",)


def test_no_row_is_undecided_against_a_baseline_without_a_finished_trial(tmp_path: Path) -> None:
    lost = tuple(("Full KD", seed) for seed in (1, 2, 3))
    assert undecided(grid(tmp_path, STRATEGIES, {}, failed=lost)) == ()


def test_every_table_says_which_rows_have_more_seeds(run: Run) -> None:
    second = SecondLook(seeds=(3,), labels=("Full KD", "Near"))
    looked = replace(run, manifest=run.manifest.model_copy(update={"second_look": second}))
    tables = document_tables(looked)
    said = "Rows with 3 seeds, because 2 had not decided them against the baseline: Full KD, Near; tests allow for"
    assert all(said in table.caption for table in tables)
    assert not any("two looks" in table.caption for table in document_tables(run))
    # Each p-value counts twice, so what is found is found with less than half the chance of an error.
    for key, row in run.rows.items():
        if row["p_corrected"] == row["p_corrected"]:
            assert looked.rows[key]["p_corrected"] == pytest.approx(min(2 * row["p_corrected"], 1.0))
