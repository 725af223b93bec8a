"""Optimisers by name."""

import json
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from oracle import OPTIMISATION

from harness.config import installed
from harness.config.errors import UserError
from harness.config.workloads import load_workload
from harness.distill import optimiser
from harness.distill.optimiser import make_optimiser
from harness.distill.state import put_together, take_apart


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(3))]


def test_adamw_has_the_settings_of_the_workload() -> None:
    made = make_optimiser(parameters(), OPTIMISATION)
    assert type(made) is torch.optim.AdamW
    group = made.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (3e-3, (0.9, 0.95), 0.01)


def test_eight_bits_need_a_package_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torchao", "torchao.optim", "bitsandbytes", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, module, None)
    assert installed.eight_bit() is None
    with pytest.raises(UserError, match=r"adamw_8bit, which needs torchao or bitsandbytes: pip install"):
        make_optimiser(parameters(), OPTIMISATION.model_copy(update={"optimiser": "adamw_8bit"}))


def test_the_first_package_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class AdamW8bit(torch.optim.SGD):
        def __init__(self, params: Any, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
            super().__init__(params, lr=lr, weight_decay=weight_decay)

    package = ModuleType("bitsandbytes.optim")
    package.AdamW8bit = AdamW8bit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", package)
    assert installed.eight_bit() == ("bitsandbytes.optim", "AdamW8bit")
    made = make_optimiser(parameters(), OPTIMISATION.model_copy(update={"optimiser": "adamw_8bit"}))
    assert isinstance(made, AdamW8bit)


def bfloat16_weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter((0.02 * torch.randn(64, generator=generator)).bfloat16()) for _ in range(2)]


def take_steps(optimiser: Any, weights: list[torch.nn.Parameter], num: int) -> None:
    for step in range(num):
        optimiser.zero_grad(set_to_none=True)
        for weight in weights:
            weight.grad = torch.full_like(weight, 1.0 + step % 2)
        optimiser.step()


def test_steps_too_small_for_bfloat16_are_kept_in_float32_copies() -> None:
    settings = OPTIMISATION.model_copy(update={"learning_rate": 1e-5, "weight_decay": 0.0})
    lost, kept = bfloat16_weights(), bfloat16_weights()
    exact = [torch.nn.Parameter(each.detach().float()) for each in bfloat16_weights()]
    take_steps(make_optimiser(lost, settings), lost, 100)
    take_steps(make_optimiser(kept, settings.model_copy(update={"master_weights": True})), kept, 100)
    take_steps(make_optimiser(exact, settings), exact, 100)
    start = bfloat16_weights()
    # 100 steps of 1e-5 each way down; on bfloat16 alone most weights have not moved at all.
    assert (lost[0] == start[0]).float().mean() > 0.5
    for ours, theirs in zip(kept, exact, strict=True):
        assert torch.equal(ours, theirs.bfloat16())


def test_float32_copies_go_on_from_a_checkpoint() -> None:
    settings = OPTIMISATION.model_copy(update={"master_weights": True, "learning_rate": 1e-4})
    through, cut = bfloat16_weights(), bfloat16_weights()
    take_steps(make_optimiser(through, settings), through, 6)
    first = make_optimiser(cut, settings)
    take_steps(first, cut, 4)
    payload, tensors = take_apart(first.state_dict())
    second = make_optimiser(bfloat16_weights(), settings)
    second.load_state_dict(put_together(payload, tensors, "cpu"))
    again = second._parameters  # type: ignore[union-attr]
    take_steps(second, again, 2)
    for ours, theirs in zip(again, through, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("master_weights", [False, True])
@pytest.mark.parametrize("package", ["torch", "torchao"])
def test_every_optimiser_takes_the_rate_of_each_step(package: str, master_weights: bool) -> None:
    changes = {"optimiser": {"torch": "adamw", "torchao": "adamw_8bit"}[package], "master_weights": master_weights}
    weights = [torch.nn.Parameter(torch.ones(64, 64)), torch.nn.Parameter(torch.ones(3))]
    made = make_optimiser(weights, OPTIMISATION.model_copy(update={**changes, "weight_decay": 0.0}))
    expected = 1.0
    with torch.compiler.set_stance("force_eager"):
        for rate in (0.0, 0.125, 0.25):
            optimiser.set_learning_rate(made, rate)
            take_steps(made, weights, 1)
            expected -= rate  # AdamW's step under a constant gradient is its rate
            for weight in weights:
                torch.testing.assert_close(weight.detach(), torch.full_like(weight, expected), rtol=0, atol=1e-5)


def test_states_of_eight_bits_come_back_from_a_checkpoint_as_they_went() -> None:
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 4096).view(64, 64).bfloat16())]
    settings = OPTIMISATION.model_copy(update={"optimiser": "adamw_8bit"})
    made, other = make_optimiser(weights, settings), make_optimiser(weights, settings)
    weights[0].grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.compiler.set_stance("force_eager"):
        made.step()
    payload, tensors = take_apart(made.state_dict())
    other.load_state_dict(put_together(json.loads(json.dumps(payload)), tensors, "cpu"))
    (ours,), (theirs,) = (each.state_dict()["state"].values() for each in (made, other))
    for name in ("exp_avg", "exp_avg_sq"):
        assert type(theirs[name]) is type(ours[name]) is not torch.Tensor
        assert (theirs[name].signed, theirs[name].dtype) == (ours[name].signed, ours[name].dtype)
        for part in ("codes", "scale", "qmap"):
            assert torch.equal(getattr(theirs[name], part), getattr(ours[name], part))
        assert ours[name].codes.unique().numel() > 1


def test_an_optimiser_by_what_is_installed_is_decided_when_the_workload_is_read(
    write_workload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write_workload(optimisation__optimiser="adamw_8bit_if_available"))
    monkeypatch.setattr(installed, "eight_bit", lambda: None)
    assert load_workload(path).optimisation.optimiser == "adamw"
    assert optimiser.name_of(load_workload(path).optimisation) == "torch.optim.AdamW"
    monkeypatch.setattr(installed, "eight_bit", lambda: ("torchao.optim", "AdamW8bit"))
    assert load_workload(path).optimisation.optimiser == "adamw_8bit"
    assert optimiser.name_of(load_workload(path).optimisation) == "torchao.optim.AdamW8bit"
