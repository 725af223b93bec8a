"""Where and how a plan's trials run: one value from the command line to the worker."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from harness.config.errors import UserError, unknown
from harness.trial.checkpoint import Interval

TRACKERS = ("tensorboard", "wandb", "mlflow")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how a plan's trials run; none of it is part of what they compute.

    Attributes:
        checkpoint_every: how often a trial that trains saves its state.
        deterministic: whether operations that have a deterministic form use it; a GPU's are slower then.
        memory_bytes: how much a trial on the CPU may take at most; no limit if None.
        keep_students: whether a trained student's weights stay, under `students/`, for `harness export`.
        address: of a running Ray cluster that shares the results folder; a Ray of this machine alone if None.
        trackers: what shows losses and metrics while trials run: `TRACKERS`.
        fresh: start over: records and checkpoints of the chosen trials go to the trash.
        rebuild: the same for damaged records and checkpoints only; without it they are refused.
        accept_checkpoints: go on from checkpoints of another machine (GPU, torch, arithmetic); the record says so.
        cpu: whether trials are to train on the CPU, although their workload asks for a GPU.
        pdf: whether the report's figures are written as PDF too.
    """

    checkpoint_every: Interval = field(default_factory=lambda: Interval(seconds=600.0))
    deterministic: bool = False
    memory_bytes: int | None = None
    keep_students: bool = False
    address: str | None = None
    trackers: tuple[str, ...] = ("tensorboard",)
    fresh: bool = False
    rebuild: bool = False
    accept_checkpoints: bool = False
    cpu: bool = False
    pdf: bool = False


def parse_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Return the trackers that are asked for, each once; `none` for none.

    Raises:
        UserError: `none` beside others, or a tracker whose package is not installed.
        UnknownNameError: not a tracker.
    """
    if "none" in names:
        if len(set(names)) > 1:
            raise UserError(f"--track none goes with no other tracker; it is given with {', '.join(names)}")
        return ()
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, (*TRACKERS, "none"))
        if name != "tensorboard" and find_spec(name) is None:
            raise UserError(f"--track {name} needs the package {name}: pip install {name}")
    return tuple(dict.fromkeys(names))
