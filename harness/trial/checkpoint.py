"""A trial's checkpoint: all that training needs to go on as if it had never stopped, bit for bit.

Among a trial's checkpoints, `step-<steps done>/` holds `state.json`, sealed by its own checksum, and
`tensors.safetensors`, whose checksum stands in it. The folder appears by a rename after everything in it is on the
disk, and only then is the one before it removed. Selection noise and data order are functions of seed and step, so no
generator of theirs is stored.
"""

import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from harness.config.errors import UserError
from harness.distill.group import ALONE, Group
from harness.distill.state import Generators, Resumable, StaleError, branches, check_tree, put_together, take_apart
from harness.records.files import (
    File,
    Sealed,
    checksum,
    clear_litter,
    read_sealed,
    temporary,
    write_sealed,
    written,
)
from harness.records.layout import Results

_REMEDY = "`harness run GRID --rebuild` moves it to results/trash and starts its trial over"
_STATE, _TENSORS = "state.json", "tensors.safetensors"
_COPIED = ("student", "optimiser")
# Conditions that are of the machine on which training goes on, which need not be the one that asks.
MACHINE = ("arithmetic", "device", "torch")
# Saving takes at most one part in so many of the time, whatever the interval.
_SECONDS_PER_SECOND_SAVED = 20.0


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """Training was asked to stop, and its checkpoint is written."""


class State(Sealed):
    """What a checkpoint is.

    Attributes:
        trial: the trial's id.
        step: optimiser steps done.
        conditions: what the last bits of the result depend on; compared when training goes on.
        resumed_at: steps after which training went on from earlier checkpoints.
        micro_batch_sizes: sequences per forward pass, in the order used.
        accepted: conditions that differed where training went on all the same.
        parts: the state of every part, taken apart.
        files: the tensors' file.
    """

    format: int = 1
    trial: str
    step: int
    conditions: dict[str, str]
    resumed_at: tuple[int, ...]
    micro_batch_sizes: tuple[int, ...]
    accepted: tuple[str, ...] = ()
    parts: Any
    files: dict[str, File]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """How often to save: every so many steps, or seconds; never by itself where both are None."""

    steps: int | None = None
    seconds: float | None = None


def parse_interval(text: str) -> Interval:
    """Read an interval: "500" (steps), "30s", "10m", "2h" or "never".

    Raises:
        UserError: it is none of these.
    """
    matched = re.fullmatch(r"([1-9]\d{0,8})([smh]?)", text.strip())
    if text.strip() == "never":
        return Interval()
    if matched is None:
        raise UserError(f"--checkpoint-every takes steps (500), a time (30s, 10m, 2h) or never; it is {text!r}")
    number, unit = int(matched[1]), matched[2]
    return Interval(seconds=number * {"s": 1.0, "m": 60.0, "h": 3600.0}[unit]) if unit else Interval(steps=number)


def find(results: Results, trial: str) -> tuple[Path, State] | None:
    """Return the newest checkpoint of a trial, None if there is none; its tensors are not looked at.

    Raises:
        UserError: it is damaged, or another trial's; names the file.
    """
    folder = results.checkpoints(trial)
    steps = sorted(folder.glob("step-*"))
    if not steps:
        steps = [path for name in results.copies(folder)[-1:] if results.fetch(path := folder / name)]
    if not steps:
        return None
    newest = steps[-1]
    try:
        state = read_sealed(newest / _STATE, State)
    except (OSError, ValueError):
        raise UserError(f"checkpoint {newest / _STATE} is damaged; {_REMEDY}") from None
    if state.trial != trial or newest.name != _name(state.step):
        raise UserError(f"checkpoint {newest} is of step {state.step} of trial {state.trial}; {_REMEDY}")
    return newest, state


def check(results: Results, trial: str, conditions: Mapping[str, str], *, accept: bool = False) -> int | None:
    """Check every byte of a trial's newest checkpoint and return its step; None if there is none.

    Conditions of the machine are compared if they are given and not to be accepted as they are: only where training
    goes on are they known.

    Raises:
        UserError: it is damaged, or of another machine; names the file.
        StaleError: it was made under other conditions; names the first that differs.
    """
    newest = find(results, trial)
    if newest is None:
        return None
    path, state = newest
    for name, file in state.files.items():
        problem = file.problem_at(path / name)
        if problem is not None:
            raise UserError(f"checkpoint {path / name} {problem}; {_REMEDY}")
    here = not accept and not conditions.keys().isdisjoint(MACHINE)
    for name, then, now in _differing(state, conditions):
        said = f"checkpoint {path} was made with {name} {then}, and now it is {now}"
        if name not in MACHINE:
            raise StaleError(said)
        if here:
            raise UserError(f"{said}; --accept-checkpoints goes on from it, to other last digits, --fresh starts over")
    return state.step


def _differing(state: State, conditions: Mapping[str, str]) -> list[tuple[str, str | None, str | None]]:
    """Return the conditions that differ, by name, with what they were and are."""
    both = ((name, state.conditions.get(name), conditions.get(name)) for name in conditions.keys() | state.conditions)
    return sorted(each for each in both if each[1] != each[2])


class Keeper:
    """Saves a trial's state while it trains, and brings it back.

    Attributes:
        resumed_at: steps after which training went on from a checkpoint, this time included.
        micro_batch_sizes: sequences per forward pass, in the order used, this time included.
        accepted: conditions of the machine that differed, and with which training went on all the same.
    """

    def __init__(
        self,
        results: Results,
        *,
        trial: str,
        conditions: Mapping[str, str],
        interval: Interval,
        micro_batch_size: int,
        device: torch.device | str,
        parts: Mapping[str, Resumable],
        stop: Callable[[], bool],
        group: Group = ALONE,
        accept: bool = False,
    ) -> None:
        """Keep checkpoints of the trial of an id.

        `conditions` are what the last bits of the result depend on; `parts` are saved beside what training adds.
        `stop` is asked after every step whether to save and stop. Of a group the first process saves, with what the
        others have where the student is sharded; restored tensors go to `device`. `accept` goes on from another
        machine's checkpoint.
        """
        self.resumed_at: tuple[int, ...] = ()
        self.micro_batch_sizes: tuple[int, ...] = (micro_batch_size,)
        self.accepted: tuple[str, ...] = ()
        self._results, self._trial, self._conditions, self._accept = results, trial, dict(conditions), accept
        self._folder = results.checkpoints(trial)
        self._interval, self._device, self._stop = interval, device, stop
        self._parts: dict[str, Resumable] = {**parts, "generators": Generators(device)}
        self._group = group
        self._saved, self._checked, self._last, self._took = False, False, time.monotonic(), 0.0

    def restore(self, parts: Mapping[str, Resumable]) -> None:
        """Add parts, and bring all back to the newest checkpoint if there is one.

        Raises:
            UserError: the checkpoint is damaged, or of another machine; names the file.
            StaleError: it was made under other conditions, or holds other parts.
        """
        self._parts |= parts
        if self._group.rank == 0:
            clear_litter(self._folder)
        if check(self._results, self._trial, self._conditions, accept=self._accept) is None:
            return
        newest = find(self._results, self._trial)
        assert newest is not None, "just checked"
        path, state = newest
        saved, tensors = branches(state.parts), load_file(path / _TENSORS)
        if saved.keys() != self._parts.keys():
            raise StaleError(f"checkpoint {path} holds {', '.join(saved)}, wanted are {', '.join(self._parts)}")
        for name, part in self._parts.items():
            # What is copied into tensors that are there need not be on their device twice.
            device = "cpu" if name in _COPIED else self._device
            part.load_state_dict(put_together(saved[name], tensors, device))
        self.resumed_at = (*state.resumed_at, state.step)
        lines = (
            f"step {state.step}: {name} {then} -> {now}" for name, then, now in _differing(state, self._conditions)
        )
        self.accepted = (*state.accepted, *lines)
        if state.micro_batch_sizes[-1:] == self.micro_batch_sizes:
            self.micro_batch_sizes = state.micro_batch_sizes
        else:
            self.micro_batch_sizes = (*state.micro_batch_sizes, *self.micro_batch_sizes)
        self._saved = True

    def after(self, step: int, num_steps: int) -> None:
        """Save if it is time to, or if training has been asked to stop.

        Raises:
            Stopped: training has been asked to stop.
            UserError: the checkpoint cannot be written; names the file and the reason.
            TypeError: a part's state holds what no checkpoint can.
        """
        if self._group.rank > 0 and not self._group.sharded:
            return
        if not self._checked:
            # After the first step, when every state is there: a plug-in's that cannot be saved fails now, not in hours.
            for name, part in self._parts.items():
                check_tree(part.state_dict(), name)
            self._checked = True
        stop = self._stop()
        if self._group.agreed(stop or self._due(step, num_steps)):
            self._save(step)
        if stop:
            raise Stopped(f"stopped after step {step} of {num_steps}")

    def discard(self) -> None:
        """Remove the trial's checkpoints: it has a record."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._results.withdraw(self._folder)

    def _due(self, step: int, num_steps: int) -> bool:
        if step == num_steps:
            # What comes now is the evaluation; a trial long enough to have saved once should not train again for it.
            return self._saved
        if self._interval.steps is not None:
            return step % self._interval.steps == 0
        waited = time.monotonic() - self._last
        return self._interval.seconds is not None and waited >= max(
            self._interval.seconds, _SECONDS_PER_SECOND_SAVED * self._took
        )

    def _save(self, step: int) -> None:
        started, path = time.monotonic(), self._folder / _name(step)
        parts, tensors = take_apart({name: part.state_dict() for name, part in self._parts.items()})
        if self._group.rank > 0:
            return
        if not path.exists():
            with written(path) as partial:
                partial.mkdir()
                try:
                    save_file(tensors, partial / _TENSORS)
                except SafetensorError as error:
                    raise UserError(f"{path} cannot be written: {error}") from None
                size = (partial / _TENSORS).stat().st_size
                state = State(
                    trial=self._trial,
                    step=step,
                    conditions=self._conditions,
                    resumed_at=self.resumed_at,
                    micro_batch_sizes=self.micro_batch_sizes,
                    accepted=self.accepted,
                    parts=parts,
                    files={_TENSORS: File(bytes=size, sha256=checksum(partial / _TENSORS))},
                )
                write_sealed(partial / _STATE, state)
        for other in self._folder.glob("step-*"):
            if other != path:
                # Renamed first: one that is half removed must not look like a checkpoint.
                gone = temporary(other, "retired")
                other.replace(gone)
                shutil.rmtree(gone, ignore_errors=True)
        older = self._results.copies(self._folder)
        self._results.offer(path)
        for name in {*older} - {path.name}:
            self._results.withdraw(self._folder / name)
        self._saved, self._last = True, time.monotonic()
        self._took = self._last - started


def _name(step: int) -> str:
    return f"step-{step:09d}"
