"""What the teacher adds to a grid that shares its hidden states: operations and seconds, beside the student's alone.

Each strategy is paired with its student-only twin: the same selection budget and rows, a cross-entropy with the data in
the criterion's place, and a signal that reads no teacher. The grid's cost is what the teacher does once, a pass of its
trunk over the data and one of its head for each signal that reads it alone, plus every strategy; what it is compared
with is the sum of the twins.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

from harness.config import Choice, Method
from harness.config.annotations import PreTrainedModel
from harness.cost.bench.memory import adamw
from harness.cost.rig import SEED, Setting
from harness.cost.shapes import Pair, build
from harness.data.tokens import Tokens
from harness.distill.objective import Objective, compile_strategy
from harness.distill.step import Core, accumulate
from harness.distill.tally import Tally
from harness.models import Head, head_of, trunk
from harness.models.operations import Shape, trunk_flops
from harness.records.layout import Results
from harness.teacher.interface import Teacher
from harness.teacher.kinds.hidden import HiddenStates
from harness.teacher.kinds.rows import RowTeacher, Trunk
from harness.teacher.kinds.scores import PositionScores, SignalScores
from harness.teacher.live import stored_scores
from harness.teacher.provide import Stored, provide
from harness.teacher.source import Source
from harness.trial.flops import Shapes, Work, price
from strategies.registry import SIGNALS, STUDENT_INPUTS, TEACHER_INPUTS, raw_inputs

SEEDS = (1, 3)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a grid costs, in operations or in seconds.

    Attributes:
        once: what the teacher does once.
        whole: what each strategy costs with the cached teacher.
        student: what its student-only twin costs.
    """

    once: float
    whole: tuple[float, ...]
    student: tuple[float, ...]


def student_only(strategy: Method) -> Method:
    """Return the twin of a strategy that reads no teacher.

    A signal that reads both models is replaced by the student's entropy, which takes the same pass of the student's
    head; one that reads the teacher alone by noise, which takes none.
    """
    position = strategy.position
    if position.signal is not None:
        reads = raw_inputs(SIGNALS[position.signal.name])
        if reads & TEACHER_INPUTS:
            name = "student_entropy" if reads & STUDENT_INPUTS else "random"
            position = position.model_copy(update={"signal": Choice(name=name)})
    return strategy.model_copy(
        update={"position": position, "criterion": Choice(name="cross_entropy"), "classes": None}
    )


def count(strategies: Sequence[Method], setting: Setting, counted: Pair) -> Costs:
    """Count operations per step: what the teacher does once, and of every strategy with its twin.

    What a step does to which rows is taken from real steps of the setting's small models; what that costs, from the
    shapes to be counted.

    Args:
        strategies: trained strategies.
        setting: small models, and the size of a step.
        counted: the shapes that are priced.
    """
    with TemporaryDirectory() as folder:
        bench = _Bench.make(setting, num_sequences=setting.batch_size)
        cache = bench.build(Results(Path(folder)), strategies)
        whole = [_price(bench.run(each, cache), setting, counted) for each in strategies]
        student = [_price(bench.run(student_only(each), None), setting, counted) for each in strategies]
    once = float(setting.batch_size * trunk_flops(counted.teacher, length=setting.length))
    scored = setting.batch_size * (setting.length - 1) * len(cache.scores)
    once += 2.0 * scored * counted.vocab_size * int(counted.teacher.hidden_size)
    return Costs(once=once, whole=tuple(whole), student=tuple(student))


def measure(
    strategies: Sequence[Method],
    setting: Setting,
    *,
    num_sequences: int,
    on_strategy: Callable[[int], None] = lambda _: None,
) -> Costs:
    """Measure seconds: building the caches on disk, and training every strategy and its twin on the same data.

    A strategy and its twin take turns step by step.

    Args:
        strategies: trained strategies.
        setting: models and the size of a step.
        num_sequences: training sequences.
        on_strategy: called after each strategy with strategies done.
    """
    bench = _Bench.make(setting, num_sequences=num_sequences)
    # What only happens once in a process is nobody's cost.
    bench.run(student_only(strategies[0]), None, steps=1)
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        cache = bench.build(Results(Path(folder)), strategies)
        built = time.perf_counter() - started
        taken = []
        for number, strategy in enumerate(strategies):
            taken.append(bench.time(strategy, cache))
            on_strategy(number + 1)
    whole, student = zip(*taken, strict=True)
    return Costs(once=built, whole=whole, student=student)


def table(costs: Costs, *, pair: str, unit: str, steps: int = 1) -> pd.DataFrame:
    """Return one row per number of seeds: they share what the teacher does once, its head at every step they do not.

    The ratio is 1 plus both shares. In seconds the head's share holds whatever else differs from a cross-entropy.

    Args:
        costs: what the grid costs.
        pair: name of the shapes.
        unit: of the costs.
        steps: steps that the figures stand for, to divide by.
    """
    whole, student = sum(costs.whole), sum(costs.student)
    return pd.DataFrame(
        {
            "pair": pair,
            "unit": unit,
            "strategies": len(costs.whole),
            "seeds": seeds,
            "teacher_once": costs.once / steps,
            "strategies_with_cached_teacher": seeds * whole / steps,
            "student_only": seeds * student / steps,
            "teacher_once_share": costs.once / (seeds * student),
            "teacher_head_share": (whole - student) / student,
            "ratio": (costs.once + seeds * whole) / (seeds * student),
        }
        for seeds in SEEDS
    )


@dataclass(frozen=True, kw_only=True)
class _Cached:
    """What the teacher leaves on disk: its states, and the scores that some strategies of the grid rank by."""

    hidden: Stored[Trunk]
    head: Head
    scores: Mapping[str, Stored[PositionScores]]

    def teacher(self, objective: Objective) -> Teacher:
        """Return the teacher as a trial of the objective meets it."""
        wanted = {signal: each for signal, each in self.scores.items() if signal in objective.stored_scores}
        return Teacher(
            hidden=self.hidden.read, head=self.head, online=False, scores=stored_scores(wanted) if wanted else None
        )


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """Models and data that all strategies of a grid share."""

    setting: Setting
    student: PreTrainedModel
    teacher: PreTrainedModel
    tokens: Tokens

    @classmethod
    def make(cls, setting: Setting, *, num_sequences: int) -> "_Bench":
        pair = setting.pair
        ids = np.random.RandomState(SEED).randint(pair.vocab_size, size=(num_sequences, setting.length), dtype=np.int32)
        return cls(
            setting=setting,
            student=build(pair.student, dtype=pair.dtype).train(),
            teacher=build(pair.teacher, dtype=pair.dtype, seed=1).requires_grad_(False),
            tokens=Tokens(ids=ids, separator=0, cross_document_targets=True, tokens_per_byte=1.0, key="random"),
        )

    def build(self, results: Results, strategies: Sequence[Method]) -> _Cached:
        """Run the teacher over the data and write its states to disk, and the scores that strategies rank by."""
        dtype = str(self.setting.pair.dtype).removeprefix("torch.")
        source = Source(tokens=self.tokens, teacher=self.setting.pair.name, tokenizer="none", dtype=dtype)
        head = Head(weight=head_of(self.teacher, self.setting.pair.vocab_size).weight.detach())
        size = self.setting.batch_size
        live = RowTeacher(
            trunk=lambda batch: trunk(self.teacher, batch.input_ids),
            head=head,
            batch_size=size,
            chunk=self.setting.chunk,
        )
        hidden = provide(HiddenStates(), source, lambda: live, results=results, batch_size=size)
        read = replace(live, trunk=hidden.read)
        signals = sorted({name for each in strategies for name in compile_strategy(each).stored_scores})
        scores = {
            name: provide(SignalScores(signal=name), source, lambda: read, results=results, batch_size=size)
            for name in signals
        }
        return _Cached(hidden=hidden, head=head, scores=scores)

    def run(self, strategy: Method, cache: _Cached | None, *, steps: int | None = None) -> Tally:
        """Take a strategy's steps over the data, or the first few, and return what they counted."""
        core, tally = self._core(strategy, cache), Tally()
        for step in range(steps or self.num_steps):
            tally.add(self._step(core, step))
        return tally.read()

    def time(self, strategy: Method, cache: _Cached) -> tuple[float, float]:
        """Train a strategy and its twin on the data, in turn; return their seconds."""
        cores = self._core(strategy, cache), self._core(student_only(strategy), None)
        optimiser = adamw(self.student.parameters())
        taken = [0.0, 0.0]
        for step in range(self.num_steps):
            for which in (0, 1) if step % 2 == 0 else (1, 0):
                started = time.perf_counter()
                optimiser.zero_grad(set_to_none=True)
                self._step(cores[which], step)
                torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
                optimiser.step()
                taken[which] += time.perf_counter() - started
        return taken[0], taken[1]

    def _core(self, strategy: Method, cache: _Cached | None) -> Core:
        objective = compile_strategy(strategy)
        return Core(
            student=self.student,
            teacher=None if cache is None else cache.teacher(objective),
            objective=objective,
            vocab_size=self.setting.pair.vocab_size,
            chunk=self.setting.chunk,
            seed=SEED,
        )

    def _step(self, core: Core, step: int) -> Tally:
        size = self.setting.batch_size
        batch = self.tokens.batch(torch.arange(step * size, (step + 1) * size))
        return accumulate(core, [batch], None, step=step, num_steps=self.num_steps).tally

    @property
    def num_steps(self) -> int:
        """Whole batches of the data."""
        return len(self.tokens) // self.setting.batch_size


def _price(tally: Tally, setting: Setting, counted: Pair) -> float:
    student, teacher = (
        Shape(
            trunk_flops=float(trunk_flops(config, length=setting.length)),
            hidden_size=int(config.hidden_size),
        )
        for config in (counted.student, counted.teacher)
    )
    shapes = Shapes(student=student, teacher=teacher, vocab_size=counted.vocab_size)
    return sum(price(Work(tally=replace(tally, teacher_passes=0)), shapes).values())
