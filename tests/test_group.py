"""Several processes that train one student do what one process does; one that is lost is not waited for."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SEPARATOR, VOCAB, build_core, build_pair
from group_rank import count_together, lose_the_other

from harness.config import Optimisation, Strategy
from harness.data.tokens import Tokens
from harness.distill.group import ALONE, Group, RankLostError, joined
from harness.distill.train import train
from harness.grid import presets

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
OPTIMISATION = Optimisation(
    learning_rate=1e-3,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    schedule="cosine",
    warmup=0.1,
    batch_size=6,
    micro_batch_size=2,  # three micro-batches: two processes have unequal shares
    epochs=1,
    max_grad_norm=1.0,
)

Outcome = dict[str, Any]


def distil(name: str, dtype: torch.dtype, group: Group) -> Outcome:
    """Train a small student for a few steps; return what must not depend on the number of processes."""
    changes = dict(STRATEGIES[name])
    strategy = Strategy.model_validate({**presets()[changes.pop("preset")].model_dump(), **changes})
    core = build_core(strategy, build_pair(dtype), group=group)
    ids = np.random.RandomState(3).randint(2, VOCAB, size=(24, 13), dtype=np.int32)
    ids[:, 7:9] = SEPARATOR
    tokens = Tokens(ids=ids, separator=SEPARATOR, cross_document_targets=False, tokens_per_byte=1.0, key="k")
    done = train(core, tokens, OPTIMISATION)
    weights = {key: value.detach().clone() for key, value in core.student.state_dict().items()}
    return {
        "curve": done.curve[["loss_nats", "realised_fraction"]].to_numpy(),
        "norms": done.curve["grad_norm"].to_numpy(),
        "tally": vars(done.tally),
        "weights": weights,
    }


def distil_all(rank: int, size: int, meeting: str) -> dict[str, Outcome]:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with joined(rank, size, Path(meeting), timeout_s=120.0) as group:
        return {f"{name} {dtype}": distil(name, dtype, group) for name, dtype in CASES}


@contextmanager
def processes(num: int) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(num, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Outcome]]:
    """What each of two processes has at the end of every strategy."""
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    with processes(2) as pool:
        return [each.result(300) for each in [pool.submit(distil_all, rank, 2, str(meeting)) for rank in range(2)]]


pytestmark = pytest.mark.xdist_group("group")


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_two_processes_train_as_one_does(name: str, dtype: torch.dtype, outcomes: list[dict[str, Outcome]]) -> None:
    first, second = (each[f"{name} {dtype}"] for each in outcomes)
    for key, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][key]), "the processes must not drift apart"
    assert (first["curve"] == second["curve"]).all()
    assert first["tally"] == second["tally"]
    alone = distil(name, dtype, ALONE)
    np.testing.assert_allclose(first["curve"], alone["curve"], rtol=TOLERANCE[dtype], atol=0)
    np.testing.assert_allclose(first["norms"], alone["norms"], rtol=100 * TOLERANCE[dtype], atol=0)
    assert first["tally"] == alone["tally"]
    for key, weight in alone["weights"].items():
        # Adam's first steps divide small numbers by their own size, which keeps what was rounded off.
        torch.testing.assert_close(
            first["weights"][key], weight, rtol=1e3 * TOLERANCE[dtype], atol=10 * TOLERANCE[dtype]
        )


def test_a_block_without_supervised_rows_counts_as_zeros(tmp_path: Path) -> None:
    with processes(1) as one, processes(1) as other:
        found = [pool.submit(count_together, rank, str(tmp_path / "meeting")) for rank, pool in enumerate((one, other))]
        assert [each.result(120) for each in found] == [(4.0, 8.0, 7, 5, 3)] * 2


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


def test_nobody_comes(tmp_path: Path) -> None:
    with pytest.raises(RankLostError, match="process 0 of 2 met nobody"), joined(0, 2, tmp_path / "m", timeout_s=1.0):
        pass
