"""The training loop: the same optimiser, schedule and data order for every strategy."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from harness.config import Optimisation
from harness.data.tokens import Batch, Tokens
from harness.distill.step import Core, Tally, accumulate
from harness.seeds import derive


class NotFiniteError(RuntimeError):
    """The loss stopped being a number; training cannot go on."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What training leaves behind, besides the student's weights.

    Attributes:
        tally: counts over all steps.
        curve: one row per step: step, loss_nats, realised_fraction, learning_rate, grad_norm.
        state: the policy's last state.
        num_steps: optimiser steps taken.
    """

    tally: Tally
    curve: pd.DataFrame
    state: Any
    num_steps: int


def count_steps(num_sequences: int, optimisation: Optimisation) -> int:
    """Return the number of optimiser steps: whole batches only.

    Raises:
        ValueError: less than one batch of data.
    """
    steps = num_sequences * optimisation.epochs // optimisation.batch_size
    if steps == 0:
        raise ValueError(f"{num_sequences} sequences do not fill one batch of {optimisation.batch_size}")
    return steps


def data_order(num_sequences: int, epochs: int, seed: int, only: Int[Tensor, " K"] | None = None) -> Int[Tensor, " S"]:
    """Return the order in which sequences are met: each epoch its own permutation, the same for every strategy.

    Args:
        num_sequences: sequences of the data set.
        epochs: passes over them.
        seed: the trial's seed.
        only: the sequences to train on, all if left out. They are met in the order they have among all, so that two
            choices share the order of what they share.
    """
    orders = []
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(derive(seed, "data order", epoch))
        order = torch.randperm(num_sequences, generator=generator)
        orders.append(order if only is None else order[torch.isin(order, only)])
    return torch.cat(orders)


def learning_rate(step: int, num_steps: int, optimisation: Optimisation) -> float:
    """Return the learning rate of a step: linear warm-up, then the schedule, which would reach zero at `num_steps`."""
    warmup = math.ceil(optimisation.warmup * num_steps)
    peak = optimisation.learning_rate
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    left = (num_steps - step) / max(num_steps - warmup, 1)
    if optimisation.schedule == "constant":
        return peak
    return peak * (left if optimisation.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))


def train(
    core: Core,
    tokens: Tokens,
    optimisation: Optimisation,
    *,
    only: Int[Tensor, " K"] | None = None,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int, float], None] | None = None,
    watch: AbstractContextManager[object] | None = None,
) -> Training:
    """Distil the student in place.

    Args:
        core: models, objective and settings.
        tokens: the training sequences.
        optimisation: optimiser, schedule and batch sizes.
        only: indices of the sequences to train on, all if left out.
        device: where the student is.
        on_step: called after every step with steps done, steps in all and the loss.
        watch: entered around the first step's loss and gradients, to measure them.

    Raises:
        NotFiniteError: the loss or the gradient's norm is nan or infinite; names the step and the sequences.
        ValueError: less than one batch of sequences.
    """
    num_steps = count_steps(len(tokens) if only is None else len(only), optimisation)
    order = data_order(len(tokens), optimisation.epochs, core.seed, only)
    parameters = [parameter for parameter in core.student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters,
        lr=optimisation.learning_rate,
        betas=optimisation.betas,
        weight_decay=optimisation.weight_decay,
        fused=all(parameter.is_floating_point() for parameter in parameters),
    )
    core.student.train()
    tally, state, last_loss, curve = Tally(), None, None, []
    for step in range(num_steps):
        index = order[step * optimisation.batch_size : (step + 1) * optimisation.batch_size]
        rate = learning_rate(step, num_steps, optimisation)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        micro_batches = [batch.to(device) for batch in _micro_batches(tokens, index, optimisation.micro_batch_size)]
        with watch if watch is not None and step == 0 else nullcontext():
            result = accumulate(core, micro_batches, state, step=step, num_steps=num_steps, last_loss=last_loss)
        state, last_loss = result.state, result.loss
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, optimisation.max_grad_norm))
        if not (math.isfinite(result.loss) and math.isfinite(norm)):
            raise NotFiniteError(
                f"step {step}: loss {result.loss}, gradient norm {norm}; sequences {index.tolist()} of the training set"
            )
        optimiser.step()
        tally.add(result.tally)
        curve.append((step, result.loss, result.tally.supervised / max(result.tally.valid, 1), rate, norm))
        if on_step is not None:
            on_step(step + 1, num_steps, result.loss)
    core.student.eval()
    columns = ["step", "loss_nats", "realised_fraction", "learning_rate", "grad_norm"]
    return Training(tally=tally, curve=pd.DataFrame(curve, columns=columns), state=state, num_steps=num_steps)


def _micro_batches(tokens: Tokens, index: Int[Tensor, " B"], size: int) -> Iterator[Batch]:
    for part in index.split(size):
        yield tokens.batch(part)
