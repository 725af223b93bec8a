"""From a grid file to its strategies: presets, overrides, sweeps, labels."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import strategies
from harness.config import Choice, Grid, Rollout, Samples, Strategy
from harness.config.errors import UserError, unknown
from harness.config.legality import check_strategy
from harness.config.yaml import first_comment, parse, read_yaml
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
    resolved = [
        strategy
        for number, entry in enumerate(entries, start=1)
        for strategy in expand(entry, where=f"{path}: strategies[{number}]")
    ]
    fields = {"name": path.stem, "hypothesis": first_comment(path), **payload, "strategies": resolved}
    return parse(Grid, fields, where=str(path))


@cache
def presets() -> dict[str, Strategy]:
    """Return every named method, in the order of the presets file."""
    return {
        name: parse(Strategy, fields, where=f"{PRESETS_FILE.name}: {name}")
        for name, fields in read_yaml(PRESETS_FILE).items()
    }


def expand(entry: Any, *, where: str) -> Iterator[Strategy]:
    """Turn one entry of a grid file into the strategies it stands for.

    Args:
        entry: a preset's name, or a mapping.
        where: how to name it in an error.

    Raises:
        UserError: it cannot mean what it says.
        UnknownNameError: an unknown preset or component.
    """
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
        template: text with any of {signal} {policy} {budget} {criterion} {classes} {temperature} {feature} {lambda}
            {sample_signal} {sample_policy} {sample_budget} {rollout}.

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
        "temperature": describe_temperature(strategy.temperature),
        "feature": strategy.feature.distance.name.replace("_", " ") if strategy.feature else "",
        "lambda": f"{strategy.kd_weight:g}",
        **_sample_parts(strategy.samples),
        "rollout": describe_rollout(strategy.rollout) if strategy.rollout else "",
    }
    if template is None:
        named = [parts[key] for key in ("signal", "policy", "budget", "criterion", "classes") if parts[key]]
        chosen = [parts[key] for key in ("sample_signal", "sample_policy", "sample_budget") if parts[key]]
        named += [f"samples {' '.join(chosen)}"] if chosen else []
        return ", ".join(named + ([parts["rollout"]] if parts["rollout"] else [])) or "as it is"
    try:
        return template.format(**parts)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        raise UserError(f"label {template!r} may use {', '.join('{' + key + '}' for key in parts)}") from None


def describe_temperature(temperature: float | Choice) -> str:
    """Name a temperature: "2", or a registered one's name with its options in their order, "linear 4 1"."""
    if not isinstance(temperature, Choice):
        return f"{temperature:g}"
    options = (f"{value:g}" if type(value) in (int, float) else str(value) for value in temperature.options.values())
    return " ".join([temperature.name.replace("_", " "), *options])


def describe_rollout(rollout: Rollout) -> str:
    """Name whose text is trained on: "on-policy", "50% on-policy", "data preferred over its own, beta 0.1"."""
    if rollout.preference is not None:
        return f"data preferred over its own, beta {rollout.preference:g}"
    share = "" if rollout.share == 1 else f"{100 * rollout.share:g}% "
    return f"{share}on-policy"


def _sample_parts(samples: Samples | None) -> dict[str, str]:
    if samples is None:
        return {"sample_signal": "", "sample_policy": "", "sample_budget": ""}
    return {
        "sample_signal": samples.signal.name.replace("_", " ") if samples.signal else "",
        "sample_policy": samples.policy.name.replace("_", " "),
        "sample_budget": f"{100 * samples.budget:g}%",
    }


def describe_classes(choice: Choice, *, budget: str | None = None) -> str:
    """Name a class policy with its options: "rs 64", "top k 12 renormalise", "rs 64 proposal 0.5".

    Args:
        choice: the policy.
        budget: the option that says how much is kept, which comes first; looked up, which imports it, if None.
    """
    budget = budget or CLASSES[choice.name].traits["budget"]
    words = [choice.name.replace("_", " ")]
    for option, value in sorted(choice.options.items(), key=lambda item: item[0] != budget):
        if option == budget:
            words.append(f"{value:g}")
        elif value is True:
            words.append(option)
        elif value is not False:
            words.append(f"{option} {value}")
    return " ".join(words)
