"""The numbers the core produces, fixed: a change that moves them on purpose raises `harness.distill.NUMERICS`."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import SEPARATOR, Pair
from oracle import OPTIMISATION

from harness.config.expand import presets
from harness.data.tokens import Batch, Tokens
from harness.distill import NUMERICS
from harness.distill.train import train

# Loss in nats at every step, by version of the core and preset.
GOLDEN: dict[int, dict[str, list[float]]] = {
    3: {
        "full_kd": [2.07908370542, 2.21215440438, 1.99663281637, 1.93966088118],
        "se_kd": [2.01127710239, 2.19445351215, 2.01077130738, 1.86366798538],
        "random_pos": [2.19874707273, 2.12572302425, 2.15504704985, 1.90001350318],
        "at_kd": [1.06744674017, 1.11295104742, 1.01542526122, 0.963927856467],
        "sft": [5.89856445103, 5.7184193527, 5.45664391254, 5.42636041286],
    },
}


def losses(name: str, pair: Pair, tokens: Tokens, make_core: Any) -> list[float]:
    fresh = Pair(student=copy.deepcopy(pair.student), teacher=pair.teacher)
    core = make_core(presets()[name], fresh, seed=11)
    curve = train(core, tokens, OPTIMISATION).curve
    return [float(loss) for loss in curve["loss_nats"]]


@pytest.fixture(scope="module")
def tokens(make_batch: Callable[..., Batch]) -> Tokens:
    ids = make_batch(8, 12, seed=3).input_ids.to(torch.int32).numpy()
    return Tokens(ids=ids, separator=SEPARATOR, cross_document_targets=False, tokens_per_byte=1.0, key="golden")


@pytest.mark.parametrize("name", ["full_kd", "se_kd", "random_pos", "at_kd", "sft"])
def test_a_short_training_gives_the_golden_losses(
    name: str, make_pair: Callable[..., Pair], tokens: Tokens, make_core: Any
) -> None:
    assert NUMERICS in GOLDEN, f"record the losses of numerics {NUMERICS} here, and say in CHANGELOG.md what changed"
    found = losses(name, make_pair(torch.float64), tokens, make_core)
    assert found == pytest.approx(GOLDEN[NUMERICS][name], rel=1e-9), (
        f"the core's numbers for {name} changed. If that is meant, raise harness.distill.NUMERICS, so that finished "
        "trials run again, and record the new losses under the new version; if not, the change is a defect"
    )


def test_the_golden_losses_tell_presets_steps_and_seeds_apart(
    make_pair: Callable[..., Pair], tokens: Tokens, make_core: Any
) -> None:
    every = [loss for curve in GOLDEN[NUMERICS].values() for loss in curve]
    assert len({round(loss, 8) for loss in every}) == len(every)
    pair = make_pair(torch.float64)
    core = make_core(presets()["random_pos"], Pair(student=copy.deepcopy(pair.student), teacher=pair.teacher), seed=12)
    other = train(core, tokens, OPTIMISATION).curve["loss_nats"]
    assert abs(float(other[0]) - GOLDEN[NUMERICS]["random_pos"][0]) > 1e-6
