"""The training loop: the same optimiser, schedule and data order for every strategy."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from harness.config import Optimisation
from harness.config.seeds import derive
from harness.data.tokens import Tokens
from harness.distill.observe import Moment, Observer
from harness.distill.optimiser import make_optimiser, set_learning_rate
from harness.distill.rollout import Writer
from harness.distill.shards import Weights, clip
from harness.distill.state import Saver
from harness.distill.step import Core, StepResult, accumulate
from harness.distill.tally import Tally, Underway

# A row of the curve.
_Row = tuple[int, float, float, float, float]


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

    `only` some sequences are met in the order they have among all, so that two choices share the order of what they
    share.
    """
    orders = []
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(derive(seed, "data order", epoch))
        order = torch.randperm(num_sequences, generator=generator)
        orders.append(order if only is None else order[torch.isin(order, only)])
    return torch.cat(orders)


def batches_of(
    num_sequences: int,
    optimisation: Optimisation,
    seed: int,
    *,
    only: Int[Tensor, " K"] | None = None,
    filtered: int | None = None,
) -> tuple[Int[Tensor, " B"], ...]:
    """Return the sequences of every optimiser step.

    Args:
        num_sequences: sequences of the data set.
        optimisation: batch size and epochs.
        seed: the trial's seed.
        only: the sequences to train on, all if left out.
        filtered: None fills whole batches; a number is that of `harness.config.strategy.Samples`.

    Raises:
        ValueError: less than one batch of data.
    """
    if filtered is None or only is None:
        steps = count_steps(num_sequences if only is None else len(only), optimisation)
        order = data_order(num_sequences, optimisation.epochs, seed, only)
        return tuple(order[: steps * optimisation.batch_size].view(steps, -1))
    order = data_order(num_sequences, optimisation.epochs, seed)
    groups = [group for each in order.split(filtered) if len(group := each[torch.isin(each, only)])]
    size = optimisation.batch_size // filtered
    if len(groups) < size:
        raise ValueError(f"{len(groups)} groups of kept sequences do not fill one batch of {size}")
    return tuple(torch.cat(groups[at : at + size]) for at in range(0, len(groups) - size + 1, size))


def expected_steps(num_sequences: int, num_kept: int, optimisation: Optimisation, filtered: int | None = None) -> int:
    """Return how many steps there are, before it is known which sequences are kept: exact where batches are filled."""
    if filtered is None:
        return count_steps(num_kept, optimisation)
    some_left = 1 - (1 - num_kept / num_sequences) ** filtered
    return max(1, int(num_sequences * optimisation.epochs * some_left / optimisation.batch_size))


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
    filtered: int | None = None,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int, float], None] | None = None,
    meter: AbstractContextManager[object] | None = None,
    observer: Observer | None = None,
    keeper: Saver | None = None,
    writer: Writer | None = None,
) -> Training:
    """Distil the student in place.

    Args:
        core: models, objective and settings.
        tokens: the training sequences.
        optimisation: optimiser, schedule and batch sizes.
        only: indices of the sequences to train on, all if left out.
        filtered: how batches are made of them, see `batches_of`.
        device: where the student is.
        on_step: called after every step with steps done, steps in all and the loss read last, nan at first.
        meter: entered around the first step's loss and gradients, to measure them.
        observer: shown the steps that it asks for.
        keeper: saves checkpoints, and brings training to where the last one was; None for none.
        writer: lets the student write sequences of each batch itself; None trains on the data alone.

    Raises:
        NotFiniteError: the loss or the gradient's norm is nan or infinite; names the step and the sequences.
        ValueError: less than one batch of sequences.
    """
    batches = batches_of(len(tokens), optimisation, core.seed, only=only, filtered=filtered)
    num_steps = len(batches)
    parameters = core.parameters
    optimiser = make_optimiser(parameters, optimisation, core.group)
    core.student.train()
    loop = _Loop()
    if keeper is not None:
        keeper.restore({"student": Weights(core.student), "optimiser": optimiser, "loop": loop})
    for step in range(loop.step, num_steps):
        index = batches[step]
        rate = learning_rate(step, num_steps, optimisation)
        set_learning_rate(optimiser, rate)
        optimiser.zero_grad(set_to_none=True)
        if writer is None:
            whole, written = tokens.batch(index), Tally()
        else:
            whole, written = writer.batch(core.student, index, step=step)
        micro_batches = [batch.to(device) for batch in whole.split(optimisation.micro_batch_size)]
        looking = observer if observer is not None and observer.due(step, num_steps) else None
        moment = Moment(step=step, num_steps=num_steps, last_loss=loop.last_loss, state=loop.state)
        with meter if meter is not None and step == 0 else nullcontext():
            result = accumulate(
                core,
                micro_batches,
                loop.state,
                step=step,
                num_steps=num_steps,
                last_loss=loop.last_loss,
                observer=looking,
            )
        result.tally.add(written)
        if looking is not None:
            looking.close(moment)
        norm = clip(parameters, optimisation.max_grad_norm, core.group)
        optimiser.step()
        numbers = Underway(result.loss, norm, torch.as_tensor(result.tally.supervised))
        loop.advance(_Unread(step=step, index=index, result=result, rate=rate, numbers=numbers))
        if on_step is not None:
            on_step(step + 1, num_steps, loop.curve[-1][1] if loop.curve else math.nan)
        if keeper is not None:
            keeper.after(step + 1, num_steps)
    loop.flush()
    core.student.eval()
    columns = ["step", "loss_nats", "realised_fraction", "learning_rate", "grad_norm"]
    curve = pd.DataFrame(loop.curve, columns=columns)
    return Training(tally=loop.tally.read(), curve=curve, state=loop.state, num_steps=num_steps)


@dataclass(frozen=True, kw_only=True)
class _Unread:
    """What a step computed, read when the next one is under way, so that a GPU never waits for its host.

    Attributes:
        step: its number.
        index: the sequences it met.
        result: what was computed, where it was computed.
        rate: its learning rate.
        numbers: loss, gradient norm and number of supervised positions.
    """

    step: int
    index: Int[Tensor, " B"]
    result: StepResult
    rate: float
    numbers: Underway

    def read(self) -> _Row:
        """Return the step's row of the curve.

        Raises:
            NotFiniteError: the loss or the gradient's norm is nan or infinite.
        """
        loss, norm, supervised = self.numbers.read()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFiniteError(
                f"step {self.step}: loss {loss}, gradient norm {norm}; "
                f"sequences {self.index.tolist()} of the training set"
            )
        return self.step, loss, supervised / max(self.result.tally.valid, 1), self.rate, norm


@dataclass(kw_only=True)
class _Loop:
    """What one step hands to the next, the last one perhaps unread; part of every checkpoint."""

    step: int = 0
    state: Any = None
    last_loss: Tensor | float | None = None
    tally: Tally = field(default_factory=Tally)
    curve: list[_Row] = field(default_factory=list)
    unread: _Unread | None = None

    def advance(self, done: _Unread) -> None:
        """Take in a step, and read the one before it."""
        self.flush()
        self.step, self.unread = done.step + 1, done
        self.state, self.last_loss = done.result.state, done.result.loss
        self.tally.add(done.result.tally)

    def flush(self) -> None:
        """Read the last step."""
        if self.unread is not None:
            self.curve.append(self.unread.read())
        self.unread = None

    def state_dict(self) -> dict[str, Any]:
        """Return all of it, every step read: what is not finite is never saved."""
        self.flush()
        curve = torch.tensor(self.curve, dtype=torch.float64)
        plain = {"step": self.step, "state": self.state, "last_loss": self.last_loss}
        return {**plain, "tally": vars(self.tally), "curve": curve}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.step, self.state, self.last_loss = (state_dict[name] for name in ("step", "state", "last_loss"))
        self.tally = Tally(**state_dict["tally"])
        for step, loss, realised, rate, norm in state_dict["curve"].tolist():
            self.curve.append((int(step), loss, realised, rate, norm))
