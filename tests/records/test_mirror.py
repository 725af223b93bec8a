"""A results folder on object storage: another machine finds what one has made, and only what is whole."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
from conftest import Asked
from rich.console import Console

from harness.config.errors import UserError
from harness.records.layout import Results
from harness.records.mirror import MirrorError
from harness.records.store import read_record
from harness.run.attempt import reason_of, run_and_write
from harness.run.options import Options
from harness.run.plan import make_plan
from harness.run.run import print_mirror_status, sync_mirror
from harness.teacher import live as teachers
from harness.trial.checkpoint import Interval, Stopped
from harness.trial.trial import Trial

PROJECT = Path(__file__).parents[2]
OPTIONS = Options(checkpoint_every=Interval(steps=1))


@pytest.fixture
def uri() -> Iterator[str]:
    """A storage in memory of its own, which has no folders and no renaming, as object storage has none."""
    place = f"memory://bucket-{uuid4().hex}/results"
    yield place
    storage, root = fsspec.core.url_to_fs(place)
    if storage.exists(root):
        storage.rm(root, recursive=True)


@pytest.fixture
def trial(write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path) -> Trial:
    grid = write_grid(["se_kd"], workload=str(workload_file), seeds=[1])
    (found,) = make_plan(grid, Results(tmp_path / "nowhere")).trials
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_another_machine_has_what_one_has_made(
    uri: str, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Results.at(tmp_path / "here", uri), Results.at(tmp_path / "there", uri)
    sync_mirror(here, Console(quiet=True))
    run_and_write(trial, here, options=OPTIONS)
    sync_mirror(there, Console(quiet=True))
    assert Results.at(there.root) == there, "it is noted"
    assert content(there.trial(trial.id)) == content(here.trial(trial.id))
    assert there.exchange() == (0, 0)
    # Its caches are fetched when they are asked for: the teacher is not run again.
    shutil.rmtree(there.trial(trial.id))
    shutil.rmtree(there.cache, ignore_errors=True)
    monkeypatch.setattr(teachers, "_load", lambda *_: pytest.fail("the teacher's states were there"))
    again = run_and_write(trial, there, options=OPTIONS)
    assert again.metrics == read_record(here.record(trial.id)).metrics
    for kind in ("hidden", "tokens"):
        for folder in here.cache.glob(f"{kind}-*"):
            assert content(there.cache / folder.name) == content(folder)


def test_a_plan_says_what_is_elsewhere_and_fetches_nothing(
    uri: str, write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    here, there = Results.at(tmp_path / "here", uri), Results.at(tmp_path / "there", uri)
    told = Console(record=True, width=200)
    plan = make_plan(write_grid(["no_kd", "se_kd"], workload=str(workload_file), seeds=[1]), there)
    print_mirror_status(plan, Results(there.root), told)
    assert told.export_text() == "", "it has no mirror"
    run_and_write(next(each for each in plan.trials if each.strategy.train), here, options=OPTIONS)
    print_mirror_status(plan, there, told)
    assert told.export_text() == f"{uri} has 1 of the 2 trials to run.\n"
    assert not there.root.exists()


def test_a_trial_goes_on_where_another_machine_stopped(uri: str, trial: Trial, tmp_path: Path) -> None:
    here, there = Results.at(tmp_path / "here", uri), Results.at(tmp_path / "there", uri)
    with pytest.raises(Stopped):
        run_and_write(trial, here, options=OPTIONS, stop=Asked(3))  # before training, and after two steps
    checkpoints = here.checkpoints(trial.id)
    assert there.copies(there.checkpoints(trial.id)) == [path.name for path in checkpoints.iterdir()], "no older ones"
    record = run_and_write(trial, there, options=OPTIONS)
    (folder,) = checkpoints.iterdir()
    assert record.history.resumed_at == (int(folder.name.removeprefix("step-")),)
    assert here.copies(checkpoints) == []
    alone = run_and_write(trial, Results(tmp_path / "alone"), options=OPTIONS)
    assert record.metrics == alone.metrics, "bit for bit"


def test_what_was_copied_in_part_does_not_exist(uri: str, trial: Trial, tmp_path: Path) -> None:
    here, there = Results.at(tmp_path / "here", uri), Results.at(tmp_path / "there", uri)
    run_and_write(trial, Results(here.root), options=OPTIONS)
    assert here.exchange() == (0, 1), "made before there was a mirror"
    storage, root = fsspec.core.url_to_fs(uri)
    storage.rm(f"{root}/trials/{trial.id}/record.json")
    assert there.exchange() == (0, 0)
    assert not there.trials.exists()
    assert here.exchange() == (0, 1), "the next run makes up for it"
    assert there.exchange() == (1, 0)


def test_a_newer_record_takes_the_older_ones_place_where_it_is_asked_for(
    uri: str, trial: Trial, tmp_path: Path
) -> None:
    here, there = Results.at(tmp_path / "here", uri), Results.at(tmp_path / "there", uri)
    run_and_write(trial, here, options=OPTIONS)
    stale = there.trial(trial.id)
    stale.mkdir(parents=True)
    there.record(trial.id).write_text("{}")
    assert not there.fetch(stale)
    assert there.fetch(stale, changed=True)
    assert content(stale) == content(here.trial(trial.id))
    assert not there.fetch(stale, changed=True), "it is the same"
    assert [path.name for path in stale.parent.iterdir()] == [trial.id]


def test_a_mirror_that_cannot_be_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--mirror nothing://x: Protocol not known: nothing"):
        Results.at(tmp_path, "nothing://x")
    assert Results.at(tmp_path).mirror is None
    Results.at(tmp_path, uri).note_mirror()
    with pytest.raises(UserError, match="is mirrored at memory"):
        Results.at(tmp_path, "memory://other")
    (tmp_path / "mirror.json").write_text("[]")
    with pytest.raises(UserError, match="is not readable; remove it"):
        Results.at(tmp_path)


def test_a_storage_that_fails_says_so_and_the_record_stays(
    uri: str, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results.at(tmp_path, uri)
    run_and_write(trial, results, options=OPTIONS)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no credentials")

    monkeypatch.setattr(results.mirror._fs, "put_file", refuse)
    with pytest.raises(UserError, match=f"trials/{trial.id} cannot be written to: PermissionError: no credentials"):
        results.offer(results.trial(trial.id))
    assert read_record(results.record(trial.id)).status == "finished"


def test_a_newer_record_does_not_exist_before_it_is_whole(
    uri: str, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results.at(tmp_path, uri)
    run_and_write(trial, results, options=OPTIONS)
    put = results.mirror._fs.put_file

    def stop(path: str, target: str) -> None:
        if target.endswith("record.json"):
            raise ConnectionError("gone")
        put(path, target)

    monkeypatch.setattr(results.mirror._fs, "put_file", stop)
    with pytest.raises(MirrorError) as failed:
        results.offer(results.trial(trial.id))
    assert reason_of(failed.value) == "lost", "a second attempt is worth it"
    assert results.copies(results.trials) == [], "tables of one attempt beside the record of another are no trial"
    monkeypatch.undo()
    assert results.exchange() == (0, 1)


@pytest.mark.faults
def test_a_command_on_another_machine_finds_nothing_to_run(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    grid, storage = write_grid(["no_kd", "se_kd"], workload=str(workload_file), seeds=[1]), tmp_path / "storage"

    def run(place: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli", "run", str(grid), "--results", str(tmp_path / place / "results"),
             "--reports", str(tmp_path / place / "reports"), "--mirror", storage.as_uri()],
            cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "Trials: 2 finished" in run("here")
    assert "All 2 trials of question are finished" in run("there")
    first, second = (tmp_path / place / "reports" / "question" / "report.md" for place in ("here", "there"))
    assert second.read_text().split("## Reproduce")[0] == first.read_text().split("## Reproduce")[0]
