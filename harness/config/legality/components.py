"""The registered components of a strategy: looked up, their options checked, listed."""

from collections.abc import Iterable, Iterator

from harness.config.base import Choice
from harness.config.errors import UserError, unknown
from harness.config.strategy import Method, Strategy
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
    Registry,
    order_signals,
    raw_inputs,
)


def look_up(registry: Registry, choice: Choice, where: str) -> Component:
    """Return a component after checking the options set on it.

    Raises:
        UserError: an option that it does not have, of another type, or one that it needs and that is not set.
        UnknownNameError: nobody registered it.
    """
    component = registry[choice.name]
    for option in choice.options:
        if option not in component.options:
            raise UserError(
                f"{where}: {unknown(f'option of {registry.kind} {choice.name!r}', option, component.options)}"
            )
    for name, value in choice.options.items():
        wanted = component.options[name].type
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(
                f"{where}: option {name!r} of {registry.kind} {choice.name!r} must be {wanted.__name__}, "
                f"it is {value!r}"
            )
    missing = [name for name, option in component.options.items() if option.required and name not in choice.options]
    if missing:
        raise UserError(f"{where}: {registry.kind} {choice.name!r} needs the option {missing[0]!r}")
    return component


def components(strategy: Strategy) -> list[Component]:
    """Return every registered component a strategy runs, signals that others are made of included."""
    return list(_components(strategy)) if isinstance(strategy, Method) else []


def _components(method: Method) -> Iterator[Component]:
    position, samples, feature = method.position, method.samples, method.feature
    yield POLICIES[position.policy.name]
    yield from _signals([position.signal.name] if position.signal is not None else [])
    if method.classes is not None:
        yield CLASSES[method.classes.name]
    criterion = CRITERIA[method.criterion.name]
    yield criterion
    yield from _signals(criterion.inputs)
    if isinstance(method.temperature, Choice):
        temperature = TEMPERATURES[method.temperature.name]
        yield temperature
        yield from _signals(temperature.inputs)
    if feature is not None:
        yield FEATURES[feature.distance.name]
        yield from _signals([feature.signal] if feature.signal is not None else [])
    if samples is not None:
        yield SAMPLES[samples.policy.name]
        yield from _signals([samples.signal.name] if samples.signal is not None else [])


def _signals(names: Iterable[str]) -> Iterator[Component]:
    """Yield the signals among some names, each after those it is made of."""
    return (SIGNALS[name] for name in order_signals([name for name in names if name in SIGNALS]))


def teacher_reader(strategy: Strategy) -> str | None:
    """Name the first part of a strategy that reads the teacher, or None."""
    if not isinstance(strategy, Method):
        return "model: teacher" if strategy.model == "teacher" else None
    if strategy.feature is not None:
        return f"feature {strategy.feature.distance.name!r}"
    for component in _components(strategy):
        if component.kind == "criterion" and strategy.kd_weight == 0:
            continue
        if component.kind in ("signal", "criterion") and raw_inputs(component) & TEACHER_INPUTS:
            return f"{component.kind} {component.name!r}"
    return None
