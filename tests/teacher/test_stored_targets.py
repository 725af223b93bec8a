"""Training from stored draws: the same as drawing online, with no teacher in memory while the student trains."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sampling import sampled

from harness.config.errors import UserError
from harness.config.expand import load_grid
from harness.records.layout import Results
from harness.run.plan import make_plan
from harness.teacher import live as teachers
from harness.trial.execute import Outcome, run_trial
from harness.trial.flops import predict_flops
from harness.trial.trial import Trial

THREE_AXES = {
    "position": {"signal": "student_entropy", "policy": "top_k", "budget": 0.2},
    "criterion": "forward_kl",
    "classes": {"name": "rs", "draws": 8},
    "samples": {"signal": "student_entropy", "policy": "top", "budget": 0.7},
    "teacher": "sampled",
}


@pytest.fixture
def make_trial(
    write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path
) -> Callable[..., Trial]:
    """Make one trial of the three-axis strategy with changed fields; a field set to None is left out."""

    def make(workload: dict[str, object] | None = None, **changes: object) -> Trial:
        fields = {key: value for key, value in {**THREE_AXES, **changes}.items() if value is not None}
        grid = write_grid([{"label": "3X", **fields}], workload=str(write_workload(**(workload or {}))), seeds=[1])
        (trial,) = make_plan(grid, Results(tmp_path / "results")).trials
        return trial

    return make


def metrics(outcome: Outcome) -> dict[str, float]:
    return {name: metric.value for name, metric in outcome.record.metrics.items()}


@pytest.mark.parametrize(
    ("samples", "proposal"),
    sampled([(None, 1.0), (THREE_AXES["samples"], 0.5)], [1]),
    ids=["all samples", "top samples"],
)
def test_stored_draws_train_like_online_draws(
    samples: dict[str, object] | None, proposal: float, make_trial: Callable[..., Trial], tmp_path: Path
) -> None:
    classes = {"name": "rs", "draws": 8, "proposal": proposal}
    stored = run_trial(make_trial(samples=samples, classes=classes), results=Results(tmp_path))
    online = run_trial(make_trial(samples=samples, classes=classes, teacher="online"), results=Results(tmp_path))
    assert stored.tables["curve"]["loss_nats"].tolist() == pytest.approx(
        online.tables["curve"]["loss_nats"].tolist(), rel=1e-5
    )
    assert metrics(stored) == pytest.approx(metrics(online), rel=1e-5)
    assert stored.record.selection == online.record.selection


@pytest.mark.parametrize(
    "classes",
    sampled(
        [
            {"name": "top_k_tail", "num": 5},
            {"name": "top_k", "num": 5, "renormalise": True},
            {"name": "top_k", "num": 5, "renormalise": False},
        ],
        [0],
    ),
    ids=["tail", "renormalised", "truncated"],
)
def test_stored_classes_train_like_those_of_the_teacher(
    classes: dict[str, object], make_trial: Callable[..., Trial], tmp_path: Path
) -> None:
    stored = run_trial(make_trial(classes=classes, teacher="topk"), results=Results(tmp_path))
    online = run_trial(make_trial(classes=classes, teacher="online"), results=Results(tmp_path))
    assert stored.record.teacher_in_training == "none"
    assert stored.record.cost.disk_bytes["topk"] > 0
    assert metrics(stored) == pytest.approx(metrics(online), rel=1e-5)


def test_no_teacher_is_in_memory_while_training_and_the_record_says_so(
    make_trial: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial()
    built = run_trial(trial, results=Results(tmp_path)).record
    assert built.teacher_in_training == "none"
    assert {"load", "prepass", "cache", "train", "eval"} <= built.cost.wall_s.keys()
    assert built.cost.flops["teacher_head"] == built.cost.flops["teacher_trunk"] == 0
    assert built.cost.flops["cache_teacher_trunk"] > 0
    assert built.cost.disk_bytes["sampled"] > 0
    assert built.cost.shared_s == {}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr(teachers, "_load", refuse)
    reused = run_trial(trial, results=Results(tmp_path)).record
    assert reused.cost.shared_s.keys() == {"prepass", "sampled"}
    assert reused.metrics == built.metrics
    assert reused.cost.flops == built.cost.flops


@pytest.mark.slow
def test_another_seed_of_the_draws_is_another_cache(make_trial: Callable[..., Trial], tmp_path: Path) -> None:
    first = run_trial(make_trial(), results=Results(tmp_path))
    other = run_trial(make_trial(classes={"name": "rs", "draws": 8, "seed": 1}), results=Results(tmp_path))
    assert len(list((tmp_path / "cache").glob("sampled-*"))) == 2
    assert metrics(first) != metrics(other)


def test_predicted_flops_are_those_of_the_trial(make_trial: Callable[..., Trial], tmp_path: Path) -> None:
    workload = {"data__cross_document_targets": True, "optimisation__micro_batch_size": 4}
    trial = make_trial(workload)
    measured = run_trial(trial, results=Results(tmp_path)).record.cost.flops
    assert predict_flops(trial) == pytest.approx(measured, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": None}, "holds targets of rs: classes must be that"),
        ({"classes": {"name": "top_k_tail", "num": 4}}, "holds targets of rs: classes must be that"),
        ({"position": {"signal": "kl", "policy": "top_k", "budget": 0.2}}, "signal 'kl' reads the teacher's whole"),
        ({"samples": {"signal": "ce_ratio", "policy": "top", "budget": 0.5}}, "signal 'ce_ratio' reads the teacher's"),
        ({"teacher": "topk"}, "holds targets of top_k or top_k_tail: classes must be that"),
        ({"flow": "dense"}, "flow: dense computes every teacher logit"),
    ],
)
def test_what_draws_cannot_serve_is_refused(
    changes: dict[str, object], said: str, write_grid: Callable[..., Path]
) -> None:
    fields = {key: value for key, value in {"label": "x", **THREE_AXES, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=said):
        load_grid(write_grid([fields]))
