"""Files to start a component from, in the project or in a plugin outside it."""

import re
from dataclasses import dataclass
from pathlib import Path

import strategies
from harness.cli import templates
from harness.config.errors import UserError
from harness.config.yaml import read_text, read_yaml
from harness.records.files import write_json
from strategies.registry import CRITERIA, POLICIES, SIGNALS, Registry


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What is written for a component of one kind.

    Attributes:
        registry: where its name must be free.
        source: text of its file.
        test: text of its test.
        grid: the project's grid that compares components of this kind.
        todo: what is left to write.
        tested: what the test is to say.
    """

    registry: Registry
    source: str
    test: str
    grid: str
    todo: str
    tested: str


_KINDS = {
    "signal": _Kind(
        registry=SIGNALS,
        source=templates.SIGNAL,
        test=templates.SIGNAL_TEST,
        grid="grids/position_axis.yaml",
        todo="the score",
        tested="what it must rank first",
    ),
    "policy": _Kind(
        registry=POLICIES,
        source=templates.POLICY,
        test=templates.POLICY_TEST,
        grid="grids/policy_axis.yaml",
        todo="the selection",
        tested="what it must keep",
    ),
    "criterion": _Kind(
        registry=CRITERIA,
        source=templates.CRITERION,
        test=templates.CRITERION_TEST,
        grid="grids/criterion_axis.yaml",
        todo="the loss",
        tested="what it must cost",
    ),
}


def new_component(
    kind: str, name: str, *, grid: Path | None = None, no_grid: bool = False, root: Path | None = None
) -> list[str]:
    """Write a component's file and its test into the project, and add it to a grid.

    Args:
        kind: signal, policy or criterion.
        name: the component's name and file stem.
        grid: the grid file to add it to; the project's for this kind if left out.
        no_grid: leave grids alone.
        root: the project's folder; where the `strategies` package lies if left out.

    Returns:
        What was done and what is left to do, one line each.

    Raises:
        UserError: the name is no identifier or taken, or the grid has no place for it; then nothing is written.
    """
    root = root or Path(strategies.__file__).parent.parent
    chosen = _checked(kind, name)
    package = chosen.registry.package.split(".")
    source, test = root.joinpath(*package, f"{name}.py"), root / "tests" / f"test_{kind}_{name}.py"
    contract = "The contract tests cover shape, dtype and independence of chunks already."
    texts = _texts(chosen, name, module=f"{chosen.registry.package}.{name}", contract=contract)
    where = None if no_grid else grid or Path(chosen.grid)
    extended = None if where is None else _with_row(where, kind, name)
    lines = _write(chosen, source, test, texts)
    if where is not None and extended is not None:
        write_json(where, extended.rstrip("\n"))
        lines += [f"added {name} to {where}", f"then: harness run {where}"]
    return lines


def new_plugin(kind: str, name: str, file: Path, *, grid: Path | None = None, no_grid: bool = False) -> list[str]:
    """Write a component into a file of the user's own, a test beside it, and a grid that compares it with the usual.

    Args:
        kind: signal, policy or criterion.
        name: the component's name.
        file: the plugin file to write.
        grid: an existing grid file to add it to; a new one beside the plugin if left out.
        no_grid: leave grids alone.

    Returns:
        What was done and what is left to do, one line each.

    Raises:
        UserError: a name that cannot be or is taken, or a file that exists; then nothing is written.
    """
    chosen = _checked(kind, name)
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise UserError(f"plugin {file}: the name must be letters, digits and underscores, and end in .py")
    if not file.parent.is_dir():
        raise UserError(f"plugin {file}: there is no folder {file.parent}")
    where, extended = grid or file.with_suffix(".yaml"), None
    if not no_grid:
        if grid is None and where.exists():
            raise UserError(f"{where} exists already: name it with --grid to add {name!r} to it")
        extended = (
            templates.GRID.format(name=name) + f"  - {_row(kind, name)}\n"
            if grid is None
            else _with_row(where, kind, name)
        )
    contract = "Shape, dtype and finite values are checked when a grid is planned."
    texts = _texts(chosen, name, module=file.stem, contract=contract)
    lines = _write(chosen, file, file.with_name(f"test_{file.stem}.py"), texts)
    if extended is not None:
        write_json(where, extended.rstrip("\n"))
        lines += [f"{'wrote' if grid is None else 'added it to'} {where}"]
        lines += [f"then: harness run {where} --plugin {file}"]
    return lines


def _checked(kind: str, name: str) -> _Kind:
    chosen = _KINDS[kind]
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{kind} name {name!r}: use small letters, digits and underscores, beginning with a letter")
    if name in chosen.registry:
        raise UserError(f"{kind} {name!r} exists already: {chosen.registry[name].build.__module__}")
    return chosen


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _texts(kind: _Kind, name: str, *, module: str, contract: str) -> tuple[str, str]:
    class_name = "".join(word.capitalize() for word in name.split("_"))
    given = {"name": name, "title": _title(name), "class_name": class_name, "module": module, "contract": contract}
    return kind.source.format(**given), kind.test.format(**given)


def _write(kind: _Kind, source: Path, test: Path, texts: tuple[str, str]) -> list[str]:
    for path in (source, test):
        if path.exists():
            raise UserError(f"{path} exists already")
    test.parent.mkdir(exist_ok=True)
    for path, text in zip((source, test), texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return [f"wrote {source}: replace its last line by {kind.todo}", f"wrote {test}: say {kind.tested}"]


def _row(kind: str, name: str) -> str:
    return templates.ROWS[kind].format(name=name, label=_title(name))


def _with_row(grid: Path, kind: str, name: str) -> str:
    """Return a grid file's text with one more strategy: of a signal, in its first sweep over position.signal if any.

    The text is edited rather than dumped anew, because comments are part of a grid.
    """
    read_yaml(grid)
    lines = read_text(grid).splitlines()
    places = [(r"strategies:\s*$", _row(kind, name))]
    if kind == "signal":
        places.insert(0, (r"\s*position\.signal:\s*$", name))
    for heading, item in places:
        for number, line in enumerate(lines):
            if re.match(heading, line):
                return _with_item(lines, number, item)
    wanted = "no sweep over position.signal and " if kind == "signal" else ""
    raise UserError(
        f"{grid} has {wanted}no list of strategies, one a line, to add {name!r} to: use --no-grid and edit it by hand"
    )


def _with_item(lines: list[str], heading: int, item: str) -> str:
    """Return the text with one more item at the end of the list below a heading."""
    number = first = next(n for n in range(heading + 1, len(lines)) if lines[n].lstrip().startswith("- "))
    indent, last = _indent(lines[first]), first
    while number < len(lines):
        text = lines[number].strip()
        if text and not text.startswith("#"):
            if _indent(lines[number]) < indent or (_indent(lines[number]) == indent and not text.startswith("- ")):
                break
            last = number
        number += 1
    return "\n".join([*lines[: last + 1], f"{' ' * indent}- {item}", *lines[last + 1 :]]) + "\n"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
