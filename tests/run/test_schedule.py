"""What the scheduler makes of what Tune tells it, without Ray."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from harness.records.layout import Results
from harness.records.store import read_record
from harness.run.plan import make_plan
from harness.run.schedule import _Relay
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
