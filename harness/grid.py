"""From a grid file to its strategies: presets, overrides, sweeps, labels."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import strategies
from harness.config import Choice, Grid, Strategy
from harness.errors import UserError, unknown
from harness.files import first_comment, parse, read_yaml
from harness.legality import check_strategy
from strategies.registry import CLASSES

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
        template: text with any of {signal} {policy} {budget} {criterion} {classes} {temperature} {lambda}.

    Raises:
        UserError: the template names something else.
    """
    position = strategy.position
    parts = {
        "signal": position.signal.name.replace("_", " ") if position and position.signal else "",
        "policy": position.policy.name.replace("_", " ") if position else "",
        "budget": f"{100 * position.budget:g}%" if position and position.budget is not None else "",
        "criterion": strategy.criterion.name.replace("_", " ") if strategy.criterion else "",
        "classes": describe_classes(strategy.classes) if strategy.classes else "",
        "temperature": f"{strategy.temperature:g}",
        "lambda": f"{strategy.kd_weight:g}",
    }
    if template is None:
        return (
            ", ".join(parts[key] for key in ("signal", "policy", "budget", "criterion", "classes") if parts[key])
            or "as it is"
        )
    try:
        return template.format(**parts)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        raise UserError(f"label {template!r} may use {', '.join('{' + key + '}' for key in parts)}") from None


def describe_classes(choice: Choice) -> str:
    """Name a class policy with its options: "rs 64", "top k 12 renormalise", "rs 64 proposal 0.5"."""
    budget = CLASSES[choice.name].traits["budget"]
    words = [choice.name.replace("_", " ")]
    for option, value in sorted(choice.options.items(), key=lambda item: item[0] != budget):
        if option == budget:
            words.append(f"{value:g}")
        elif value is True:
            words.append(option)
        elif value is not False:
            words.append(f"{option} {value}")
    return " ".join(words)
