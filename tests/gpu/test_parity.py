"""The core on a GPU: a CPU's scores, selections, losses and gradients, no waits; trials, memory as forecast.

`pytest tests/gpu` is all of it, in minutes. Without a GPU a few cases run on the CPU in its place, so that what is
compared here is tried with the rest; the others are skipped.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_core, build_pair, split_batch
from oracle import OPTIMISATION, may_ask
from torch import Tensor

from harness.config import Strategy
from harness.config.expand import presets
from harness.cost.accounting import GIB
from harness.cost.forecast.memory import footprint
from harness.data.tokens import Batch
from harness.distill.observe import Moment, Seen
from harness.distill.optimiser import make_optimiser
from harness.distill.shards import clip
from harness.distill.step import Core, accumulate
from harness.distill.supervise import row_scores
from harness.distill.tally import Tally, Underway
from harness.records.layout import Results
from harness.run.plan import make_plan
from harness.trial.execute import run_trial

THERE = torch.cuda.is_available()
DEVICE = "cuda" if THERE else "cpu"
NEEDS_GPU = pytest.mark.skipif(not THERE, reason=f"torch {torch.__version__} finds no GPU")
TRAINED = {name: preset for name, preset in presets().items() if preset.train}
# What runs without a GPU as well, a way through the core each.
ANYWHERE = ("se_kd", "full_kd_dense")
# A kind of trial each: the teacher's stored states, a running teacher, drawn classes, no teacher.
KINDS: list[Any] = ["se_kd", {"preset": "full_kd", "label": "online", "teacher": "online"}, "rs_kd", "sft"]


def cases(names: Any) -> list[Any]:
    return [pytest.param(name, marks=() if name in ANYWHERE else NEEDS_GPU) for name in names]


def core_on(device: str, strategy: Strategy, dtype: torch.dtype) -> Core:
    pair = build_pair(dtype)
    pair.student.to(device)
    pair.teacher.to(device)
    core = build_core(strategy, pair)
    return core if core.projection is None else replace(core, projection=core.projection.to(device))


class Watch:
    """Keeps what a step scores and selects."""

    def __init__(self) -> None:
        self.scores: list[Tensor] = []
        self.weights: list[Tensor] = []

    def due(self, step: int, num_steps: int) -> bool:
        return True

    def see(self, seen: Seen) -> None:
        with torch.no_grad():
            rows = row_scores(seen.forward, Tally())
        self.scores += [rows[name].double().cpu() for name in sorted(rows)]
        self.weights.append(seen.selection.weight.double().cpu())

    def close(self, moment: Moment) -> None:
        pass


def step(strategy: Strategy, batch: Batch, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the loss of a step, the scores and weights of its positions, and its gradients, by name."""
    core, watch = core_on(device, strategy, dtype), Watch()
    parts = [part.to(device) for part in split_batch(batch, [4, 2])]
    result = accumulate(core, parts, None, step=3, num_steps=10, observer=watch)
    numbers = {"loss": torch.tensor(float(result.loss), dtype=torch.float64)}
    numbers |= {f"scores {number}": each for number, each in enumerate(watch.scores)}
    numbers |= {f"weights {number}": each for number, each in enumerate(watch.weights)}
    grads = {name: each.grad for name, each in core.student.named_parameters() if each.grad is not None}
    return numbers | {name: grad.double().cpu() for name, grad in grads.items()}


def differences(one: dict[str, Tensor], other: dict[str, Tensor], rtol: float) -> list[str]:
    """Name what differs by more than a share of its norm."""
    assert one.keys() == other.keys()
    return [name for name in one if (one[name] - other[name]).norm() > rtol * one[name].norm() + 1e-12]


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
@pytest.mark.parametrize("name", cases(TRAINED))
def test_a_step_is_the_cpus(name: str, dtype: torch.dtype, rtol: float, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(6, 13)
    wanted = step(TRAINED[name], batch, "cpu", dtype)
    assert not differences(wanted, step(TRAINED[name], batch, DEVICE, dtype), rtol)


def test_another_selection_would_be_noticed(make_batch: Callable[..., Batch]) -> None:
    batch, se_kd = make_batch(6, 13), TRAINED["se_kd"]
    other = se_kd.model_copy(update={"position": se_kd.position.model_copy(update={"budget": 0.5})})
    found = differences(*(step(each, batch, "cpu", torch.float64) for each in (se_kd, other)), 1e-9)
    assert {"loss", "weights 0", "model.embed_tokens.weight"} <= set(found)
    assert "scores 0" not in found


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS_GPU) for name in ("full_kd", "se_kd", "rs_kd")])
def test_bfloat16_gradients_are_no_worse_than_the_dense_flows(name: str, make_batch: Callable[..., Batch]) -> None:
    batch, key = make_batch(6, 13), "model.embed_tokens.weight"
    exact = step(TRAINED[name], batch, "cpu", torch.float64)[key]
    dense = TRAINED[name].model_copy(update={"flow": "dense"})
    errors = [
        float((step(each, batch, DEVICE, torch.bfloat16)[key] - exact).norm() / exact.norm())
        for each in (TRAINED[name], dense)
    ]
    assert errors[0] <= 1.5 * errors[1] + 1e-3, errors


@pytest.fixture
def no_waits() -> Iterator[Callable[[], None]]:
    """Return what makes every wait of the host for the GPU an error, until the test ends."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@NEEDS_GPU
@pytest.mark.parametrize("name", [name for name, preset in TRAINED.items() if not may_ask(preset)])
def test_a_step_waits_for_nothing(name: str, no_waits: Callable[[], None], make_batch: Callable[..., Batch]) -> None:
    core, parts = core_on(DEVICE, TRAINED[name], torch.float32), split_batch(make_batch(6, 13), [4, 2])
    optimiser = make_optimiser(core.parameters, OPTIMISATION)
    for number in range(2):
        if number == 1:  # what is loaded at its first use may be waited for
            no_waits()
        optimiser.zero_grad()
        result = accumulate(core, [part.to(DEVICE) for part in parts], None, step=number, num_steps=10)
        norm = clip(core.parameters, 1.0, core.group)
        optimiser.step()
        numbers = Underway(result.loss, norm)
    torch.cuda.set_sync_debug_mode("default")
    loss, length = numbers.read()
    assert (loss, length) == (float(result.loss), float(norm))


@NEEDS_GPU
def test_a_wait_would_be_noticed(no_waits: Callable[[], None]) -> None:
    number = torch.ones((), device=DEVICE)
    no_waits()
    with pytest.raises(RuntimeError, match="synchroniz"):
        number.item()


@NEEDS_GPU
@pytest.mark.parametrize("name", TRAINED)
def test_deterministic_operations_serve_every_preset(
    name: str, monkeypatch: pytest.MonkeyPatch, make_batch: Callable[..., Batch]
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    batch = make_batch(6, 13)
    torch.use_deterministic_algorithms(True)
    try:
        once, again = (step(TRAINED[name], batch, DEVICE, torch.float32) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(once[part], again[part]) for part in once)


@pytest.mark.parametrize("kind", [KINDS[0], *(pytest.param(kind, marks=NEEDS_GPU) for kind in KINDS[1:])])
def test_a_trial_trains_like_the_cpus_in_the_memory_that_is_forecast(
    kind: Any, write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    curves, records = [], []
    for name, gpus in (("host", 0), ("device", int(THERE))):
        grid = write_grid([kind], workload=str(write_workload(name, resources__gpus=gpus)))
        results = Results(tmp_path / name)
        (trial,) = make_plan(grid, results, seeds=(1,)).todo
        outcome = run_trial(trial, results=results)
        curves.append(outcome.tables["curve"]["loss_nats"].to_list())
        records.append(outcome.record)
    assert curves[1] == pytest.approx(curves[0], rel=2e-3)
    assert records[1].cost.flops == pytest.approx(records[0].cost.flops, rel=1e-12)
    taken = footprint(trial.method, trial.workload)
    assert records[1].cost.peak_gib["step"] * GIB == pytest.approx(taken.step, rel=0.1)
