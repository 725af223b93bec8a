"""YAML and model files the user writes: read safely, and refused with the line, the key and what is allowed."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.config.errors import UserError

M = TypeVar("M", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice, where plain YAML keeps the last one silently."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
            raise yaml.MarkedYAMLError(
                problem=f"not a {node.tag.rpartition(':')[2]}: {str(error)[:80]}", problem_mark=node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is written twice", problem_mark=key_node.start_mark
                )
            seen.add(key if isinstance(key, str | int | float | bool) else id(key))
        return super().construct_mapping(node, deep=deep)


def read_text(path: Path) -> str:
    """Read a UTF-8 file.

    Raises:
        UserError: it does not exist, is a folder, cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, a file is needed") from None
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: it does not parse (names line and column), or is not a mapping with text keys.
    """
    payload = load_text(read_text(path), where=str(path))
    if not isinstance(payload, dict) or not all(isinstance(key, str) for key in payload):
        found = "nothing" if payload is None else f"a {type(payload).__name__}"
        raise UserError(f"{path} must hold a mapping of keys to values, it holds {found}")
    return payload


def load_text(text: str, *, where: str) -> Any:
    """Read YAML; `where` names the text in an error.

    Raises:
        UserError: it does not parse; names line and column.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{where}{place}: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{where} is not YAML: {error}") from None


def first_comment(path: Path) -> str:
    """Return the comment lines that open a file, joined, or an empty string."""
    lines = []
    for line in read_text(path).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return " ".join(lines)


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay an override over other fields, mapping by mapping; null takes a key away, a component is replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), dict) and "name" not in value:
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def parse(model: type[M], payload: Mapping[str, Any], *, where: str) -> M:
    """Check what a user wrote against a model; `where` names the place in an error, a file and an entry in it.

    Raises:
        UserError: the first problem, with the key, the value and what is allowed.
    """
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        raise UserError(f"{where}: {_describe(error, model)}") from None


def _describe(error: ValidationError, model: type[BaseModel]) -> str:
    problems = error.errors()
    # A key that is misspelt is missing too: what is written is named before what is not.
    problem = next((each for each in problems if each["type"] != "missing"), problems[0])
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        allowed = _keys(model, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), allowed, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"unknown key {place!r}.{hint} Known: {', '.join(allowed)}."
    if problem["type"] == "missing":
        return f"the key {place!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    shown = repr(problem["input"])
    value = f" (it is {shown})" if len(shown) <= 80 and problem["type"] != "value_error" else ""
    return f"{place}: {message}{value}" if place else message


def _keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """List the keys allowed at a place inside a model."""
    for part in path:
        field = model.model_fields.get(str(part)) if isinstance(part, str) else None
        if field is None:
            continue
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return sorted(field.alias or name for name, field in model.model_fields.items() if not field.exclude)
