"""Overrides: dotted paths into a workload and what stands there instead, from `--set` or a row of a grid."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.config.errors import UserError, unknown
from harness.config.workload import Workload
from harness.config.yaml import load_text

Overrides = Mapping[str, Any]
NOTHING: Overrides = {}

# What the rows of a grid may differ in. Caches, evaluation and workers are made once, for all of them.
_OF_A_ROW = ("optimisation", "lora")
_KEYS = [name for name, field in Workload.model_fields.items() if not field.exclude]
_LONGEST_SLUG = 80


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Read what `--set` was given, each word a dotted path, `=` and a value in YAML.

    Raises:
        UserError: a word without a path or `=`, a path given twice, or a value that is not YAML.
        UnknownNameError: a path into nothing that a workload has.
    """
    settings: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise UserError(f"--set takes a key of the workload, = and a value, not {word!r}")
        _check_key(path)
        if path in settings:
            raise UserError(f"--set gives {path} twice")
        settings[path] = load_text(text, where=f"--set {path}")
    return settings


def parse_row(written: Any, *, where: str) -> dict[str, Any]:
    """Read what a row of a grid, named `where` in an error, changes of the workload: nested, dotted or both.

    Raises:
        UserError: it is no mapping, names a setting twice, or one in which rows cannot differ.
        UnknownNameError: a path into nothing that a workload has.
    """
    if not isinstance(written, dict):
        raise UserError(f"{where}: workload maps settings to values, as optimisation.learning_rate; it is {written!r}")
    overrides: dict[str, Any] = {}
    for path, value in _leaves(written):
        _check_key(path)
        if path.partition(".")[0] not in _OF_A_ROW:
            raise UserError(
                f"{where}: workload.{path} cannot differ between rows, only {' and '.join(_OF_A_ROW)} can: all rows "
                f"share caches, evaluation and workers. For the whole grid: --set {path}=..., or a workload of its own"
            )
        if path in overrides:
            raise UserError(f"{where}: workload names {path} twice")
        overrides[path] = value
    return overrides


def overridden(fields: Mapping[str, Any], overrides: Overrides, *, where: str) -> dict[str, Any]:
    """Lay overrides over a workload's fields as its file has them; a value takes the place of all that was there.

    Raises:
        UserError: a path leads through what is no mapping.
    """
    for path, value in overrides.items():
        fields = put(fields, path, value, where=f"{where}: {path!r}")
    return dict(fields)


def put(tree: Mapping[str, Any], path: str, value: Any, *, where: str) -> dict[str, Any]:
    """Return a tree with a value at a dotted path; mappings along it are copied, or made where there are none.

    Raises:
        UserError: the path leads through what is no mapping.
    """
    parent, _, rest = path.partition(".")
    if not rest:
        return {**tree, parent: value}
    inner = tree.get(parent)
    if not isinstance(inner, dict | None):
        raise UserError(f"{where} goes through {parent!r}, which is not a mapping")
    return {**tree, parent: put(inner or {}, rest, value, where=where)}


def slug(overrides: Overrides) -> str:
    """Name overrides, for a workload's name; what would be long or no name of a file, by its digest."""
    name = "-".join(f"{path}-{describe_value(value)}" for path, value in overrides.items())
    if re.fullmatch(rf"[A-Za-z0-9_.-]{{1,{_LONGEST_SLUG}}}", name):
        return name
    written = json.dumps(overrides, sort_keys=True, default=str)
    return f"set-{hashlib.sha256(written.encode()).hexdigest()[:8]}"


def describe_value(value: Any) -> str:
    """Write a setting's value: a number as short as it is, whichever way YAML has it."""
    try:
        number = float(value) if isinstance(value, str | float) else None
    except ValueError:
        number = None
    if number is not None:
        return f"{number:.12g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _check_key(path: str) -> None:
    if path.partition(".")[0] not in _KEYS:
        raise unknown("workload key", path.partition(".")[0], _KEYS)


def _leaves(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
