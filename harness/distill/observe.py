"""What a training step shows to who watches it, and the contract of a watcher: it looks and changes nothing."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from harness.distill.supervise import Forward
from strategies.base import Selection


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One micro-batch as the step computed it.

    Attributes:
        step: the step's number, from 0.
        forward: the sequences and both models' final hidden states, the teacher's where the step reads them.
        selection: what the policy decided.
    """

    step: int
    forward: Forward
    selection: Selection


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where training stands in the step that was watched.

    Attributes:
        step: its number, from 0.
        num_steps: steps of the whole run.
        last_loss: the previous step's loss in nats, None at the first.
        state: the policy's state before the step.
    """

    step: int
    num_steps: int
    last_loss: Tensor | float | None
    state: Any


@runtime_checkable
class Observer(Protocol):
    """Watches steps. It draws from no global generator and leaves models, gradients and policy states as they are."""

    def due(self, step: int, num_steps: int) -> bool:
        """Tell whether this step is to be shown."""

    def see(self, seen: Seen) -> None:
        """Take one micro-batch in; called for each of a step's, in order, after its gradients are computed."""

    def close(self, moment: Moment) -> None:
        """Sum the step up; called after its last micro-batch, before the optimiser moves the weights."""
