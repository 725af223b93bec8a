"""Scores stored before training: the same as computed while training, without the teacher's head at every position."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import caches_in
from rich.console import Console

from harness.cost.forecast.disk import caches
from harness.distill.objective import compile_strategy
from harness.models.devices import release_memory
from harness.records.layout import Results
from harness.records.record import Record
from harness.run.plan import make_plan
from harness.run.prepare import prepare_plan
from harness.teacher import live
from harness.teacher.kinds.scores import SignalScores
from harness.trial.execute import run_trial
from harness.trial.flops import predict_flops
from harness.trial.trial import Trial
from strategies.registry import SIGNALS, TEACHER_INPUTS

ENTROPY = {
    "position": {"signal": "teacher_entropy", "policy": "top_k", "budget": 0.25},
    "criterion": "forward_kl",
}

HOT = {"name": "egad", "low": 1.0, "high": 2.0, "hot": "hard"}


@pytest.fixture
def make_trial(
    write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path
) -> Callable[..., Trial]:
    """Make one trial that ranks by the teacher's entropy, with changed fields."""

    def make(workload: dict[str, object] | None = None, *, signal: str = "teacher_entropy", **changes: object) -> Trial:
        fields = {**ENTROPY, "position": {**ENTROPY["position"], "signal": signal}, **changes}
        grid = write_grid([{"label": "x", **fields}], workload=str(write_workload(**(workload or {}))), seeds=[1])
        (trial,) = make_plan(grid, Results(tmp_path / "results")).trials
        return trial

    return make


def run(trial: Trial, cache: Path) -> tuple[Record, list[float]]:
    outcome = run_trial(trial, results=caches_in(cache))
    return outcome.record, outcome.tables["curve"]["loss_nats"].tolist()


@pytest.mark.parametrize(
    ("signal", "changes"),
    [
        ("teacher_entropy", {}),
        ("ce_ratio", {}),
        ("teacher_uncertainty_rank", {}),
        ("teacher_ce", {"temperature": HOT}),
    ],
)
def test_stored_scores_train_like_scores_of_the_moment(
    signal: str, changes: dict[str, object], make_trial: Callable[..., Trial], tmp_path: Path
) -> None:
    size = {"resources__dtype": "float64", "optimisation__micro_batch_size": 2}
    stored, curve = run(make_trial(size, signal=signal, **changes), tmp_path / "cache")
    online, reference = run(make_trial(size, signal=signal, teacher="online", **changes), tmp_path / "cache")
    assert curve == pytest.approx(reference, rel=1e-10)
    assert stored.selection == online.selection
    # The head is applied where the loss reads it, and once to every position before.
    assert stored.selection is not None
    once = {name: flops for name, flops in stored.cost.flops.items() if name.startswith("cache_")}
    trained = online.cost.flops["teacher_head"] * stored.selection.realised_fraction
    trained /= 1 + stored.selection.realised_fraction
    assert stored.cost.flops["teacher_head"] == pytest.approx(trained, rel=1e-6)
    assert once["cache_teacher_head"] > 0
    assert stored.cost.disk_bytes["scores"] > 0


def test_only_signals_of_the_teacher_alone_are_stored(make_trial: Callable[..., Trial]) -> None:
    wanted = {name: compile_strategy(make_trial(signal=name).strategy).stored_scores for name in ("kl", "ce_ratio")}
    assert wanted == {"kl": (), "ce_ratio": ("teacher_ce",)}
    two = make_trial(signal="teacher_ce", temperature=HOT).strategy
    assert set(compile_strategy(two).stored_scores) == {"teacher_ce", "teacher_entropy"}
    assert compile_strategy(make_trial(teacher="online").strategy).stored_scores == ()
    # A score that needs the head anyway leaves nothing to save.
    both = make_trial(signal="kl", temperature=HOT).strategy
    assert {name for name in compile_strategy(both).scored if set(SIGNALS[name].inputs) & TEACHER_INPUTS} == {
        "kl", "teacher_entropy",
    }  # fmt: skip
    assert compile_strategy(both).stored_scores == ()


def test_scores_are_made_once_and_found_by_others(
    make_trial: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial()
    first, _ = run(trial, tmp_path / "cache")
    assert "scores" not in first.cost.shared_s
    monkeypatch.setattr(SignalScores, "make", lambda *_, **__: pytest.fail("they were there"))
    second, _ = run(trial, tmp_path / "cache")
    assert second.cost.shared_s["scores"] > 0
    assert second.metrics == first.metrics
    assert second.cost.flops == first.cost.flops


def test_chosen_sequences_alone_are_scored_unless_all_are(make_trial: Callable[..., Trial], tmp_path: Path) -> None:
    some = make_trial(samples={"signal": "student_entropy", "policy": "top", "budget": 0.5})
    chosen, curve = run(some, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").glob("scores-*")
    assert (folder / "sequences.safetensors").exists()
    run(make_trial(), tmp_path / "cache")
    for path in sorted(folder.iterdir()):
        path.unlink()
    folder.rmdir()
    again, same = run(some, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("scores-*"))) == 1
    assert same == pytest.approx(curve, rel=1e-5)
    assert again.cost.flops == chosen.cost.flops


@pytest.mark.parametrize("signal", ["teacher_entropy", "ce_ratio"])
def test_predictions_hold(signal: str, make_trial: Callable[..., Trial], tmp_path: Path) -> None:
    trial = make_trial({"data__cross_document_targets": True}, signal=signal)
    record, _ = run(trial, tmp_path / "cache")
    assert predict_flops(trial) == pytest.approx(record.cost.flops, rel=1e-12)
    (predicted,) = (each for each in caches(trial.strategy, trial.workload) if each.kind == "scores")
    assert predicted.num_bytes == pytest.approx(record.cost.disk_bytes["scores"], rel=0.05)


def test_a_run_scores_before_its_trials_start_and_lets_go_of_the_teacher(
    make_trial: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trial()
    models: list[weakref.ref[torch.nn.Module]] = []
    load = live.models.load_model

    def noted(*args: Any, **kwargs: Any) -> Any:
        model = load(*args, **kwargs)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(live.models, "load_model", noted)
    plan = make_plan(tmp_path / "question.yaml", Results(tmp_path / "results"))
    prepare_plan(plan, Results(tmp_path / "results"), Console(quiet=True))
    assert len(list((tmp_path / "results" / "cache").glob("scores-*"))) == 1
    release_memory()
    assert models
    assert not any(model() is not None for model in models)
    trial = plan.trials[0]
    assert trial.id != replace(trial, strategy=trial.strategy.model_copy(update={"teacher": "online"})).id
