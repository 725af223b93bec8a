"""Nothing is begun that cannot end: disk, GPUs and memory are asked before anything is fetched or written."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from harness.config.errors import UserError
from harness.config.expand import presets
from harness.config.workloads import load_workload
from harness.cost.forecast.forecast import make_forecast
from harness.cost.forecast.memory import changed, checkpoint_size, footprint
from harness.records.layout import Results
from harness.run import needs, plan
from harness.run.needs import check_needs, hours_on_cpu
from harness.run.options import Options
from harness.run.plan import make_plan
from harness.run.prepare import prepare_plan
from harness.trial.checkpoint import Interval


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Say how much of the disk is free."""

    def say(num_bytes: int) -> None:
        monkeypatch.setattr(needs.shutil, "disk_usage", lambda _: SimpleNamespace(free=num_bytes))

    return say


@pytest.fixture
def nothing_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What models, data and tasks are is not asked."""
    monkeypatch.setattr(plan, "fingerprints", lambda *_: pytest.fail("refused too late"))


def admitted(grid: Path, results: Results, *, options: Options = Options(), **changes: Any) -> plan.Plan:  # noqa: B008
    return make_plan(grid, results, admit=partial(check_needs, results=results, options=options), **changes)


@pytest.mark.usefixtures("nothing_fetched")
def test_a_disk_that_is_too_small_is_refused_with_two_ways_out(
    free: Callable[[int], None], write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    grid, results = write_grid(["full_kd"], workload=str(workload_file)), Results(tmp_path / "results")
    free(1000)
    with pytest.raises(UserError) as refused:
        admitted(grid, results, seeds=(1,))
    line = str(refused.value)
    disk = make_forecast(grid, None, gpu=None, results=results).disk.values()
    needed = sum(each.num_bytes for each in disk) + 2 * checkpoint_size(load_workload(str(workload_file)))
    assert line.startswith(f"{results.root} needs {needs.size_of(needed)} more of disk (")
    assert "hidden states" in line
    assert "checkpoints" in line
    assert "1 kB are free" in line
    assert "give --results on a larger disk, or --teacher online" in line
    assert not results.root.exists()
    with pytest.raises(UserError, match="or a workload of less text"):
        admitted(grid, results, teacher="online")


def test_what_is_there_already_is_not_asked_for_again(
    free: Callable[[int], None], write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    grid, results = write_grid(["full_kd"], workload=str(workload_file)), Results(tmp_path)
    prepare_plan(make_plan(grid, results), results, Console(quiet=True))
    checkpoints = 2 * checkpoint_size(load_workload(str(workload_file)))
    free(checkpoints)
    assert len(admitted(grid, results, seeds=(1,)).todo) == 1
    free(checkpoints - 1)
    with pytest.raises(UserError, match=r"disk \(checkpoints [^,]+\), and"):
        admitted(grid, results, seeds=(1,))
    free(0)
    admitted(grid, results, options=Options(checkpoint_every=Interval()))  # never: no checkpoints


@pytest.mark.usefixtures("nothing_fetched")
def test_gpus_that_are_not_there_are_refused(
    write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    grid = write_grid(["full_kd"], workload=str(write_workload(resources__gpus=1)))
    with pytest.raises(UserError, match=r"takes 1 GPU \(resources.gpus\), and torch \S+ finds none here; --cpu trains"):
        admitted(grid, Results(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    own = write_grid(["full_kd"], workload=str(write_workload("own", resources__gpus=1, resources__teacher_gpus=1)))
    with pytest.raises(UserError, match=r"takes 2 GPUs \(resources.gpus\), and torch \S+ finds 1 here"):
        admitted(own, Results(tmp_path), teacher="online")
    with pytest.raises(pytest.fail.Exception, match="refused too late"):
        admitted(own, Results(tmp_path), options=Options(address="head:6379"), teacher="online")  # workers' to judge


def test_a_run_that_is_told_so_trains_on_the_cpu_and_says_how_long(
    write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    grid = write_grid(["full_kd"], workload=str(write_workload(resources__gpus=1)))
    options = Options(cpu=True)
    found = admitted(grid, Results(tmp_path), options=options, cpu=True)
    assert found.workload.resources.gpus == 0
    assert [each.id for each in found.todo] == [each.id for each in make_plan(grid, Results(tmp_path)).todo]
    said = hours_on_cpu(found.todo)
    assert "GFLOP of training take 0.0 hours at least" in said
    assert "in float32" in said


def test_a_trial_that_is_larger_than_the_memory_is_refused(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    grid, results = write_grid(["se_kd", "full_kd_dense"], workload=str(workload_file)), Results(tmp_path)
    room = footprint(presets()["se_kd"], load_workload(str(workload_file))).total
    assert footprint(presets()["full_kd_dense"], load_workload(str(workload_file))).total > room
    monkeypatch.setattr(needs, "memory_share", lambda _: room)
    with pytest.raises(
        UserError, match=r"a trial of Full KD \(dense logits\) takes .* GiB at its peak, and the device has"
    ):
        admitted(grid, results, options=Options(cpu=True), cpu=True)
    admitted(grid, results, options=Options(cpu=True), cpu=True, labels=("SE",))


@pytest.mark.parametrize("changes", [{}, {"optimisation__master_weights": True, "resources__dtype": "bfloat16"}])
def test_a_checkpoint_is_what_a_step_leaves_to_save(changes: dict[str, object], workload_file: Path) -> None:
    workload = changed(load_workload(str(workload_file)), **changes)
    assert checkpoint_size(workload) == footprint(presets()["full_kd"], workload).checkpoint


def test_a_whole_grid_is_taught_online(write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path) -> None:
    grid, results = write_grid(["no_kd", "full_kd", "sft"], workload=str(workload_file)), Results(tmp_path)
    cached, online = (make_plan(grid, results, teacher=teacher, seeds=(1,)) for teacher in (None, "online"))
    assert online.grid.name == f"{cached.grid.name}-online", "the grid's own table stays"
    assert not online.needs_train_cache
    written = dict(zip([trial.strategy.label for trial in cached.todo], online.todo, strict=True))
    assert written["Full KD"].method.teacher == "online"
    assert written["Full KD"].id not in {trial.id for trial in cached.todo}
    assert written["No KD"].id in {trial.id for trial in cached.todo}
    kinds = {each.kind for each in make_forecast(grid, None, teacher="online", gpu=None, results=results).disk.values()}
    assert kinds == {"tokens", "head", "heldout states"}
    with pytest.raises(UserError, match="--teacher is 'live'; it takes online"):
        make_plan(grid, results, teacher="live")


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_fetched")
def test_the_papers_table_is_refused_where_it_cannot_end(
    free: Callable[[int], None], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    free(79 * 10**9)
    grid = Path(__file__).parents[2] / "grids" / "position_axis.yaml"
    with pytest.raises(UserError, match=r"hidden states 660 GB, .*--teacher online"):
        admitted(grid, Results(tmp_path), workload="qwen3_fineweb")
    with pytest.raises(UserError, match=r"takes 1 GPU \(resources.gpus\)"):
        admitted(grid, Results(tmp_path), workload="qwen3_fineweb", teacher="online")
