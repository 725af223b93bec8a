"""From a grid file to its strategies: presets, overrides, sweeps, and what may not be combined."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import strategies
from harness.config import Choice, Grid, Strategy, Workload
from harness.errors import UserError, unknown
from harness.files import first_comment, parse, read_yaml
from strategies.registry import (
    CRITERIA,
    POLICIES,
    SIGNALS,
    TEACHER_INPUTS,
    Component,
    Registry,
    order_signals,
    raw_inputs,
)

PRESETS_FILE = Path(strategies.__file__).parent / "presets.yaml"


def load_grid(path: Path) -> Grid:
    """Read and check a grid file, without its workload.

    Raises:
        UserError: anything wrong with the file; names the entry, the key, the value and what is allowed.
        UnknownNameError: an unknown preset, signal, policy or criterion; suggests the nearest.
    """
    payload = read_yaml(path)
    entries = payload.get("strategies")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: strategies is empty: list at least one preset or strategy")
    resolved = [strategy for number, entry in enumerate(entries, start=1) for strategy in _expand(entry, number, path)]
    fields = {"name": path.stem, "hypothesis": first_comment(path), **payload, "strategies": resolved}
    return parse(Grid, fields, where=str(path))


@cache
def presets() -> dict[str, Strategy]:
    """Return every named method, in the order of the presets file."""
    return {
        name: parse(Strategy, fields, where=f"{PRESETS_FILE.name}: {name}")
        for name, fields in read_yaml(PRESETS_FILE).items()
    }


def check_strategy(strategy: Strategy, *, where: str = "strategy") -> None:
    """Refuse a combination that cannot mean what it says.

    Args:
        strategy: the strategy.
        where: how to name it in an error.

    Raises:
        UserError: the combination and the reason.
        UnknownNameError: a component nobody registered.
    """
    position, criterion = strategy.position, strategy.criterion
    if not strategy.train:
        if position is not None or criterion is not None:
            raise UserError(f"{where}: train is false, so position and criterion would do nothing: leave them out")
        return
    if strategy.model == "teacher":
        raise UserError(f"{where}: only the student can be trained: model must be student, or train false")
    if position is None or criterion is None:
        raise UserError(f"{where}: a trained strategy needs both position and criterion")
    policy = _component(POLICIES, position.policy, where)
    _component(CRITERIA, criterion, where)
    if policy.traits["scored"] and position.signal is None:
        raise UserError(f"{where}: policy {policy.name!r} ranks positions, so position.signal must name a signal")
    if not policy.traits["scored"] and position.signal is not None:
        raise UserError(
            f"{where}: policy {policy.name!r} reads no scores, so signal {position.signal.name!r} would do nothing"
        )
    if policy.traits["budgeted"] and position.budget is None:
        raise UserError(f"{where}: policy {policy.name!r} needs position.budget, a share in (0, 1]")
    if not policy.traits["budgeted"] and position.budget is not None:
        raise UserError(f"{where}: policy {policy.name!r} has no budget, so budget {position.budget} would do nothing")
    if position.signal is not None:
        order_signals([_component(SIGNALS, position.signal, where).name])


def check_workload(strategy: Strategy, workload: Workload) -> None:
    """Refuse a strategy that the workload cannot serve.

    Raises:
        UserError: the strategy needs a teacher and the workload has none.
    """
    needs = teacher_reader(strategy)
    if workload.teacher is None and needs:
        raise UserError(
            f"strategy {strategy.label!r}: {needs} reads the teacher, and workload {workload.name!r} has none "
            "(teacher: null)"
        )


def teacher_reader(strategy: Strategy) -> str | None:
    """Name the first part of a strategy that reads the teacher, or None."""
    if strategy.model == "teacher":
        return "model: teacher"
    for component in components(strategy):
        if component.kind == "criterion" and strategy.kd_weight == 0:
            continue
        if component.kind != "policy" and raw_inputs(component) & TEACHER_INPUTS:
            return f"{component.kind} {component.name!r}"
    return None


def components(strategy: Strategy) -> list[Component]:
    """Return every registered component a strategy runs, signals that others are made of included."""
    used: list[Component] = []
    if strategy.position is not None:
        used.append(POLICIES[strategy.position.policy.name])
        if strategy.position.signal is not None:
            used.extend(SIGNALS[name] for name in order_signals([strategy.position.signal.name]))
    if strategy.criterion is not None:
        criterion = CRITERIA[strategy.criterion.name]
        used.append(criterion)
        used.extend(SIGNALS[name] for name in order_signals(name for name in criterion.inputs if name in SIGNALS))
    return used


def _component(registry: Registry, choice: Choice, where: str) -> Component:
    """Look a component up and check the options set on it."""
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


def _expand(entry: Any, number: int, path: Path) -> Iterator[Strategy]:
    """Turn one entry of a grid file into the strategies it stands for."""
    where = f"{path}: strategies[{number}]"
    fields = {"preset": entry} if isinstance(entry, str) else copy.deepcopy(entry)
    if not isinstance(fields, dict):
        raise UserError(f"{where}: an entry is a preset's name or a mapping, not {entry!r}")
    preset = fields.pop("preset", None)
    if preset is not None:
        if not isinstance(preset, str) or preset not in presets():
            raise unknown("preset", str(preset), presets())
        base = presets()[preset].model_dump(by_alias=True, exclude_unset=True)
        fields = _merge(base, fields)
    for variant in _sweep(fields, where):
        label = variant.get("label")
        strategy = parse(Strategy, {**variant, "label": str(label or "")}, where=where)
        check_strategy(strategy, where=where)
        yield strategy.model_copy(update={"label": describe(strategy, str(label) if label else None)})


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay an override over a preset, mapping by mapping; null takes a key away, a component is replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), dict) and "name" not in value:
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _sweep(fields: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Yield one copy per element of the Cartesian product of `sweep: {dotted.path: [values]}`."""
    sweep = fields.pop("sweep", {})
    if not isinstance(sweep, dict) or not all(
        isinstance(key, str) and isinstance(values, list) and values for key, values in sweep.items()
    ):
        raise UserError(f"{where}: sweep maps a dotted path to a list of values, e.g. position.budget: [0.1, 0.2]")
    for values in itertools.product(*sweep.values()):
        variant = copy.deepcopy(fields)
        for dotted, value in zip(sweep, values, strict=True):
            *parents, leaf = dotted.split(".")
            node = variant
            for parent in parents:
                node = node.setdefault(parent, {})
                if not isinstance(node, dict):
                    raise UserError(f"{where}: sweep path {dotted!r} goes through {parent!r}, which is not a mapping")
            node[leaf] = value
        yield variant


def describe(strategy: Strategy, template: str | None = None) -> str:
    """Fill a label template, or make a label from the strategy's parts.

    Args:
        strategy: the strategy.
        template: text with any of {signal} {policy} {budget} {criterion} {temperature} {lambda}.

    Raises:
        UserError: the template names something else.
    """
    position = strategy.position
    parts = {
        "signal": position.signal.name.replace("_", " ") if position and position.signal else "",
        "policy": position.policy.name.replace("_", " ") if position else "",
        "budget": f"{100 * position.budget:g}%" if position and position.budget is not None else "",
        "criterion": strategy.criterion.name.replace("_", " ") if strategy.criterion else "",
        "temperature": f"{strategy.temperature:g}",
        "lambda": f"{strategy.kd_weight:g}",
    }
    if template is None:
        return ", ".join(parts[key] for key in ("signal", "policy", "budget", "criterion") if parts[key]) or "as it is"
    try:
        return template.format(**parts)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        raise UserError(f"label {template!r} may use {', '.join('{' + key + '}' for key in parts)}") from None
