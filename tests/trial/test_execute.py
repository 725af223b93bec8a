"""Whole trials on a small workload of local files, from the checkpoint folders to the record."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import caches_in
from safetensors.torch import load_file, save_file

from harness.config import Workload
from harness.config.expand import load_grid
from harness.config.workloads import load_workload
from harness.data.tokens import Tokens
from harness.distill.train import NotFiniteError, count_steps, data_order, learning_rate
from harness.evaluate.calibration import expected_calibration_error
from harness.evaluate.heldout import measure_heldout
from harness.models import head_of, load_model, trunk
from harness.records.layout import Results
from harness.records.store import finished, read_record, write_record
from harness.run.attempt import failed_record, run_and_write
from harness.run.plan import make_plan, reads_cache
from harness.teacher.inputs import prepare_inputs
from harness.teacher.interface import Teacher
from harness.trial.execute import Outcome, run_trial
from harness.trial.flops import predict_flops
from harness.trial.identity import fingerprints
from harness.trial.trial import Trial, make_trials

ONLINE = {"preset": "se_kd", "label": "online", "teacher": "online"}
LAYERS: dict[str, Any] = {
    "preset": "egad",
    "label": "layers",
    "teacher": "online",
    "feature": {"distance": "layernorm_mse", "layers": [[1, 1], [2, 2]]},
}
ENTRIES: list[Any] = ["full_kd", "se_kd", "sft", "no_kd", "teacher", "at_kd", "rs_kd", ONLINE, "adakd", "egad", LAYERS]
LABELS = [
    "Full KD", "SE-KD 20%", "SFT (no teacher)", "No KD", "Teacher", "AT-KD", "RS-KD 64 draws", "online", "AdaKD",
    "EGAD", "layers",
]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def workload(workload_file: Path) -> Workload:
    return load_workload(str(workload_file))


@pytest.fixture(scope="module")
def make_trial(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trial]:
    found = fingerprints(workload)

    def make(entry: Any, *, seed: int = 1, loaded: Workload = workload) -> Trial:
        import yaml

        path = tmp_path_factory.mktemp("grid") / "grid.yaml"
        path.write_text(
            yaml.safe_dump({"workload": "x", "split": "validation", "seeds": [seed], "strategies": [entry]})
        )
        marks = found if loaded is workload else fingerprints(loaded)
        (trial,) = make_trials(load_grid(path), loaded, marks)
        return trial

    return make


@pytest.fixture(scope="module")
def outcomes(make_trial: Callable[..., Trial], cache: Path) -> dict[str, Outcome]:
    return {trial.strategy.label: run_trial(trial, results=caches_in(cache)) for trial in map(make_trial, ENTRIES)}


def values(outcome: Outcome) -> dict[str, float]:
    return {name: metric.value for name, metric in outcome.record.metrics.items()}


@pytest.mark.parametrize("label", LABELS)
def test_a_record_is_complete(label: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[label]
    record = outcome.record
    assert record.status == "finished"
    assert record.label == label
    assert {"heldout_loss", "bits_per_byte", "teacher_kl", "teacher_agreement"} <= record.metrics.keys()
    assert any(name.startswith("accuracy") for name in record.metrics)
    assert all(math.isfinite(value) for value in values(outcome).values())
    items = outcome.tables["items"]
    assert set(items.loc[items["task"] != "heldout", "item"]) == {0, 1, 2, 3}
    for metric in ("heldout_loss", "teacher_kl", "teacher_agreement"):
        rows = items[items["metric"] == metric]
        mean = (rows["value"] * rows["weight"]).sum() / rows["weight"].sum()
        assert float(mean) == pytest.approx(record.metrics[metric].value, rel=1e-9)
    assert record.cost.wall_s["eval"] > 0
    assert record.environment["device"] == "cpu"
    stated = {"processor", "arithmetic", "torch_capability", "numpy_capability", "blas", "threads"}
    assert stated <= record.environment.keys()
    trained = label not in {"No KD", "Teacher"}
    assert (record.seed == 1) == trained
    assert ("train" in record.cost.wall_s) == trained
    assert record.cost.cpu_s.keys() == record.cost.thread_s.keys() == record.cost.wall_s.keys()
    assert set(record.cost.peak_gib) == ({"process", "step"} if trained else set())
    assert all(peak > 0 for peak in record.cost.peak_gib.values())
    assert bool(record.cost.flops) == trained
    assert record.cost.tokens == (384 if trained else 0)
    assert ("curve" in outcome.tables) == trained
    if trained:
        assert outcome.tables["curve"]["step"].tolist() == [0, 1, 2]
        assert bool((outcome.tables["curve"]["grad_norm"] > 0).all())


@pytest.mark.parametrize(
    ("label", "low", "high"),
    [("Full KD", 1.0, 1.0), ("SFT (no teacher)", 1.0, 1.0), ("AT-KD", 1.0, 1.0), ("SE-KD 20%", 0.2, 0.24),
     ("online", 0.2, 0.24)],
)  # fmt: skip
def test_the_realised_fraction_is_what_was_asked_for(
    label: str, low: float, high: float, outcomes: dict[str, Outcome]
) -> None:
    selection = outcomes[label].record.selection
    assert selection is not None
    assert low <= selection.realised_fraction <= high
    assert selection.realised_fraction == selection.supervised_positions / selection.valid_positions
    assert selection.valid_positions < 384


def test_distinct_classes_are_reported_where_targets_are_sparse(outcomes: dict[str, Outcome]) -> None:
    def classes(label: str) -> float | None:
        selection = outcomes[label].record.selection
        assert selection is not None
        return selection.classes_per_position

    sampled = classes("RS-KD 64 draws")
    assert sampled is not None
    assert 1 < sampled < 64
    assert classes("Full KD") is None


def test_a_model_as_it_is_selects_nothing(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["No KD"].record.selection is None


def test_training_changes_the_student_and_strategies_differ(outcomes: dict[str, Outcome]) -> None:
    losses = {label: values(outcomes[label])["heldout_loss"] for label in LABELS if label != "online"}
    assert len(set(losses.values())) == len(losses)
    assert losses["SFT (no teacher)"] < losses["No KD"]


def test_the_teacher_agrees_with_itself(outcomes: dict[str, Outcome]) -> None:
    metrics = values(outcomes["Teacher"])
    assert metrics["teacher_agreement"] == 1.0
    assert metrics["teacher_kl"] == pytest.approx(0.0, abs=1e-9)
    assert values(outcomes["No KD"])["teacher_kl"] > 0.1
    assert values(outcomes["Full KD"])["teacher_kl"] < values(outcomes["No KD"])["teacher_kl"]


def test_online_and_cached_teacher_give_the_same_trial(outcomes: dict[str, Outcome]) -> None:
    online, cached = outcomes["online"], outcomes["SE-KD 20%"]
    assert values(online) == values(cached)
    assert online.tables["curve"].equals(cached.tables["curve"])
    assert online.record.cost.flops["teacher_trunk"] > 0
    assert cached.record.cost.flops["teacher_trunk"] == 0
    assert cached.record.cost.disk_bytes["hidden"] > 12 * 32 * 24 * 4
    assert online.record.cost.disk_bytes == {}


def test_the_teacher_is_run_once_for_all_trials(outcomes: dict[str, Outcome], cache: Path) -> None:
    assert outcomes
    assert len(list(cache.glob("hidden-*"))) == 2  # train and validation
    assert not list(cache.glob(".*"))


def test_a_cached_teacher_pays_for_selected_rows_only(outcomes: dict[str, Outcome]) -> None:
    full, some = (outcomes[label].record.cost.flops["teacher_head"] for label in ("Full KD", "SE-KD 20%"))
    assert 0.2 <= some / full <= 0.24
    assert outcomes["SFT (no teacher)"].record.cost.flops["teacher_head"] == 0


@pytest.mark.parametrize("label", LABELS)
def test_the_predicted_operations_bound_the_measured_ones(
    label: str, outcomes: dict[str, Outcome], make_trial: Callable[..., Trial]
) -> None:
    predicted = predict_flops(make_trial(ENTRIES[LABELS.index(label)]))
    measured = outcomes[label].record.cost.flops
    assert predicted.keys() == measured.keys()
    for part, operations in measured.items():
        assert operations <= predicted[part] <= 1.3 * operations, part


def test_the_same_seed_gives_the_same_numbers(
    make_trial: Callable[..., Trial], cache: Path, outcomes: dict[str, Outcome]
) -> None:
    again = run_trial(make_trial("se_kd"), results=caches_in(cache))
    assert values(again) == values(outcomes["SE-KD 20%"])
    assert again.tables["items"].equals(outcomes["SE-KD 20%"].tables["items"])
    assert again.record.trial_id == outcomes["SE-KD 20%"].record.trial_id


def test_another_seed_meets_the_data_in_another_order(
    make_trial: Callable[..., Trial], cache: Path, outcomes: dict[str, Outcome]
) -> None:
    other = run_trial(make_trial("se_kd", seed=2), results=caches_in(cache))
    assert values(other)["heldout_loss"] != values(outcomes["SE-KD 20%"])["heldout_loss"]
    assert not torch.equal(data_order(12, 1, 1), data_order(12, 1, 2))


def test_progress_is_told_step_by_step(make_trial: Callable[..., Trial], cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    run_trial(make_trial("sft"), results=caches_in(cache), on_step=lambda done, total, loss: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_micro_batches_do_not_change_a_trial(
    make_trial: Callable[..., Trial], cache: Path, workload: Workload, outcomes: dict[str, Outcome]
) -> None:
    for label, entry in (("SE-KD 20%", "se_kd"), ("AT-KD", "at_kd")):
        fields = workload.model_copy(
            update={"optimisation": workload.optimisation.model_copy(update={"micro_batch_size": 4})}
        )
        other = run_trial(replace(make_trial(entry), workload=fields), results=caches_in(cache))
        assert other.record.trial_id == outcomes[label].record.trial_id
        found, wanted = values(other)["heldout_loss"], values(outcomes[label])["heldout_loss"]
        assert found == pytest.approx(wanted, rel=1e-5)


# ---- failures


def _not_a_number(checkpoints: Path, tmp_path: Path, model: str) -> Path:
    import shutil

    folder = Path(shutil.copytree(checkpoints / model, tmp_path / model))
    tensors = load_file(folder / "model.safetensors")
    # Finite, or it would be refused before anything runs; its products are not.
    tensors["model.layers.0.mlp.up_proj.weight"][:] = 1e38
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_trial_that_diverges_leaves_a_failed_record_and_raises(
    checkpoints: Path, tmp_path: Path, write_workload: Callable[..., Path], make_trial: Callable[..., Trial]
) -> None:
    folder = _not_a_number(checkpoints, tmp_path, "student")
    loaded = load_workload(str(write_workload(student={"path": str(folder)})))
    trial = make_trial("sft", loaded=loaded)
    with pytest.raises(NotFiniteError, match=r"step 0: loss nan, gradient norm nan; sequences \["):
        run_and_write(trial, Results(tmp_path / "results"))
    record = read_record(Results(tmp_path / "results").record(trial.id))
    assert record.status == "failed"
    assert record.failure is not None
    assert record.failure.kind == "NotFiniteError"
    assert "step 0" in record.failure.message
    assert "Traceback" in record.failure.traceback
    assert "train.py" in record.failure.traceback
    assert not finished(Results(tmp_path / "results"), trial.id)


def test_a_model_that_is_not_finite_is_not_scored(
    checkpoints: Path, tmp_path: Path, write_workload: Callable[..., Path], make_trial: Callable[..., Trial]
) -> None:
    folder = _not_a_number(checkpoints, tmp_path, "student")
    trial = make_trial("no_kd", loaded=load_workload(str(write_workload(student={"path": str(folder)}))))
    with pytest.raises(FloatingPointError):
        run_and_write(trial, Results(tmp_path / "results"))
    assert read_record(Results(tmp_path / "results").record(trial.id)).status == "failed"


def test_a_finished_record_is_written_and_not_overwritten_by_a_failure(
    make_trial: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial("no_kd")
    written = run_and_write(trial, Results(tmp_path))
    assert finished(Results(tmp_path), trial.id)
    folder = Results(tmp_path).trial(trial.id)
    assert read_record(folder / "record.json") == written
    assert (folder / "items.parquet").exists()
    # A failure that comes late, of a process that did not wait, replaces nothing; nor does running it again.
    write_record(Results(tmp_path), failed_record(trial, written.started_at, "error", ValueError("late"), ""), {})
    monkeypatch.setattr("harness.run.attempt.run_trial", lambda *args, **kwargs: 1 / 0)
    assert run_and_write(trial, Results(tmp_path)) == written
    assert read_record(folder / "record.json") == written


def test_a_trial_that_failed_and_then_finished_tells_both(
    make_trial: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial("no_kd")
    with monkeypatch.context() as patched:
        patched.setattr("harness.run.attempt.run_trial", lambda *args, **kwargs: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                run_and_write(trial, Results(tmp_path))
    written = run_and_write(trial, Results(tmp_path))
    assert written.status == "finished"
    assert written.history.attempts == 3
    assert written.history.failures == ("ZeroDivisionError: division by zero",) * 2


# ---- plans


def test_a_plan_lists_each_trial_once_and_leaves_finished_ones_out(
    workload_file: Path, write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    twin = {"preset": "se_kd", "label": "the same under another name"}
    path = write_grid(["no_kd", "se_kd", twin, "sft"], workload=str(workload_file))
    plan = make_plan(path, Results(tmp_path))
    assert len(plan.rows) == 7
    assert len(plan.trials) == len(plan.todo) == 5
    assert twin["label"] not in {trial.strategy.label for trial in plan.trials}, "the first row's name is in the record"
    assert plan.needs_train_cache
    run_and_write(plan.trials[0], Results(tmp_path))
    assert len(make_plan(path, Results(tmp_path)).todo) == 4
    assert len(make_plan(path, Results(tmp_path), force=True).todo) == 5
    assert not make_plan(path, Results(tmp_path), labels=("sft", "no kd")).needs_train_cache


def test_only_cached_teacher_reading_trials_read_the_cache(make_trial: Callable[..., Trial]) -> None:
    reading = [label for label, entry in zip(LABELS, ENTRIES, strict=True) if reads_cache(make_trial(entry))]
    assert reading == ["Full KD", "SE-KD 20%", "AT-KD", "RS-KD 64 draws", "AdaKD", "EGAD"]


def test_a_workload_without_a_teacher_still_trains(
    write_workload: Callable[..., Path], make_trial: Callable[..., Trial], cache: Path
) -> None:
    trial = make_trial("sft", loaded=load_workload(str(write_workload(teacher=None))))
    metrics = values(run_trial(trial, results=caches_in(cache)))
    assert "heldout_loss" in metrics
    assert "teacher_kl" not in metrics


# ---- held-out text and the schedule


def test_held_out_metrics_equal_a_direct_computation(
    workload: Workload, cache: Path, outcomes: dict[str, Outcome]
) -> None:
    assert workload.teacher is not None
    inputs = prepare_inputs(
        workload, fingerprints(workload), "validation", results=caches_in(cache), needs_train_cache=False
    )
    student, teacher = (
        load_model(source, workload.folder, dtype=torch.float64) for source in (workload.student, workload.teacher)
    )
    batch = inputs.heldout.batch(torch.arange(len(inputs.heldout)))
    with torch.no_grad():
        log_q, log_p = (
            F.log_softmax(model(input_ids=batch.input_ids).logits[..., : inputs.vocab_size], dim=-1)[batch.valid]
            for model in (student, teacher)
        )
    loss = F.nll_loss(log_q, batch.targets[batch.valid])
    found = values(outcomes["No KD"])
    assert found["heldout_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(float(loss) * inputs.heldout.tokens_per_byte / math.log(2), rel=1e-5)
    assert found["teacher_kl"] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), rel=1e-5)
    agreement = (log_p.argmax(-1) == log_q.argmax(-1)).double().mean()
    assert found["teacher_agreement"] == pytest.approx(float(agreement))
    confidence, best = log_q.exp().max(dim=-1)
    error = expected_calibration_error(confidence, best == batch.targets[batch.valid])
    assert found["token_ece"] == pytest.approx(error, abs=1e-6)
    table = outcomes["No KD"].tables["reliability"]
    assert table.loc[table["source"] == "tokens", "num"].sum() == int(batch.valid.sum())
    assert set(table["source"]) == {"tokens", "tiny_completion"}
    assert not table.duplicated(["source", "bin"]).any()


@pytest.mark.parametrize(("batch_size", "chunk"), [(1, 3), (4, 7), (6, 10_000)])
def test_held_out_metrics_do_not_depend_on_batches_and_chunks(
    batch_size: int, chunk: int, make_pair: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    pair = make_pair(torch.float64)
    ids = make_batch(6, 13).input_ids.to(torch.int32).numpy()
    tokens = Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=0.5, key="k")
    teacher = Teacher(
        hidden=lambda batch: trunk(pair.teacher, batch.input_ids),
        head=head_of(copy.deepcopy(pair.teacher), 97),
        online=True,
    )
    wanted = measure_heldout(pair.student, tokens, teacher, vocab_size=97, batch_size=6, chunk=5)
    found = measure_heldout(pair.student, tokens, teacher, vocab_size=97, batch_size=batch_size, chunk=chunk)
    for name, metric in wanted.metrics.items():
        assert found.metrics[name].value == pytest.approx(metric.value, rel=1e-10)
        assert found.metrics[name].stderr == pytest.approx(metric.stderr, rel=1e-8)
        assert found.metrics[name].num == metric.num
    pd.testing.assert_frame_equal(found.reliability, wanted.reliability)


def test_every_epoch_is_its_own_permutation() -> None:
    order = data_order(10, 3, seed=5).view(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in order.tolist())
    assert len({tuple(epoch) for epoch in order.tolist()}) == 3
    assert torch.equal(data_order(10, 1, seed=5), order[0])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule: str, workload: Workload) -> None:
    optimisation = workload.optimisation.model_copy(update={"schedule": schedule, "warmup": 0.1, "learning_rate": 2.0})
    rates = [learning_rate(step, 100, optimisation) for step in range(100)]
    assert all(0 < rate <= 2.0 for rate in rates)
    assert rates[:10] == pytest.approx([2.0 * step / 11 for step in range(1, 11)])
    assert rates[10] == pytest.approx(2.0)
    halfway = {"constant": 2.0, "linear": 1.0, "cosine": 1.0}[schedule]
    assert rates[55] == pytest.approx(halfway)
    assert rates == [*rates[:10], *sorted(rates[10:], reverse=True)]


def test_only_whole_batches_are_steps(workload: Workload) -> None:
    optimisation = workload.optimisation.model_copy(update={"batch_size": 4, "epochs": 3})
    assert count_steps(7, optimisation) == 5
    with pytest.raises(ValueError, match="1 sequences do not fill one batch of 4"):
        count_steps(1, optimisation)
