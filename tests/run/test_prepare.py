"""What trials share is made before they start, where the caller says, and nothing of it stays in the driver."""

import gc
import pickle
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from harness import models
from harness.records.layout import Results
from harness.run import needs
from harness.run.plan import Plan, make_plan
from harness.run.prepare import prepare_plan
from harness.teacher.kind import KINDS
from harness.teacher.provide import Make
from harness.trial.execute import run_trial

# Rows that read every kind of what is stored, of all sequences and of chosen ones.
DRAWS = {
    "position": {"policy": "all"},
    "criterion": "forward_kl",
    "classes": {"name": "rs", "draws": 8},
    "teacher": "sampled",
}
CHOSEN = {"policy": "top", "budget": 0.5}
ROWS = [
    "full_kd",
    {"label": "scores", "position": {"signal": "teacher_entropy", "policy": "top_k", "budget": 0.25},
     "criterion": "forward_kl"},
    {"label": "draws", **DRAWS},
    {"label": "largest", **DRAWS, "classes": {"name": "top_k_tail", "num": 5}, "teacher": "topk"},
    {"label": "chosen draws", **DRAWS, "samples": {"signal": "student_entropy", **CHOSEN}},
    {"preset": "full_kd", "label": "chosen", "samples": {"signal": "kl", **CHOSEN}},
]  # fmt: skip


@pytest.fixture
def plan(write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path) -> Plan:
    """A grid for a GPU that reads every kind of cache."""
    workload = write_workload(resources__gpus=1)
    return make_plan(write_grid(ROWS, workload=str(workload), seeds=[1]), Results(tmp_path / "none"))


def files(results: Results) -> dict[str, bytes]:
    """Return what is in every cache, by its path."""
    found = sorted(results.cache.rglob("*.safetensors"))
    return {str(path.relative_to(results.cache)): path.read_bytes() for path in found}


def test_the_driver_touches_no_gpu_and_keeps_no_model(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, alive = list[str](), list[weakref.ref[torch.nn.Module]]()
    alone, together = Results(tmp_path / "alone"), Results(tmp_path / "together")
    original = models.load_model

    def noted(*given: Any, **named: Any) -> Any:
        model = original(*given, **named)
        alive.append(weakref.ref(model))
        return model

    def spread(what: str, make: Make, numbers: Sequence[int], waiting: Callable[[], None]) -> None:
        made.append(what)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(torch.cuda, "is_available", lambda: False)
            pickle.loads(pickle.dumps(make))(numbers)
        waiting()

    with monkeypatch.context() as watched:
        watched.setattr(models, "load_model", noted)
        prepare_plan(plan, alone, Console(quiet=True))
    gc.collect()
    assert len(alive) >= 4, "of each data set the teacher, and the student that ranks samples"
    assert not any(model() is not None for model in alive)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("the driver has initialised CUDA"))
    prepare_plan(plan, together, Console(quiet=True), spread=spread)
    assert files(together) == files(alone)
    assert {path.partition("-")[0] for path in files(together)} == set(KINDS)
    assert len(made) == len(set(together.cache.glob("*-*/meta.json"))) - 3, (
        "all but the head, and the packed text twice"
    )


def test_trials_find_all_that_they_read(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path / "results")
    prepare_plan(plan, results, Console(quiet=True))
    before = files(results)
    for trial in plan.todo[1::2]:
        taken = run_trial(trial, results=results).record.cost
        assert taken.disk_bytes.keys() == taken.shared_s.keys() > set(), trial.name
    assert files(results) == before


def test_a_gpus_memory_is_asked_by_a_process_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("the driver has initialised CUDA"))
    monkeypatch.setattr(needs, "_ASKS", "print(140 * 2**30, 80 * 2**30)")
    assert min(needs._gpu_memory()) == 80 << 30
