"""Diagnostics of whole trials: tables beside the record, cost apart, the same trial, and when one is run again."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import caches_in
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from harness.config import Diagnostics
from harness.config.errors import UserError
from harness.config.expand import load_grid
from harness.config.workloads import load_workload
from harness.data.encode import token_text
from harness.records.layout import Results
from harness.records.record import TABLES
from harness.records.store import read_record
from harness.run.attempt import run_and_write
from harness.run.plan import make_plan
from harness.trial.execute import Outcome, run_trial
from harness.trial.identity import fingerprints
from harness.trial.trial import Trial, as_config, from_config, make_trials
from strategies.registry import SIGNALS, Component

FOUR = {"overlap", "shown", "kept_tokens", "profile"}
ENTRIES: list[Any] = ["se_kd", "sft", {"preset": "rs_kd", "label": "stored", "teacher": "sampled"}, "no_kd"]


@pytest.fixture(scope="module")
def trials(workload_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trial]:
    import yaml

    path = tmp_path_factory.mktemp("grid") / "grid.yaml"
    fields = {"workload": "x", "split": "validation", "seeds": [1], "strategies": ENTRIES, "diagnostics": {"every": 2}}
    path.write_text(yaml.safe_dump(fields))
    loaded = load_workload(str(workload_file))
    made = make_trials(load_grid(path), loaded, fingerprints(loaded))
    return dict(zip(("se_kd", "sft", "stored", "no_kd"), made, strict=True))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def outcomes(trials: dict[str, Trial], cache: Path) -> dict[str, Outcome]:
    return {name: run_trial(trial, results=caches_in(cache)) for name, trial in trials.items()}


@pytest.fixture(scope="module")
def plain(trials: dict[str, Trial], cache: Path) -> Outcome:
    return run_trial(replace(trials["se_kd"], diagnostics=None), results=caches_in(cache))


def test_a_trained_trial_has_the_four_tables(outcomes: dict[str, Outcome], plain: Outcome) -> None:
    assert set(TABLES) > FOUR
    for name in ("se_kd", "sft", "stored"):
        assert set(outcomes[name].tables) > FOUR
        assert outcomes[name].record.diagnostics == {"every": 2, "sequences": 4}
        assert set(outcomes[name].tables["overlap"]["step"]) == {0, 2}
    for outcome in (plain, outcomes["no_kd"]):
        assert not FOUR & set(outcome.tables)
        assert outcome.record.diagnostics is None


def test_the_trial_is_the_same_but_for_the_time_it_took(outcomes: dict[str, Outcome], plain: Outcome) -> None:
    watched = outcomes["se_kd"]
    assert watched.record.trial_id == plain.record.trial_id
    assert watched.record.metrics == plain.record.metrics
    assert watched.tables["curve"].equals(plain.tables["curve"])
    assert watched.tables["items"].equals(plain.tables["items"])
    ours, theirs = watched.record.cost, plain.record.cost
    assert ours.flops == theirs.flops
    assert ours.peak_gib["step"] == theirs.peak_gib["step"]
    assert ours.disk_bytes == theirs.disk_bytes
    assert ours.wall_s["diagnostics"] > 0
    assert "diagnostics" not in theirs.wall_s


def test_the_teacher_is_shown_from_the_held_out_cache_whatever_the_training_reads(outcomes: dict[str, Outcome]) -> None:
    tables = [outcomes[name].tables["shown"] for name in ("se_kd", "sft", "stored")]
    key = ["step", "sequence", "position", "token", "teacher_entropy"]
    first = tables[0][tables[0]["step"] == 0][key]
    assert first["teacher_entropy"].notna().any()
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table[table["step"] == 0][key], first)
    for name in ("sft", "stored"):
        overlap = outcomes[name].tables["overlap"]
        assert "kl" not in {*overlap["first"], *overlap["second"]}
        assert outcomes[name].record.teacher_in_training == "none"


def test_tokens_are_written_as_text(
    outcomes: dict[str, Outcome], tokenizer: PreTrainedTokenizerFast, trials: dict[str, Trial]
) -> None:
    shown = outcomes["se_kd"].tables["shown"]
    text = "".join(shown[(shown["step"] == 0) & (shown["sequence"] == 0)]["token"])
    assert re.search(r" [a-z]+ [a-z]+ ", text), text
    write = token_text(tokenizer)
    words = [write(token) for token in range(len(tokenizer))]
    assert not any("\ufffd" in word or not word for word in words)
    assert write(tokenizer.eos_token_id) == tokenizer.eos_token


def test_the_settings_reach_a_worker_and_are_no_part_of_the_id(trials: dict[str, Trial]) -> None:
    trial = trials["se_kd"]
    assert from_config(as_config(trial)) == trial
    bare = replace(trial, diagnostics=None)
    assert from_config(as_config(bare)) == bare
    assert bare.id == trial.id
    assert trials["no_kd"].diagnostics is None, "nothing is trained"


# ---- which trials are run again


@pytest.mark.parametrize(
    ("had", "asked", "enough"),
    [
        ((10, 4), (10, 4), True),
        ((5, 8), (10, 4), True),
        ((10, 4), (5, 4), False),
        ((10, 4), (15, 4), False),
        ((10, 4), (10, 5), False),
    ],
)
def test_tables_serve_who_asks_for_no_more(had: tuple[int, int], asked: tuple[int, int], enough: bool) -> None:
    ours, theirs = (Diagnostics(every=every, sequences=sequences) for every, sequences in (had, asked))
    assert ours.covers(theirs) == enough


def test_a_finished_trial_is_run_again_for_diagnostics_it_does_not_have(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    def todo(every: int | None = None, **fields: Any) -> list[str]:
        grid = write_grid(["no_kd", "sft"], workload=str(workload_file), seeds=[1], **fields)
        plan = make_plan(grid, Results(tmp_path / "results"), diagnostics=every)
        return [trial.strategy.label for trial in plan.todo]

    grid = write_grid(["no_kd", "sft"], workload=str(workload_file), seeds=[1])
    for trial in make_plan(grid, Results(tmp_path / "results")).todo:
        run_and_write(trial, Results(tmp_path / "results"))
    assert todo() == []
    assert todo(2) == todo(diagnostics={"every": 2}) == ["SFT (no teacher)"], "No KD trains nothing to look at"
    (again,) = make_plan(grid, Results(tmp_path / "results"), diagnostics=1).todo
    record = run_and_write(again, Results(tmp_path / "results"))
    folder = Results(tmp_path / "results").trial(again.id)
    assert all((folder / f"{name}.parquet").exists() for name in FOUR)
    assert read_record(folder / "record.json") == record
    assert todo() == todo(1) == todo(3) == todo(diagnostics={"every": 2, "sequences": 1}) == []
    assert todo(diagnostics={"every": 2, "sequences": 5}) == ["SFT (no teacher)"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"every": 0}, "diagnostics.every"),
        ({"every": 5, "sequences": 0}, "diagnostics.sequences"),
        ({"every": 5, "sequence": 5}, "diagnostics.sequence'"),
        ({}, "diagnostics.every"),
    ],
)
def test_wrong_settings_are_refused(fields: dict[str, int], message: str, write_grid: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=message):
        load_grid(write_grid(["sft"], diagnostics=fields))


def test_the_option_takes_a_number_of_steps(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    grid = write_grid(["sft"], workload=str(workload_file), diagnostics={"every": 7, "sequences": 2})
    assert make_plan(grid, Results(tmp_path), diagnostics=3).grid.diagnostics == Diagnostics(every=3, sequences=2)
    with pytest.raises(UserError, match="--diagnostics is 0"):
        make_plan(grid, Results(tmp_path), diagnostics=0)


@pytest.fixture
def broken() -> Iterator[str]:
    """A registered signal that raises, which no strategy names."""

    def build(*, student_entropy: Float[Tensor, " N"]) -> Tensor:
        return torch.cat([student_entropy, torch.zeros(1)])

    traits: dict[str, Any] = {"scope": "row"}
    given = {"kind": "signal", "source": "-", "inputs": ("student_entropy",), "options": {}, "traits": traits}
    SIGNALS._components["broken"] = Component(name="broken", build=build, **given)
    yield "broken"
    del SIGNALS._components["broken"]


def test_a_broken_signal_is_told_before_anything_runs(
    broken: str, write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    grid = write_grid(["sft"], workload=str(workload_file))
    assert make_plan(grid, Results(tmp_path)).todo
    with pytest.raises(UserError, match=f"signal '{broken}' must return one number per position"):
        make_plan(grid, Results(tmp_path), diagnostics=1)
