"""What the scheduler makes of what Tune tells it, without Ray."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.distill.group import ALONE
from harness.records.layout import Results
from harness.records.store import read_record
from harness.run import ranks, schedule
from harness.run.options import Options
from harness.run.plan import make_plan
from harness.run.schedule import _fit, _Relay
from harness.run.watchers import Failed, Watcher
from harness.trial.trial import Trial


class Heard(Watcher):
    """A watcher that remembers how trials ended."""

    def __init__(self) -> None:
        self.ends: list[str | None] = []

    def ended(self, trial: Trial, error: str | None) -> None:
        """Remember it."""
        self.ends.append(error)


def test_a_trial_that_its_worker_refuses_is_recorded_with_the_reason(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    """A plugin that is another one where the worker runs, say: nobody killed it, and no second attempt would help."""
    (trial,) = make_plan(write_grid(["no_kd"], workload=str(workload_file)), Results(tmp_path / "results")).todo
    heard, failed = Heard(), dict[str, Failed]()
    relay = _Relay([trial], Results(tmp_path / "results"), heard, failed, tmp_path / "stop")
    tunes = SimpleNamespace(config={"trial": {"id": trial.id}})
    relay.on_trial_start(0, [], tunes)
    relay.on_trial_result(1, [], tunes, {"refused": "plugin mine.py is another one here"})
    relay.on_trial_complete(1, [], tunes)
    assert relay.active == set()
    assert failed == {trial.id: Failed(reason="input", line="UserError: plugin mine.py is another one here")}
    assert heard.ends == ["UserError: plugin mine.py is another one here"]
    record = read_record(tmp_path / "results" / "trials" / trial.id / "record.json")
    assert record.status == "failed"
    assert record.failure is not None
    assert (record.failure.kind, record.failure.reason) == ("UserError", "input")


def test_each_process_of_a_trial_is_a_task_with_gpus_of_its_own(
    write_grid: Callable[..., Path],
    write_workload: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No process holds another's weights: the first is Tune's task, and each of the others an actor of its own."""
    resources = {"resources__data_parallel": 2, "resources__gpus": 1, "resources__teacher_gpus": 2}
    results = Results(tmp_path / "results")
    grid = write_grid(
        [{"preset": "full_kd", "teacher": "online"}], workload=str(write_workload(**resources)), seeds=[1]
    )
    (trial,) = make_plan(grid, results).todo
    asked, started, killed = list[Any](), list[dict[str, float]](), list[object]()

    monkeypatch.setattr(schedule.tune, "with_resources", lambda _, bundles: asked.append(bundles))
    monkeypatch.setattr(schedule.tune, "Tuner", lambda *_, **__: SimpleNamespace(fit=lambda: None))
    relay = _Relay([trial], results, Watcher(), dict[str, Failed](), tmp_path / "stop")
    _fit(relay, Options(), tmp_path / "storage", [])
    each = {"CPU": 1.0, "GPU": 3.0}
    assert asked[0].bundles == [each, each], "the student's GPU and its teacher's two, twice"

    def start(**options: float) -> SimpleNamespace:
        started.append(options)
        method = SimpleNamespace(remote=lambda *_: None)
        return SimpleNamespace(remote=lambda: SimpleNamespace(help=method, load=method))

    monkeypatch.setattr(ranks, "_remote", SimpleNamespace(options=start))
    monkeypatch.setattr(ranks, "_introduce", lambda *_: None)
    monkeypatch.setattr(ranks, "_failures", lambda *_, **__: [])
    monkeypatch.setattr(ranks, "joined", lambda *_, **__: nullcontext(ALONE))
    monkeypatch.setattr(ranks.ray, "kill", killed.append)
    with ranks.gathered(trial, {}, results, Options(), asked[0].bundles[0]):
        assert started == [{"num_cpus": 1.0, "num_gpus": 3.0}]
        assert not killed
    assert len(killed) == 1
