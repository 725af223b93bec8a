"""Diagnostics while training: what other signals would have kept on the same states, and what is kept at all.

Every few steps the states that the step computed anyway go through the heads once more, a chunk at a time, and every
registered signal is asked for its top k. Training is the same with and without, bit for bit.
"""

import copy
import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.config import Diagnostics
from harness.config.seeds import derive
from harness.data.tokens import Batch
from harness.distill.observe import Moment, Seen
from harness.distill.score import Rows, score_batch, score_rows
from harness.distill.shadow import (
    BIN_NATS,
    NUM_PARTS,
    effective_positions,
    entropy_histogram,
    extreme_tokens,
    jaccard,
    position_profile,
    shadow_signals,
    top_masks,
    top_mass,
)
from harness.distill.step import Core
from harness.distill.supervise import Signals, select
from harness.models import Head, evaluating, head_of, trunk
from harness.teacher.interface import Teacher
from strategies.base import Selection, StepContext
from strategies.noise import streams, uniform
from strategies.registry import SIGNALS

# B = sequences, L = positions, N = valid positions, D = hidden size, V = vocabulary

# The budget of shadow selections where the trial's own policy has none: the paper's.
DEFAULT_BUDGET = 0.2

# The trial's own selection, among the signals' in table `overlap`.
SELECTED = "selected"

# Table `kept_tokens` leaves rarer tokens out, and has at most this many rows per step.
LEAST_SEEN, MOST_TOKENS = 5, 200

_TOP_SIZES = (1, 4, 16, 64)
_ENTROPIES = ("student_entropy", "teacher_entropy")


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What is kept of one micro-batch until its step ends: numbers per position, no logits and no states.

    Attributes:
        rows: row signals at the valid positions.
        valid: positions with a target.
        targets: next tokens.
        weight: what the policy gave each position.
        top_mass: mass of the teacher's k likeliest classes by k, summed over positions; None without a teacher.
    """

    rows: dict[str, Float[Tensor, " N"]]
    valid: Bool[Tensor, "B L"]
    targets: Int[Tensor, "B L"]
    weight: Float[Tensor, "B L"]
    top_mass: dict[int, float] | None


@dataclass(kw_only=True)
class Watch:
    """Collects the tables `overlap`, `shown`, `kept_tokens` and `profile` (see `records.record`); an `Observer`.

    Shadow selections are policy `top_k` at the trial's budget, or at `DEFAULT_BUDGET` where its policy has none.
    Signals that read the teacher are among them if the step has the teacher's states. `random` is drawn apart from the
    trial's own noise, so that its overlap is what chance gives.

    Attributes:
        core: the training it watches.
        settings: how often, and how many sequences are shown.
        shown: sequences that are looked at every time, whatever the step's batch is.
        teacher: gives a teacher that has the states of `shown`, for as long as it is looked at; None without one.
        text: how a token is written.
        aside: entered while this works, so that its cost is kept apart.
    """

    core: Core
    settings: Diagnostics
    shown: Batch
    teacher: Callable[[], Teacher] | None
    text: Callable[[int], str]
    aside: Callable[[], AbstractContextManager[object]] = nullcontext
    _signals: dict[bool, tuple[str, ...]] = field(default_factory=dict)
    _looked: list[Looked] = field(default_factory=list)
    _columns: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    _counts: Tensor | None = None

    def __post_init__(self) -> None:
        own = self.core.objective.signal
        self._signals = {flag: shadow_signals(own, with_teacher=flag) for flag in (False, True)}

    @property
    def budget(self) -> float:
        """Share of the valid positions that shadow selections keep."""
        return self.core.objective.strategy.position.budget or DEFAULT_BUDGET

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """What was collected so far, by the tables' names."""
        return {name: pd.DataFrame(columns) for name, columns in self._columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what was collected so far, as plain values and a tensor: training can go on from a checkpoint."""
        return {"columns": copy.deepcopy(self._columns), "counts": self._counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._columns, self._counts = copy.deepcopy(state_dict["columns"]), state_dict["counts"]
        if self._counts is not None:
            self._counts = self._counts.cpu()

    def due(self, step: int, num_steps: int) -> bool:
        """Look at every so many steps, and at the last."""
        return step % self.settings.every == 0 or step == num_steps - 1

    @torch.no_grad()
    def see(self, seen: Seen) -> None:
        """Compute the row signals of a micro-batch."""
        with self.aside():
            batch, teacher, head = seen.forward.batch, seen.forward.teacher, seen.forward.teacher_head
            mass = None
            if teacher is not None and head is not None:
                sizes = tuple(size for size in _TOP_SIZES if size <= len(head.weight))
                states = teacher.flatten(0, 1)[batch.places]
                sums = top_mass(states, head, sizes, chunk=self.core.chunk)
                mass = dict(zip(sizes, sums.tolist(), strict=True))
            keys = self._keys(batch, "step", seen.step, first=sum(len(each.valid) for each in self._looked))
            self._looked.append(
                Looked(
                    rows=self._score(batch, seen.forward.student.detach(), teacher, head, keys),
                    valid=batch.valid,
                    targets=batch.targets,
                    weight=seen.selection.weight.abs().where(batch.valid, 0.0),
                    top_mass=mass,
                )
            )

    @torch.no_grad()
    def close(self, moment: Moment) -> None:
        """Write the step's rows of every table, and look at the sequences that are shown."""
        with self.aside():
            looked, self._looked = self._looked, []
            valid, weight, targets = (
                torch.cat([getattr(each, name) for each in looked]) for name in ("valid", "weight", "targets")
            )
            rows = {name: torch.cat([each.rows[name] for each in looked]) for name in looked[0].rows}
            masses = [each.top_mass for each in looked if each.top_mass is not None]
            scores = self._lay(rows, valid, with_teacher=bool(masses))
            self._add_overlap(moment.step, scores, valid, weight > 0)
            self._add_profile(moment.step, scores, valid, weight)
            for size in masses[0] if masses else ():
                share = sum(mass[size] for mass in masses) / max(int(valid.sum()), 1)
                self._add("profile", step=moment.step, quantity="teacher_top_mass", key=float(size), value=share)
            self._add_tokens(moment.step, targets[valid], targets[weight > 0])
            self._add_shown(moment)

    def _keys(self, batch: Batch, *purpose: str | int, first: int = 0) -> Int[Tensor, " B"]:
        """Return a noise stream per sequence, none of them the trial's own."""
        rows = torch.arange(first, first + len(batch.input_ids), device=batch.input_ids.device)
        return streams(derive(self.core.seed, "diagnostics", *purpose), rows)

    def _score(
        self, batch: Batch, student: Tensor, teacher: Tensor | None, teacher_head: Head | None, keys: Tensor
    ) -> dict[str, Tensor]:
        """Compute the row signals at the valid positions."""
        rows = Rows(
            student=student.flatten(0, 1),
            teacher=None if teacher is None else teacher.flatten(0, 1),
            places=batch.places,
            targets=batch.targets.flatten()[batch.places],
            noise=uniform(keys, batch.valid.shape[1]).flatten()[batch.places],
        )
        objective = self.core.objective
        signals = self._signals[teacher is not None]
        names = tuple(name for name in signals if SIGNALS[name].traits["scope"] == "row")
        student_head = head_of(self.core.student, self.core.vocab_size)
        return score_rows(names, objective.signal_function, rows, student_head, teacher_head, chunk=self.core.chunk)

    def _lay(self, rows: dict[str, Tensor], valid: Tensor, *, with_teacher: bool) -> dict[str, Tensor]:
        """Lay row signals out on their positions, and add the batch signals that are made of them."""
        places = valid.flatten().nonzero()[:, 0]
        return score_batch(self._signals[with_teacher], self.core.objective.signal_function, rows, valid, places)

    def _add(self, table: str, **row: Any) -> None:
        columns = self._columns.setdefault(table, {name: [] for name in row})
        for name, value in row.items():
            columns[name].append(value)

    def _add_overlap(self, step: int, scores: dict[str, Tensor], valid: Tensor, chosen: Tensor) -> None:
        masks = top_masks(scores, valid, self.budget)
        names = [*sorted(masks), SELECTED]
        shares = jaccard(torch.stack([*(masks[name] for name in names[:-1]), chosen]), valid).tolist()
        for row, column in itertools.combinations(range(len(names)), 2):
            self._add("overlap", step=step, first=names[row], second=names[column], jaccard=shares[row][column])

    def _add_profile(self, step: int, scores: dict[str, Tensor], valid: Tensor, weight: Tensor) -> None:
        chosen = weight > 0

        def add(quantity: str, values: list[float], *, width: float = 0.0) -> None:
            for number, value in enumerate(values):
                if not math.isnan(value):
                    self._add("profile", step=step, quantity=quantity, key=round(number * width, 9), value=value)

        add("realised_fraction", [int(chosen.sum()) / max(int(valid.sum()), 1)])
        add("effective_positions", [effective_positions(weight)])
        add("position_profile", position_profile(chosen, valid).tolist(), width=1 / NUM_PARTS)
        for name in _ENTROPIES:
            if name in scores:
                add(f"{name}_hist", entropy_histogram(scores[name][valid]).tolist(), width=BIN_NATS)
                add(f"selected_{name}_hist", entropy_histogram(scores[name][chosen]).tolist(), width=BIN_NATS)

    def _add_tokens(self, step: int, seen: Tensor, kept: Tensor) -> None:
        size = self.core.vocab_size
        counts = torch.stack([torch.bincount(tokens.cpu(), minlength=size) for tokens in (seen, kept)])
        self._counts = counts if self._counts is None else self._counts + counts
        # A short training may have seen no token often enough: its table is there, without rows.
        self._columns.setdefault("kept_tokens", {name: [] for name in ("step", "token", "num_seen", "num_kept")})
        for token in extreme_tokens(*self._counts, least_seen=LEAST_SEEN, most=MOST_TOKENS):
            num_seen, num_kept = self._counts[:, token].tolist()
            self._add("kept_tokens", step=step, token=self.text(token), num_seen=num_seen, num_kept=num_kept)

    def _add_shown(self, moment: Moment) -> None:
        """Look at the fixed sequences with the weights of this step, in a pass of their own."""
        batch = self.shown
        teacher = self.teacher() if self.teacher is not None else None
        states, head = (teacher.hidden(batch), teacher.head) if teacher is not None else (None, None)
        with evaluating(self.core.student):
            hidden = trunk(self.core.student, batch.input_ids)
        keys = self._keys(batch, "shown", moment.step)
        rows = self._score(batch, hidden, states, head, keys)
        scores = self._lay(rows, batch.valid, with_teacher=teacher is not None)
        unknown = torch.full(batch.valid.shape, math.nan, device=batch.valid.device)
        cells = {
            **{name: scores.get(name, unknown).where(batch.valid, math.nan).tolist() for name in _ENTROPIES},
            "weight": self._would_select(scores, moment, keys).weight.where(batch.valid, 0.0).tolist(),
            **{f"kept_{name}": mask.tolist() for name, mask in top_masks(scores, batch.valid, self.budget).items()},
        }
        (num, length), ids = batch.valid.shape, batch.input_ids.tolist()
        # The last position of a sequence has no next token.
        for sequence, position in itertools.product(range(num), range(length - 1)):
            self._add(
                "shown",
                step=moment.step,
                sequence=int(batch.index[sequence]),
                position=position,
                token=self.text(ids[sequence][position + 1]),
                **{name: values[sequence][position] for name, values in cells.items()},
            )

    def _would_select(self, scores: dict[str, Tensor], moment: Moment, keys: Tensor) -> Selection:
        """Apply the trial's policy to the shown sequences as if they were a batch; its state stays as it is."""
        objective, progress = self.core.objective, moment.step / moment.num_steps
        context = StepContext(
            budget=objective.strategy.budget, progress=progress, keys=keys, last_loss=moment.last_loss
        )
        # A copy: even a policy that broke its contract and wrote into its state would not reach the training's.
        return select(objective, Signals(scores=scores), self.shown, context, copy.deepcopy(moment.state))[0]
