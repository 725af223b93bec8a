"""Optimisers by the name a workload gives them."""

import importlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.config import Optimisation, installed
from harness.config.errors import UserError
from harness.distill.group import ALONE, Group
from harness.distill.shards import ShardedOptimiser


class MasterWeights:
    """An optimiser that steps on float32 copies of the parameters, which are rounded after every step.

    One parameter at a time, so that there is one float32 gradient at a time.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], optimisation: Optimisation) -> None:
        """Copy the parameters as they are.

        Raises:
            UserError: as `make_optimiser`.
        """
        self._parameters = list(parameters)
        self._masters = [torch.nn.Parameter(each.detach().to(torch.float32, copy=True)) for each in parameters]
        self._inner = _plain(self._masters, optimisation)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of settings, as every optimiser has them."""
        return self._inner.param_groups

    @property
    def states(self) -> list[Tensor]:
        """Everything that stays from step to step: the copies, and the optimiser's own state."""
        inner = (value for state in self._inner.state.values() for value in state.values())
        return [*(each.data for each in self._masters), *(value for value in inner if isinstance(value, Tensor))]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for each in self._parameters:
            each.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step, and forget the gradients on the way."""
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            if parameter.grad is None:
                continue
            master.grad = parameter.grad.to(torch.float32)
            parameter.grad = None
            self._inner.step()
            master.grad = None
            parameter.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        """Return the copies and the optimiser's state."""
        return {"masters": [each.data for each in self._masters], "optimiser": self._inner.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        with torch.no_grad():
            for each, saved in zip(self._masters, state_dict["masters"], strict=True):
                each.copy_(saved)
        self._inner.load_state_dict(state_dict["optimiser"])


def make_optimiser(
    parameters: Sequence[torch.nn.Parameter], optimisation: Optimisation, group: Group = ALONE
) -> torch.optim.Optimizer | MasterWeights | ShardedOptimiser:
    """Return the optimiser over some parameters, stepped by a group of processes together.

    Raises:
        UserError: `optimiser: adamw_8bit` where neither torchao nor bitsandbytes is installed.
    """
    make = partial(MasterWeights if optimisation.master_weights else _plain, optimisation=optimisation)
    return ShardedOptimiser(parameters, make, group) if group.sharded else make(parameters)


def set_learning_rate(optimiser: torch.optim.Optimizer | MasterWeights | ShardedOptimiser, rate: float) -> None:
    """Let an optimiser's next step be of a rate; torchao keeps it in a tensor, which its kernels read."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _plain(parameters: Sequence[torch.nn.Parameter], optimisation: Optimisation) -> torch.optim.Optimizer:
    if optimisation.optimiser == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=optimisation.learning_rate,
            betas=optimisation.betas,
            weight_decay=optimisation.weight_decay,
            fused=True,
        )
    eight_bit = installed.eight_bit()
    if eight_bit is None:
        raise UserError(
            "optimisation.optimiser is adamw_8bit, which needs torchao or bitsandbytes: "
            "pip install 'selective-kd-harness[gpu]', or set it to adamw"
        )
    build = getattr(importlib.import_module(eight_bit[0]), eight_bit[1])
    optimiser = build(
        parameters, lr=optimisation.learning_rate, betas=optimisation.betas, weight_decay=optimisation.weight_decay
    )
    assert isinstance(optimiser, torch.optim.Optimizer)
    return optimiser


def name_of(optimisation: Optimisation) -> str:
    """Say which optimiser steps, for a record: class, and the package that 8-bit states come from."""
    parts = installed.eight_bit() if optimisation.optimiser == "adamw_8bit" else ("torch.optim", "AdamW")
    assert parts is not None, "checked before anything runs"
    name = ".".join(parts)
    return f"{name} on float32 copies" if optimisation.master_weights else name
