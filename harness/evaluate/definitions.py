"""lm-eval's task definitions (YAML), read without importing lm-eval, which takes seconds."""

import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, TemplateSyntaxError, meta

from harness.config.errors import UserError
from harness.config.yaml import read_text

# What a definition builds a prompt, an answer or options from: a column's name, a template, or a function.
_READS = ("doc_to_text", "doc_to_target", "doc_to_choice")

# The kind of a row's values, by column.
Columns = Mapping[str, str]


class Function(str):
    """The dotted name of a function that a definition calls."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    """Safe YAML with lm-eval's one tag of its own, `!function`, left unresolved."""


def _function(loader: _Loader, node: yaml.ScalarNode) -> Function:
    return Function(loader.construct_scalar(node))


_Loader.add_constructor("!function", _function)


@dataclass(frozen=True)
class Definition:
    """One task's definition.

    Attributes:
        path: its YAML file.
        config: its keys, with those of the files it includes; functions are names.
        files: all it is made of: YAML files, and Python files beside them that its functions are in.
    """

    path: Path
    config: Mapping[str, Any]
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self.config["task"])

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what lm-eval reports of an item, in the definition's order."""
        entries = self.config.get("metric_list") or ()
        return tuple(str(entry["metric"]) for entry in entries if not isinstance(entry["metric"], Function))

    @property
    def filters(self) -> tuple[str, ...]:
        """Names of the ways an answer is extracted, the first of which counts; lm-eval calls the only one "none"."""
        return tuple(str(entry["name"]) for entry in self.config.get("filter_list") or ()) or ("none",)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns its templates read, as far as templates tell: none where a function prepares the rows first."""
        if self.config.get("process_docs") is not None:
            return ()
        columns: dict[str, None] = {}
        for key in _READS:
            columns |= dict.fromkeys(_columns_of(self.config.get(key)))
        return tuple(columns)

    @property
    def longest_answer(self) -> int:
        """Tokens an answer may have at most; 0 where nothing is generated, lm-eval's default where nothing is said."""
        if self.config.get("output_type") != "generate_until":
            return 0
        return int((self.config.get("generation_kwargs") or {}).get("max_gen_toks", 256))


@dataclass(frozen=True, kw_only=True)
class SuiteTask:
    """One lm-eval task of a suite.

    Attributes:
        definition: the task's definition, lm-eval's own for an official task.
        measures: what is kept of each item: our measure by lm-eval's name for it, with the filter after a comma, e.g.
            {"exact_match,strict-match": "accuracy"}.
        columns: what the rows of its data hold, as far as is known before they are read.
        generated: whether the project makes its items itself.
        documentary: whether it makes them from the documentation of installed packages.
    """

    definition: Definition
    measures: Mapping[str, str]
    columns: Columns
    generated: bool
    documentary: bool = False

    @property
    def name(self) -> str:
        """The task's name."""
        return self.definition.name

    @property
    def verifies_instructions(self) -> bool:
        """Whether it checks responses by IFEval's verifiers, which need a sentence splitter and a language detector."""
        return "prompt_level_strict_acc" in self.definition.metrics


def read_definition(path: Path) -> Definition:
    """Read a task's YAML file.

    Raises:
        UserError: it is missing, is not YAML, or is not the definition of one task; names the file.
    """
    merged: dict[str, Any] = {}
    files: dict[Path, None] = {}
    # A key of the file itself wins over one it includes, and a later include over an earlier one.
    for part, config in _chain(path, ()):
        merged |= config
        files |= dict.fromkeys([part, *_function_files(part, config)])
    if not isinstance(merged.get("task"), str):
        kind = "a group of tasks: name its members" if "group" in merged else "without the key 'task'"
        raise UserError(f"{path} is {kind}")
    return Definition(path=path, config=merged, files=tuple(files))


@functools.cache
def find_official(name: str) -> Path:
    """Return where the installed lm-eval defines a task.

    Raises:
        UserError: there is no such task, with the nearest suggested; or it is a group of tasks.
    """
    entry = re.compile(rf"""^["']?(task|group)["']?:\s*["']?{re.escape(name)}["']?\s*$""", re.MULTILINE)
    # Nearly every task is in a file of its own name: reading the other thousands is the exception.
    for path in sorted(_official_files(), key=lambda path: path.stem != name):
        matched = entry.search(path.read_text(encoding="utf-8"))
        if matched is not None and matched.group(1) == "group":
            raise UserError(f"{name!r} is a group of lm-eval tasks: name its members ({path})")
        if matched is not None:
            return path
    # Not the list of what is known: it has thousands of names.
    near = difflib.get_close_matches(name, {path.stem for path in _official_files()}, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"lm-eval {version('lm_eval')} has no task {name!r}.{hint}")


@functools.cache
def _official_files() -> tuple[Path, ...]:
    return tuple(sorted(official_folder().rglob("*.yaml")))


def official_folder() -> Path:
    """Return the folder of the installed lm-eval's task definitions."""
    spec = find_spec("lm_eval")
    assert spec is not None, "a dependency of the project"
    assert spec.submodule_search_locations, "a package"
    return Path(spec.submodule_search_locations[0]) / "tasks"


def _chain(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a definition file after everything it includes."""
    if path in above:
        raise UserError(f"{path} includes itself")
    try:
        config = yaml.load(read_text(path), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not a task definition: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a task definition: it must hold a mapping")
    included = config.pop("include", [])
    for name in [included] if isinstance(included, str) else included:
        yield from _chain((path.parent / name).resolve(), (*above, path))
    yield path, config


def _function_files(path: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    for function in _functions(config):
        module = path.parent / f"{function.rpartition('.')[0].replace('.', '/')}.py"
        if module.is_file():
            yield module


def _functions(value: object) -> Iterator[Function]:
    if isinstance(value, Function):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _functions(item)
    elif isinstance(value, list):
        for item in value:
            yield from _functions(item)


def _columns_of(source: object) -> list[str]:
    if not isinstance(source, str) or isinstance(source, Function):
        return []
    if "{{" not in source and "{%" not in source:
        return [source] if source.isidentifier() else []
    try:
        return sorted(meta.find_undeclared_variables(Environment().parse(source)))  # noqa: S701 - never rendered
    except TemplateSyntaxError:
        return []
