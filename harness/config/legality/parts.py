"""Which parts of a method cannot stand together, and why: a table of rules for each axis, in order of precedence.

A rule reads the method, the axis's own part and the registered component that the part names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from harness.config.base import Choice
from harness.config.errors import UserError
from harness.config.legality.components import look_up
from harness.config.legality.readings import check_readings
from harness.config.legality.rule import Rule, enforce
from harness.config.strategy import Feature, Method, Position, Rollout, Samples
from strategies.registry import (
    CLASSES,
    CRITERIA,
    FEATURES,
    POLICIES,
    SAMPLES,
    SIGNALS,
    TEACHER_INPUTS,
    TEMPERATURES,
    Component,
    order_signals,
    raw_inputs,
)

Part = TypeVar("Part")


@dataclass(frozen=True)
class _OnAxis(Generic[Part]):
    """What a rule of an axis reads.

    Attributes:
        method: the whole method.
        part: what it says on this axis.
        component: what that names.
    """

    method: Method
    part: Part
    component: Component

    @property
    def name(self) -> str:
        return self.component.name

    @property
    def traits(self) -> Mapping[str, Any]:
        return self.component.traits

    @property
    def criterion(self) -> Component:
        return CRITERIA[self.method.criterion.name]


_POSITION: tuple[Rule[_OnAxis[Position]], ...] = (
    Rule(
        lambda axis: axis.traits["scored"] and axis.part.signal is None,
        lambda axis: f"policy {axis.name!r} ranks positions, so position.signal must name a signal",
    ),
    Rule(
        lambda axis: not axis.traits["scored"] and axis.part.signal is not None,
        lambda axis: f"policy {axis.name!r} reads no scores, so {_signal_of(axis.part)} would do nothing",
    ),
    Rule(
        lambda axis: axis.traits["budgeted"] and axis.part.budget is None,
        lambda axis: f"policy {axis.name!r} needs position.budget, a share in (0, 1]",
    ),
    Rule(
        lambda axis: not axis.traits["budgeted"] and axis.part.budget is not None,
        lambda axis: f"policy {axis.name!r} has no budget, so budget {axis.part.budget} would do nothing",
    ),
)

_SAMPLES: tuple[Rule[_OnAxis[Samples]], ...] = (
    Rule(
        lambda axis: axis.traits["scored"] and axis.part.signal is None,
        lambda axis: f"sample policy {axis.name!r} ranks sequences, so samples.signal must name a signal",
    ),
    Rule(
        lambda axis: not axis.traits["scored"] and axis.part.signal is not None,
        lambda axis: f"sample policy {axis.name!r} reads no scores, so {_signal_of(axis.part)} would do nothing",
    ),
    Rule(
        lambda axis: _batch_scoped(axis.part),
        lambda axis: (
            f"samples.{_signal_of(axis.part)} cannot score sequences: signal {_batch_scoped(axis.part)[0]!r} compares "
            "the positions of a batch, so a sequence's score would depend on which others it is scored with"
        ),
    ),
)

_CLASSES: tuple[Rule[_OnAxis[Choice]], ...] = (
    Rule(
        lambda axis: not raw_inputs(axis.criterion) & TEACHER_INPUTS,
        lambda axis: (
            f"class policy {axis.name!r} reduces the teacher's rows, and criterion {axis.criterion.name!r} reads "
            "no teacher"
        ),
    ),
    Rule(
        lambda axis: axis.method.kd_weight == 0,
        lambda axis: f"class policy {axis.name!r} reduces the teacher's rows, and lambda 0 leaves the teacher out",
    ),
    Rule(
        lambda axis: axis.traits["criteria"] and axis.criterion.name not in axis.traits["criteria"],
        lambda axis: (
            f"class policy {axis.name!r} goes with {', '.join(axis.traits['criteria'])} only, not with "
            f"{axis.criterion.name!r}: {axis.traits['because']}"
        ),
    ),
    Rule(
        lambda axis: axis.criterion.traits["whole"],
        lambda axis: (
            f"class policy {axis.name!r} keeps a few classes, and criterion {axis.criterion.name!r} is about all of "
            "them one by one: it would mean something else"
        ),
    ),
    Rule(
        lambda axis: _of_all_classes(axis.criterion),
        lambda axis: (
            f"class policy {axis.name!r} keeps a few classes, and criterion {axis.criterion.name!r} reads "
            f"{_of_all_classes(axis.criterion)[0]!r}, which is about all of them: choose a criterion that reads "
            "teacher_logprobs and student_logprobs alone"
        ),
    ),
    Rule(
        lambda axis: axis.traits["fixed"] and axis.method.temperature != 1.0,
        lambda axis: (
            f"class policy {axis.name!r} is unbiased only at the temperature it is drawn at, which is 1; temperature "
            f"is {_number_or_name(axis.method.temperature)}"
        ),
    ),
    Rule(
        lambda axis: not _in_range(axis.part, axis.component),
        lambda axis: (
            f"class policy {axis.name!r}: {axis.traits['budget']} must be "
            f"{'in (0, 1]' if _is_share(axis.component) else 'at least 1'}, "
            f"it is {axis.part.options[axis.traits['budget']]:g}"
        ),
    ),
)

_TEMPERATURE: tuple[Rule[_OnAxis[Choice]], ...] = (
    Rule(
        lambda axis: axis.method.kd_weight == 0,
        lambda axis: (
            f"temperature {axis.name!r} softens the distributions that are compared, and lambda 0 compares none"
        ),
    ),
    Rule(
        lambda axis: axis.method.stored,
        lambda axis: (
            f"temperature {axis.name!r} gives every position its own, and teacher: {axis.method.teacher} holds targets "
            "made at one temperature: use teacher: cached or online, or a number"
        ),
    ),
)

_FEATURE: tuple[Rule[_OnAxis[Feature]], ...] = (
    Rule(
        lambda axis: axis.method.stored,
        lambda axis: (
            f"feature {axis.name!r} compares hidden states, and teacher: {axis.method.teacher} holds a few classes: "
            "use teacher: cached or online"
        ),
    ),
    Rule(
        lambda axis: axis.part.layers != "last" and axis.method.teacher != "online",
        lambda axis: (
            f"feature {axis.name!r} compares layers {list(map(list, axis.part.layers))}, and the cache holds the "
            "teacher's final states only: use layers: last or teacher: online"
        ),
    ),
)

_ROLLOUT: tuple[Rule[_OnAxis[Rollout]], ...] = (
    Rule(
        lambda axis: axis.part.preference is not None and _not_of_a_preference(axis.method),
        lambda axis: (
            "rollout.preference compares whole sequences by the probabilities of their tokens: "
            f"{_not_of_a_preference(axis.method)[0]}"
        ),
    ),
    Rule(
        lambda axis: axis.part.preference is None and axis.method.kd_weight < 1,
        lambda axis: (
            f"rollout: lambda {axis.method.kd_weight:g} is about the next token of the text, which is here the "
            "student's own choice"
        ),
    ),
    Rule(
        lambda axis: axis.part.preference is None and not raw_inputs(axis.component) & TEACHER_INPUTS,
        lambda axis: (
            f"rollout: criterion {axis.name!r} is about the next token of the text, which is here the student's own "
            "choice"
        ),
    ),
    Rule(
        lambda axis: axis.method.teacher != "online",
        lambda axis: (
            f"rollout: teacher: {axis.method.teacher} holds "
            f"{'hidden states' if axis.method.teacher == 'cached' else 'targets'} of the training text, and has none "
            "of what the student will write: use teacher: online"
        ),
    ),
    Rule(
        lambda axis: axis.method.flow == "dense",
        ("rollout: flow: dense is the memory baseline of training on the data: use flow: chunked"),
    ),
)

_STORED: tuple[Rule[Method], ...] = (
    Rule(
        lambda method: method.classes is None or method.classes.name not in method.stored_policies,
        lambda method: (
            f"teacher: {method.teacher} holds targets of {' or '.join(method.stored_policies)}: classes must be that"
        ),
    ),
    Rule(
        lambda method: method.flow == "dense",
        lambda method: f"flow: dense computes every teacher logit, and teacher: {method.teacher} holds a few classes",
    ),
    Rule(
        lambda method: _reading_the_whole(method),
        lambda method: (
            f"signal {_reading_the_whole(method)[0]!r} reads the teacher's whole distribution, and teacher: "
            f"{method.teacher} holds a few classes, from which it would be biased: use teacher: cached or online"
        ),
    ),
)


def check_method(method: Method, where: str) -> None:
    """Refuse a combination of parts that cannot mean what it says.

    Raises:
        UserError: the combination and the reason, or an option out of its range.
        UnknownNameError: a component nobody registered.
    """
    position, samples, before = method.position, method.samples, f"{where}: "
    policy = look_up(POLICIES, position.policy, where)
    criterion = look_up(CRITERIA, method.criterion, where)
    _build(policy, position.policy, f"{where}: policy")
    enforce(_POSITION, _OnAxis(method, position, policy), before)
    _look_up_signal(position, where)
    if samples is not None:
        policy = look_up(SAMPLES, samples.policy, where)
        _build(policy, samples.policy, f"{where}: sample policy")
        _look_up_signal(samples, where)
        enforce(_SAMPLES, _OnAxis(method, samples, policy), before)
    if method.classes is not None:
        enforce(_CLASSES, _OnAxis(method, method.classes, look_up(CLASSES, method.classes, where)), before)
    if isinstance(method.temperature, Choice):
        temperature = look_up(TEMPERATURES, method.temperature, where)
        order_signals(name for name in temperature.inputs if name in SIGNALS)
        enforce(_TEMPERATURE, _OnAxis(method, method.temperature, temperature), before)
    if method.feature is not None:
        distance = look_up(FEATURES, method.feature.distance, where)
        if method.feature.signal is not None:
            order_signals([SIGNALS[method.feature.signal].name])
        enforce(_FEATURE, _OnAxis(method, method.feature, distance), before)
    if method.rollout is not None:
        enforce(_ROLLOUT, _OnAxis(method, method.rollout, criterion), before)
    check_readings(method, before)
    if method.stored:
        enforce(_STORED, method, before)


def _build(policy: Component, choice: Choice, named: str) -> None:
    try:
        policy.build(**choice.options)
    except ValueError as error:
        raise UserError(f"{named} {policy.name!r}: {error}") from None


def _look_up_signal(part: Position | Samples, where: str) -> None:
    if part.signal is not None:
        order_signals([look_up(SIGNALS, part.signal, where).name])


def _signal_of(part: Position | Samples) -> str:
    return "no signal" if part.signal is None else f"signal {part.signal.name!r}"


def _batch_scoped(samples: Samples) -> list[str]:
    """Return the signals among those a sample signal is made of that look at a whole batch."""
    names = order_signals([samples.signal.name]) if samples.signal is not None else ()
    return [name for name in names if SIGNALS[name].traits["scope"] == "batch"]


def _of_all_classes(criterion: Component) -> list[str]:
    """Return a criterion's inputs that a few classes do not hold."""
    return [name for name in criterion.inputs if name not in ("teacher_logprobs", "student_logprobs")]


def _number_or_name(temperature: float | Choice) -> str:
    return temperature.name if isinstance(temperature, Choice) else f"{temperature:g}"


def _is_share(classes: Component) -> bool:
    return classes.options[classes.traits["budget"]].type is float


def _in_range(choice: Choice, classes: Component) -> bool:
    """Tell whether a class policy's budget, a share or a number of classes, is one."""
    if classes.traits["budget"] is None:
        return True
    value = float(choice.options[classes.traits["budget"]])
    return 0 < value <= 1 if _is_share(classes) else value >= 1


def _reading_the_whole(method: Method) -> list[str]:
    """Return the signals that read more of the teacher than stored targets hold."""
    parts = [part for part in (method.position, method.samples) if part is not None]
    names = [part.signal.name for part in parts if part.signal is not None]
    return [name for name in names if raw_inputs(SIGNALS[name]) & TEACHER_INPUTS]


def _not_of_a_preference(method: Method) -> list[str]:
    """Say what a preference between whole sequences leaves no room for."""
    wanted = {
        "criterion": (method.criterion.name, "cross_entropy"),
        "position.policy": (method.position.policy.name, "all"),
        "normaliser": (method.normaliser, "sum"),
        "lambda": (method.kd_weight, 1.0),
        "temperature": (method.temperature, 1.0),
        "classes": (method.classes, None),
        "feature": (method.feature, None),
    }
    return [
        f"{key} must be {'left out' if allowed is None else allowed}"
        for key, (value, allowed) in wanted.items()
        if value != allowed
    ]
