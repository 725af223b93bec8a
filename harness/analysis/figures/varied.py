"""Which settings a grid varies while all else is equal, and which rows those are held against."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.figures.marks import Mark
from harness.analysis.figures.style import GREY, INK
from harness.analysis.read import Run

# Where rows of a grid may differ besides their strategy.
_OF_WORKLOAD = ("optimisation", "lora")
# A setting's place in a record's strategy or workload, its printed name, and whether it is a share.
_FIELDS: tuple[tuple[tuple[str, ...], str, bool], ...] = (
    (("position", "budget"), "Positions kept, k (%)", True),
    (("samples", "budget"), "Training sequences kept, l (%)", True),
    (("temperature",), "Temperature", False),
    (("lambda",), "Weight of distillation, λ", False),
    (("classes", "options", "draws"), "Classes drawn per position", False),
    (("classes", "options", "num"), "Classes kept per position", False),
    (("classes", "options", "mass"), "Mass of the classes kept (%)", True),
    (("optimisation", "learning_rate"), "Learning rate", False),
    (("optimisation", "batch_size"), "Sequences per step", False),
    (("optimisation", "epochs"), "Epochs", False),
    (("lora", "rank"), "Rank of the adapters", False),
)
_LEAST = 3  # values on one line at least: two points are a comparison, which tables show


@dataclass(frozen=True, kw_only=True)
class SweepLine:
    """Strategies that differ in one setting only."""

    name: str  # what they have in common, unique in the figure
    labels: dict[float, str]  # their labels by the setting's printed value, in ascending order


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One setting that a grid varies."""

    slug: str  # part of the figure's name
    heading: str  # of the axis, with its unit
    lines: tuple[SweepLine, ...]  # in the manifest's order


def sweeps(run: Run) -> Iterator[Sweep]:
    """Find the settings that a grid varies while all else is equal."""
    known = {
        label: record.strategy | {name: record.workload.get(name) for name in _OF_WORKLOAD}
        for label, record in run.stated.items()
        if record.strategy.get("train", False)
    }
    for path, heading, share in _FIELDS:
        groups: dict[str, dict[float, str]] = {}
        for label, strategy in known.items():
            value, rest = _take(strategy, path)
            if value is not None:
                groups.setdefault(json.dumps(rest, sort_keys=True), {}).setdefault(value * (100 if share else 1), label)
        found = [dict(sorted(group.items())) for group in groups.values() if len(group) > 1]
        if max((len(group) for group in found), default=0) >= _LEAST:
            names = _names([list(group.values()) for group in found])
            lines = tuple(SweepLine(name=name, labels=group) for name, group in zip(names, found, strict=True))
            yield Sweep(
                slug="_".join(part for part in path if part not in ("options", *_OF_WORKLOAD)),
                heading=heading,
                lines=lines,
            )


def references(run: Run, one: Sweep) -> dict[str, Mark]:
    """Return the rows that a sweep is held against, with their marks: Full KD, random choice, untrained models.

    They are dark, told apart by line style, because colours belong to the lines.
    """
    swept = {label for line in one.lines for label in line.labels.values()}
    plain = {
        label
        for label, method in run.methods.items()
        if method.plain and not method.axes and method.regime == "off_policy" and str(method.criterion) == "forward_kl"
    }
    if len(plain & swept) > 1:  # Full KD is what is swept
        plain -= swept
    found = {}
    for label, method in run.methods.items():
        if not method.trained:
            found[label] = Mark(INK, (0, (1, 1.5))) if method.model == "teacher" else Mark(INK, (0, (5, 2)))
        elif label == run.manifest.baseline or label in plain:
            found[label] = Mark(INK, "solid")
        elif label not in swept and "random" in (
            getattr(policy, "name", "") for policy in (method.policy, method.sample_policy)
        ):
            found[label] = Mark(GREY, (0, (4, 1.5, 1, 1.5)))
    return found


def _take(strategy: Mapping[str, Any], path: tuple[str, ...]) -> tuple[float | None, dict[str, Any]]:
    """Return a setting's value, None where it has no number, and the strategy without it."""
    rest = json.loads(json.dumps({key: value for key, value in strategy.items() if key not in ("label", "source")}))
    holder: Any = rest
    for key in path[:-1]:
        holder = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(holder, dict):
        return None, rest
    value = holder.pop(path[-1], None)
    # A temperature may be a component: a constant one is the number it is constant at.
    if isinstance(value, dict) and value.get("name") == "constant":
        value = value.get("options", {}).get("value")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (float(value) if number else None), rest


def _names(groups: Sequence[Sequence[str]]) -> list[str]:
    """Name each group by the words its labels share, or by its first and last label where that is not enough."""
    names = []
    for group in groups:
        words = [[word.strip(",;:=()") for word in label.split()] for label in group]
        alike = [len(set(column)) == 1 for column in zip(*words, strict=False)]
        if len({len(one) for one in words}) > 1:
            # Words of labels of different length do not stand in for one another: only how they begin counts.
            alike = alike[: alike.index(False)] if False in alike else alike
        names.append(" ".join(word for word, same in zip(words[0], alike, strict=False) if word and same))
    return [
        name if name and names.count(name) == 1 else f"{group[0]} … {group[-1]}"
        for name, group in zip(names, groups, strict=True)
    ]
