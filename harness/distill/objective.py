"""A strategy resolved into callables: what the core runs, with the names of everything it has to compute first."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.config import Choice, Method
from harness.config.strategy import Position
from harness.distill.score import signal_function
from harness.teacher.kinds.scores import INPUTS
from strategies.base import Policy, SparseTarget
from strategies.registry import (
    CLASSES,
    CRITERIA,
    FEATURES,
    POLICIES,
    SIGNALS,
    TEACHER_INPUTS,
    TEMPERATURES,
    Component,
    order_signals,
    raw_inputs,
)

# N = supervised positions, V = vocabulary, B = sequences, L = positions, D = the teacher's hidden size


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a trial minimises and what it needs for that.

    Attributes:
        strategy: the strategy this was made of.
        policy: the selection policy, its options set.
        signal: name of the signal the policy ranks by, None if it reads no scores.
        criterion: the alignment criterion.
        classes: the class policy, None where rows are compared whole.
        temperature: gives every position its temperature; None where it is a number, the same for all.
        feature: the distance of hidden states; None without that branch.
        scored: every signal to be computed at all valid positions before the loss, each after its inputs.
        criterion_signals: those of them that the criterion reads, row by row.
        batch_scope: whether selecting or scoring one sequence depends on the others of the global batch.
    """

    strategy: Method
    policy: Policy
    signal: str | None
    criterion: Component
    classes: Component | None
    temperature: Component | None
    feature: Component | None
    scored: tuple[str, ...]
    criterion_signals: tuple[str, ...]
    batch_scope: bool

    @property
    def preference(self) -> float | None:
        """Beta of a preference between the data's and the student's sequences; None without."""
        return self.strategy.preference

    @cached_property
    def everywhere(self) -> "Objective | None":
        """Cross-entropy at every valid position, where it is taken there and not at the selected ones."""
        if self.strategy.cross_entropy is None:
            return None
        position = Position(policy=Choice(name="all"))
        alone = {"position": position, "kd_weight": 0.0, "cross_entropy": None, "classes": None, "feature": None}
        return compile_strategy(self.strategy.model_copy(update=alone))

    @property
    def scores_read_teacher(self) -> bool:
        """Whether the teacher's head is needed at every valid position, not just at the selected ones."""
        return any(raw_inputs(SIGNALS[name]) & TEACHER_INPUTS for name in self.scored)

    @property
    def stored_scores(self) -> tuple[str, ...]:
        """Signals that a cached teacher is scored by before training, so that no score needs its head any more.

        None if some score needs it anyway: one that compares both models.
        """
        if self.strategy.teacher != "cached":
            return ()
        reading = tuple(name for name in self.scored if set(SIGNALS[name].inputs) & TEACHER_INPUTS)
        alone = all(set(SIGNALS[name].inputs) <= INPUTS and not SIGNALS[name].options for name in reading)
        return reading if alone else ()

    @property
    def loss_reads_teacher(self) -> bool:
        """Whether the teacher's head is needed at the selected positions."""
        return self.strategy.kd_weight > 0 and bool(set(self.criterion.inputs) & TEACHER_INPUTS)

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher is needed at all."""
        return self.scores_read_teacher or self.loss_reads_teacher or self.feature is not None

    @property
    def layer_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of a student's and a teacher's layer whose states are compared; none where it is the final ones."""
        feature = self.strategy.feature
        return () if feature is None or feature.layers == "last" else feature.layers

    @property
    def draws_classes(self) -> bool:
        """Whether the class policy needs a noise key for every row."""
        return self.classes is not None and "keys" in self.classes.inputs

    def reduce(self, teacher_logprobs: Float[Tensor, "N V"], keys: Int[Tensor, " N"] | None) -> SparseTarget:
        """Apply the class policy to the teacher's rows at the strategy's temperature; `keys` are its noise."""
        values = {"teacher_logprobs": teacher_logprobs, "keys": keys}
        target = _apply(self.classes, self.strategy.classes, values)
        assert isinstance(target, SparseTarget)
        return target

    def heat(self, scores: Mapping[str, Tensor], valid: Bool[Tensor, "B L"], progress: float) -> Float[Tensor, "B L"]:
        """Return every position's temperature from the signals, laid out, and the share of training done."""
        values = {**scores, "valid": valid, "progress": progress}
        temperatures = _apply(self.temperature, self.strategy.temperature, values)
        assert isinstance(temperatures, Tensor)
        return temperatures.detach()

    def distance(
        self, student_states: Float[Tensor, "N D"], teacher_states: Float[Tensor, "N D"]
    ) -> Float[Tensor, " N"]:
        """Apply the feature distance."""
        branch, values = self.strategy.feature, {"student_states": student_states, "teacher_states": teacher_states}
        distances = _apply(self.feature, None if branch is None else branch.distance, values)
        assert isinstance(distances, Tensor)
        return distances

    def compare(self, rows: Mapping[str, Tensor]) -> Float[Tensor, " N"]:
        """Apply the criterion to rows given by input name."""
        loss = _apply(self.criterion, self.strategy.criterion, rows)
        assert isinstance(loss, Tensor)
        return loss

    def signal_function(self, name: str) -> Any:
        """Return a signal's function, with the options set on it where it is the one the policy ranks by."""
        return signal_function(name, self.strategy.position.signal)


def _apply(component: Component | None, choice: Choice | float | None, values: Mapping[str, Any]) -> Any:
    """Apply a component that the strategy has to those of some values that it reads, with its options."""
    assert component is not None, "the strategy has one"
    assert isinstance(choice, Choice), "the strategy names it"
    return component.build(**{name: values[name] for name in component.inputs}, **choice.options)


def compile_strategy(strategy: Method) -> Objective:
    """Resolve a checked method.

    Raises:
        UnknownNameError: a component nobody registered.
    """
    policy = POLICIES[strategy.position.policy.name]
    criterion = CRITERIA[strategy.criterion.name]
    signal = strategy.position.signal.name if strategy.position.signal else None
    wanted = [name for name in criterion.inputs if name in SIGNALS] if strategy.kd_weight > 0 else []
    temperature, feature = None, strategy.feature
    prefers = strategy.preference is not None
    if isinstance(strategy.temperature, Choice) and strategy.kd_weight > 0:
        temperature = TEMPERATURES[strategy.temperature.name]
    scored = order_signals(
        [
            *([signal] if signal else []),
            *wanted,
            *(name for name in (temperature.inputs if temperature else ()) if name in SIGNALS),
            *([feature.signal] if feature and feature.signal else []),
            *(["excess_loss"] if prefers else []),
        ]
    )
    return Objective(
        strategy=strategy,
        policy=policy.build(**strategy.position.policy.options),
        signal=signal,
        criterion=criterion,
        classes=CLASSES[strategy.classes.name] if strategy.classes is not None else None,
        temperature=temperature,
        feature=FEATURES[feature.distance.name] if feature is not None else None,
        scored=scored,
        criterion_signals=tuple(wanted),
        batch_scope=prefers
        or any(
            part.traits["scope"] == "batch"
            for part in (policy, *(SIGNALS[name] for name in scored), *([temperature] if temperature else []))
        ),
    )
