"""Settings as one level of names and values, to be printed side by side."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.records.record import Record


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Write nested settings as one level, e.g. {"data.sequence_length": "128"}."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


def changed(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Name the settings that differ, or that only one side has, in the order they stand in."""
    ours, theirs = flat(here), flat(there)
    return [key for key in dict.fromkeys([*ours, *theirs]) if ours.get(key) != theirs.get(key)]


def _distinct(settings: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """Collect the distinct values of every setting of several records, in the order they are met."""
    values: dict[str, dict[str, None]] = {}
    for key, value in (pair for one in settings for pair in one.items()):
        values.setdefault(key, {})[value] = None
    return {key: list(each) for key, each in values.items()}


def grouped(records: Sequence[Record]) -> dict[str, dict[str, list[str]]]:
    """Collect the distinct values of versions, and of every setting of the workload in the order they are met."""
    core = {"distillation core": sorted({record.core for record in records})}
    workload = _distinct(flat(record.workload) for record in records)
    return {"version": core | environment(records), "workload": workload}


def environment(records: Iterable[Record]) -> dict[str, list[str]]:
    """Collect the distinct values of every key in the records' environments, sorted."""
    return {key: sorted(values) for key, values in sorted(_distinct(record.environment for record in records).items())}
