"""Several processes that train one student, whole or sharded, do what one does; one that is lost is not waited for."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SEPARATOR, VOCAB, Asked, build_core, build_pair
from group_rank import count_together, lose_the_other, run_out_of_memory

from harness.config import Optimisation
from harness.config.errors import UserError
from harness.config.expand import presets
from harness.config.strategy import read_strategy
from harness.data.tokens import Tokens
from harness.distill.group import ALONE, Group, RankLostError, joined
from harness.distill.shards import assemble, own, shard
from harness.distill.train import train
from harness.models import compute_activations_anew, layers_of
from harness.records.layout import Results
from harness.trial.checkpoint import Interval, Keeper, Stopped

STRATEGIES: dict[str, dict[str, Any]] = {
    "se_kd": {"preset": "se_kd"},
    "gls": {"preset": "gls_ce"},
    "pos_rs": {"preset": "pos_rs"},
    "batch_top_k": {"preset": "se_kd", "position": {"signal": "kl", "policy": "batch_top_k", "budget": 0.2}},
    "dense": {"preset": "full_kd_dense"},
    "latf": {
        "preset": "full_kd",
        "position": {
            "signal": "teacher_entropy",
            "policy": {"name": "latf", "decay": 0.5, "tolerance": 0.01, "step": 0.5, "floor": 0.1, "warmup": 0.05},
        },
    },
    "classes": {"preset": "rs_kd"},
    "feature": {"preset": "egad"},
    "batch_mean": {"preset": "curriculum", "normaliser": "batch_mean", "kd_weight": 0.5},
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
CASES = [(name, torch.float64) for name in STRATEGIES] + [(name, torch.float32) for name in ("se_kd", "gls", "pos_rs")]
# Two processes have unequal shares of three micro-batches; those that compute each layer together need equal ones.
SIZES = {False: 2, True: 3}
# Besides, of a sharded student.
SHARDED: dict[str, dict[str, Any]] = {"masters": {"master_weights": True}, "anew": {"checkpoint_activations": True}}
OPTIMISATION = Optimisation(
    learning_rate=1e-3,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    schedule="cosine",
    warmup=0.1,
    batch_size=6,
    micro_batch_size=2,
    epochs=1,
    max_grad_norm=1.0,
)

Outcome = dict[str, Any]


def distil(
    name: str,
    dtype: torch.dtype,
    group: Group,
    *,
    keeper: Keeper | None = None,
    micro_batch_size: int = 3,
    master_weights: bool = False,
    checkpoint_activations: bool = False,
) -> Outcome:
    """Train a small student for a few steps; return what must not depend on the number of processes."""
    changes = dict(STRATEGIES[name])
    strategy = read_strategy({**presets()[changes.pop("preset")].model_dump(), **changes})
    pair = build_pair(dtype)
    core = build_core(strategy, pair, group=group)
    if group.sharded:
        shard(pair.student)
    if checkpoint_activations:
        compute_activations_anew(pair.student)
    settings = {"master_weights": master_weights, "micro_batch_size": micro_batch_size}
    ids = np.random.RandomState(3).randint(2, VOCAB, size=(24, 13), dtype=np.int32)
    ids[:, 7:9] = SEPARATOR
    tokens = Tokens(ids=ids, separator=SEPARATOR, cross_document_targets=False, tokens_per_byte=1.0, key="k")
    done = train(core, tokens, OPTIMISATION.model_copy(update=settings), keeper=keeper)
    held = sum(own(parameter).nbytes for parameter in core.parameters)
    student = assemble(pair.student, lambda: build_pair(dtype).student, group) if group.sharded else pair.student
    whole = group.rank == 0 or not group.sharded
    weights = {key: value.detach().clone() for key, value in student.named_parameters()} if whole else {}
    return {
        "curve": done.curve[["loss_nats", "realised_fraction"]].to_numpy(),
        "norms": done.curve["grad_norm"].to_numpy(),
        "tally": vars(done.tally),
        "weights": weights,
        "held": held,
    }


@cache
def alone(name: str, dtype: torch.dtype) -> Outcome:
    """Do in one process what several are compared with; the cut into micro-batches is part of what must not matter."""
    return distil(name, dtype, ALONE)


def distil_all(rank: int, size: int, folder: Path) -> dict[tuple[Any, ...], Outcome]:
    """Run every case, first of a student that is whole in every process, then of a sharded one."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    found: dict[tuple[Any, ...], Outcome] = {}
    for sharded in (False, True):
        with joined(rank, size, folder / f"meeting-{sharded}", sharded=sharded, timeout_s=120.0) as group:
            size = SIZES[sharded]
            found |= {(*case, sharded): distil(*case, group, micro_batch_size=size) for case in CASES}
            if sharded:
                found |= {(name,): distil("gls", torch.float32, group, **SHARDED[name]) for name in SHARDED}
                found |= {("resumed",): stop_and_go_on(group, folder)}
    return found


def stop_and_go_on(group: Group, folder: Path) -> Outcome:
    """Train for a while, and go on from the checkpoint; when to save, the first process alone decides."""
    for stop in (Asked(2), Asked(1000)):
        interval = Interval(steps=1) if group.rank == 0 else Interval()
        settings: dict[str, Any] = {"trial": "t", "conditions": {}, "micro_batch_size": 3, "device": "cpu", "parts": {}}
        keeper = Keeper(Results(folder), interval=interval, stop=stop, group=group, **settings)
        with suppress(Stopped):
            found = distil("latf", torch.float64, group, keeper=keeper, master_weights=True)
        # A trial goes on when all processes of the attempt before have ended, the one that writes the checkpoint too.
        torch.distributed.barrier()
    return found | {"resumed_at": keeper.resumed_at}


@contextmanager
def processes(num: int) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(num, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("group")


@pytest.fixture(scope="module")
def two() -> Iterator[ProcessPoolExecutor]:
    """Two processes, which take most of their time to start."""
    with processes(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def outcomes(two: ProcessPoolExecutor, folder: Path) -> list[dict[tuple[Any, ...], Outcome]]:
    """What each of two processes has at the end of every case."""
    return [each.result(300) for each in [two.submit(distil_all, rank, 2, folder) for rank in range(2)]]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_two_processes_train_as_one_does(name: str, dtype: torch.dtype, outcomes: list[dict[Any, Outcome]]) -> None:
    for sharded in (False, True):
        first, second = (each[name, dtype, sharded] for each in outcomes)
        for key, weight in second["weights"].items():
            assert torch.equal(weight, first["weights"][key]), "the processes must not drift apart"
        assert (first["curve"] == second["curve"]).all()
        assert first["tally"] == second["tally"]
        same(first, alone(name, dtype), dtype)


def same(found: Outcome, alone: Outcome, dtype: torch.dtype) -> None:
    """Compare what processes did together with what one did, to within rounding."""
    np.testing.assert_allclose(found["curve"], alone["curve"], rtol=TOLERANCE[dtype], atol=0)
    np.testing.assert_allclose(found["norms"], alone["norms"], rtol=100 * TOLERANCE[dtype], atol=0)
    assert found["tally"] == alone["tally"]
    assert found["weights"].keys() == alone["weights"].keys()
    for key, weight in alone["weights"].items():
        # Adam's first steps divide small numbers by their own size, which keeps what was rounded off.
        tolerances = {"rtol": 1e3 * TOLERANCE[dtype], "atol": 10 * TOLERANCE[dtype]}
        torch.testing.assert_close(found["weights"][key], weight, **tolerances)


@pytest.mark.parametrize("name", SHARDED)
def test_a_sharded_student_trains_as_a_whole_one(name: str, outcomes: list[dict[Any, Outcome]]) -> None:
    same(outcomes[0][name,], distil("gls", torch.float32, ALONE, **SHARDED[name]), torch.float32)


def test_each_process_holds_its_rows_of_the_layers(outcomes: list[dict[Any, Outcome]]) -> None:
    student = build_pair(torch.float64).student
    layers = sum(parameter.nbytes for layer in layers_of(student) for parameter in layer.parameters())
    outside = sum(parameter.nbytes for parameter in student.parameters()) - layers
    held = [each["se_kd", torch.float64, True]["held"] for each in outcomes]
    assert held == [outside + layers // 2] * 2


def test_a_sharded_student_goes_on_from_a_checkpoint(outcomes: list[dict[Any, Outcome]], folder: Path) -> None:
    resumed = outcomes[0]["resumed",]
    assert resumed["resumed_at"] == (2,)
    same(resumed, distil("latf", torch.float64, ALONE, master_weights=True), torch.float64)
    # Its checkpoint is that of a student that is whole.
    settings: dict[str, Any] = {"trial": "t", "conditions": {}, "micro_batch_size": 3, "device": "cpu", "parts": {}}
    keeper = Keeper(Results(folder), interval=Interval(), stop=lambda: False, **settings)
    again = distil("latf", torch.float64, ALONE, keeper=keeper, master_weights=True)
    assert keeper.resumed_at == (2, 4)
    assert (again["curve"] == resumed["curve"]).all()
    assert all(torch.equal(weight, resumed["weights"][key]) for key, weight in again["weights"].items())


def test_a_model_without_layers_is_not_sharded() -> None:
    student = build_pair(torch.float64).student
    student._no_split_modules = []
    with pytest.raises(UserError, match="names no layers"):
        shard(student)


def test_a_block_without_supervised_rows_counts_as_zeros(two: ProcessPoolExecutor, tmp_path: Path) -> None:
    counted = [two.submit(count_together, rank, str(tmp_path / "meeting")) for rank in range(2)]
    assert [each.result(120) for each in counted] == [(4.0, 8.0, 7, 5, 3)] * 2


@pytest.mark.parametrize(("num", "size"), [(1, 1), (3, 2), (8, 3), (5, 5)])
def test_blocks_share_micro_batches_out(num: int, size: int) -> None:
    blocks = [Group(rank=rank, size=size).block(num) for rank in range(size)]
    assert [place for block in blocks for place in block] == list(range(num))
    lengths = [len(block) for block in blocks]
    assert min(lengths) > 0
    assert max(lengths) - min(lengths) <= 1


def test_a_process_that_is_killed_is_missed(tmp_path: Path) -> None:
    with processes(1) as one, processes(1) as other:
        waiting = one.submit(lose_the_other, 0, str(tmp_path / "meeting"))
        killed = other.submit(lose_the_other, 1, str(tmp_path / "meeting"))
        assert "process 0 of 2 lost the others" in waiting.result(120)
        with pytest.raises(Exception, match="terminated abruptly"):
            killed.result(120)


def test_a_process_that_fails_leaves_at_once_and_is_missed(two: ProcessPoolExecutor, tmp_path: Path) -> None:
    begun = time.monotonic()
    ended = [two.submit(run_out_of_memory, rank, str(tmp_path / "meeting")) for rank in range(2)]
    waited, failed = (each.result(120) for each in ended)
    assert failed == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert waited.startswith("RankLostError: process 0 of 2 lost the others")
    assert time.monotonic() - begun < 60, "the collective's time-out is two minutes"


def test_nobody_comes(tmp_path: Path) -> None:
    with pytest.raises(RankLostError, match="process 0 of 2 met nobody"), joined(0, 2, tmp_path / "m", timeout_s=1.0):
        pass
