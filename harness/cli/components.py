"""What a component is, in words: read off its source, which takes no torch, or off the registry that imported it."""

import ast
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import strategies.registry
from strategies.registry import RAW_INPUTS, STEP_INPUTS, Component, Registry

# Annotations by which an option is told from a tensor: see `strategies.registry.Option`.
_SCALARS = frozenset({"int", "float", "bool", "str"})


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the list says of a component.

    Attributes:
        name: what grids call it.
        summary: its idea in one line.
        source: the paper that defines it.
        inputs: names of the tensors it takes.
        options: names of the scalars that a grid may set.
        traits: declared properties.
        module: where it is defined.
    """

    name: str
    summary: str
    source: str
    inputs: tuple[str, ...]
    options: tuple[str, ...]
    traits: dict[str, Any]
    module: str


def of_registry(registry: Registry) -> dict[str, Description]:
    """Describe what a registry holds, plugins' components included; imports all of it."""
    return {name: _of_component(registry[name]) for name in registry}


def of_source(registry: Registry) -> dict[str, Description]:
    """Describe this package's components of a kind without importing one: the same as `of_registry`, without plugins.

    Raises:
        ValueError: a component that says in its decorator, its keywords or its base classes something that only
            running it would tell.
    """
    names = sorted(module.name for module in pkgutil.iter_modules([str(_path(registry.package))]))
    return {name: _of_module(f"{registry.package}.{name}") for name in names if not name.startswith("_")}


def reads(part: Description, signals: Mapping[str, Description]) -> frozenset[str]:
    """Return the raw inputs that a component reads, through every signal that it is made of."""
    found = {name for name in part.inputs if name in RAW_INPUTS}
    for name in part.inputs:
        if name not in RAW_INPUTS | STEP_INPUTS:
            found |= reads(signals[name], signals)
    return frozenset(found)


def _of_component(component: Component) -> Description:
    return Description(
        name=component.name,
        summary=component.summary,
        source=component.source,
        inputs=component.inputs,
        options=tuple(component.options),
        traits=component.traits,
        module=component.build.__module__,
    )


def _of_module(module: str) -> Description:
    tree = _parse(module)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                declared = _declared(decorator)
                if declared is not None:
                    inputs, options = _keywords(node, module, tree)
                    documented = ast.get_docstring(tree) or ast.get_docstring(node) or ""
                    return Description(
                        name=declared.pop("name"),
                        summary=documented.splitlines()[0] if documented else "",
                        source=declared.pop("source"),
                        inputs=inputs,
                        options=options,
                        traits=declared,
                        module=module,
                    )
    raise ValueError(f"{module} registers nothing that can be read off its source")


def _declared(decorator: ast.expr) -> dict[str, Any] | None:
    """Return what a decorator of the registry is called with, defaults included; None for another decorator."""
    if not (isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name)):
        return None
    register = getattr(strategies.registry, decorator.func.id, None)
    if register is None:
        return None
    arguments = [ast.literal_eval(each) for each in decorator.args]
    keywords = {str(each.arg): ast.literal_eval(each.value) for each in decorator.keywords}
    bound = inspect.signature(register).bind(*arguments, **keywords)
    bound.apply_defaults()
    return dict(bound.arguments)


def _keywords(
    node: ast.FunctionDef | ast.ClassDef, module: str, tree: ast.Module
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split keywords into tensors and scalars, as the registry does where it imports them."""
    inputs: list[str] = []
    options: list[str] = []
    for name, annotation in _annotated(node, module, tree):
        scalar = isinstance(annotation, ast.Name) and annotation.id in _SCALARS and name not in STEP_INPUTS
        (options if scalar else inputs).append(name)
    return tuple(inputs), tuple(options)


def _annotated(
    node: ast.FunctionDef | ast.ClassDef, module: str, tree: ast.Module
) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield the keywords of a function, or the fields of a dataclass, those of its base classes first."""
    if isinstance(node, ast.FunctionDef):
        yield from ((each.arg, each.annotation) for each in (*node.args.args, *node.args.kwonlyargs))
        return
    for base in node.bases:
        yield from _fields_of(base, module, tree)
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            yield each.target.id, each.annotation


def _fields_of(base: ast.expr, module: str, tree: ast.Module) -> Iterator[tuple[str, ast.expr | None]]:
    if isinstance(base, ast.Name):
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == base.id:
                yield from _annotated(node, module, tree)
                return
            if isinstance(node, ast.ImportFrom) and base.id in [each.name for each in node.names]:
                home = importlib.util.resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
                yield from _fields_of(base, home, _parse(home))
                return
    raise ValueError(f"{module}: the fields of base class {ast.unparse(base)} cannot be read off its source")


def _parse(module: str) -> ast.Module:
    return ast.parse(_path(module).with_suffix(".py").read_text(encoding="utf-8"))


def _path(name: str) -> Path:
    # By its name: to look for what lies in a package is to import the package.
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    places = None if spec is None else spec.submodule_search_locations
    assert places is not None, "components lie in packages"
    return Path(places[0]).joinpath(*rest)
