"""`harness new`: a component's file, its test and a grid's row to start from, in the project or in a plugin outside it.

The texts are in `templates/`: {module} is where the component can be imported from, {class_name} its class where it is
one.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import strategies
from harness.config.errors import UserError
from harness.config.yaml import read_text, read_yaml
from harness.records.files import write_text

new_app = typer.Typer(help="Start a strategy component of your own.", no_args_is_help=True)

NewName = Annotated[str, typer.Argument(help="Its name: small letters, digits and underscores.")]
NewPlugin = Annotated[
    Path | None,
    typer.Option("--plugin", help="Write it to this new file instead of the project, for --plugin.", metavar="FILE"),
]
NewGrid = Annotated[
    Path | None,
    typer.Option(
        "--grid", help="Grid to add it to; with --plugin, one beside it is written if left out.", metavar="GRID"
    ),
]
NoGrid = Annotated[bool, typer.Option("--no-grid", help="Leave every grid as it is.")]


@new_app.command("signal")
def new_signal(name: NewName, plugin: NewPlugin = None, grid: NewGrid = None, no_grid: NoGrid = False) -> None:
    """Write a signal file and its test, and add the signal to a grid (grids/position_axis.yaml)."""
    _start("signal", name, plugin, grid, no_grid=no_grid)


@new_app.command("policy")
def new_policy(name: NewName, plugin: NewPlugin = None, grid: NewGrid = None, no_grid: NoGrid = False) -> None:
    """Write a policy file and its test, and add the policy to a grid (grids/policy_axis.yaml)."""
    _start("policy", name, plugin, grid, no_grid=no_grid)


@new_app.command("criterion")
def new_criterion(name: NewName, plugin: NewPlugin = None, grid: NewGrid = None, no_grid: NoGrid = False) -> None:
    """Write a criterion file and its test, and add the criterion to a grid (grids/criterion_axis.yaml)."""
    _start("criterion", name, plugin, grid, no_grid=no_grid)


@dataclass(frozen=True, kw_only=True)
class _Template:
    """What is written for a component of one kind.

    Attributes:
        folder: of its kind in the `strategies` package; its name must be free there.
        grid: the project's grid that compares components of this kind.
        row: what one more row of a grid looks like.
        todo: what is left to write.
        tested: what the test is to say.
    """

    folder: str
    grid: str
    row: str
    todo: str
    tested: str


_KINDS = {
    "signal": _Template(
        folder="signals",
        grid="grids/position_axis.yaml",
        row="{{preset: se_kd, label: {label} 20%, source: unpublished, position: {{signal: {name}}}}}",
        todo="the score",
        tested="what it must rank first",
    ),
    "policy": _Template(
        folder="policies",
        grid="grids/policy_axis.yaml",
        row="{{preset: se_kd, label: {label} 20%, source: unpublished, position: {{policy: {name}}}}}",
        todo="the selection",
        tested="what it must keep",
    ),
    "criterion": _Template(
        folder="criteria",
        grid="grids/criterion_axis.yaml",
        row="{{preset: full_kd, label: {label}, source: unpublished, criterion: {name}}}",
        todo="the loss",
        tested="what it must cost",
    ),
}


def _start(kind: str, name: str, plugin: Path | None, grid: Path | None, *, no_grid: bool) -> None:
    from harness.config.plugins import load_plugins

    if no_grid and grid is not None:
        raise UserError(f"--no-grid leaves every grid as it is, and --grid adds to {grid}: give one of them")
    load_plugins()
    lines = (
        new_component(kind, name, grid=grid, no_grid=no_grid)
        if plugin is None
        else new_plugin(kind, name, plugin, grid=grid, no_grid=no_grid)
    )
    for line in lines:
        typer.echo(line)


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
    source = root / "strategies" / chosen.folder / f"{name}.py"
    test = root / "tests" / "strategies" / f"test_{kind}_{name}.py"
    contract = "The contract tests cover shape, dtype and independence of chunks already."
    texts = _texts(kind, name, module=f"strategies.{chosen.folder}.{name}", contract=contract)
    where = None if no_grid else grid or Path(chosen.grid)
    extended = None if where is None else _with_row(where, kind, name)
    lines = _write(chosen, source, test, texts)
    if where is not None and extended is not None:
        write_text(where, extended.rstrip("\n") + "\n")
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
            _template("grid.yaml").format(name=name) + f"  - {_row(kind, name)}\n"
            if grid is None
            else _with_row(where, kind, name)
        )
    contract = "Shape, dtype and finite values are checked when a grid is planned."
    texts = _texts(kind, name, module=file.stem, contract=contract)
    lines = _write(chosen, file, file.with_name(f"test_{file.stem}.py"), texts)
    if extended is not None:
        write_text(where, extended.rstrip("\n") + "\n")
        lines += [f"{'wrote' if grid is None else 'added it to'} {where}"]
        lines += [f"then: harness run {where} --plugin {file}"]
    return lines


def _checked(kind: str, name: str) -> _Template:
    from strategies.registry import CRITERIA, POLICIES, SIGNALS

    chosen, registry = _KINDS[kind], {"signal": SIGNALS, "policy": POLICIES, "criterion": CRITERIA}[kind]
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{kind} name {name!r}: use small letters, digits and underscores, beginning with a letter")
    if name in registry:
        raise UserError(f"{kind} {name!r} exists already: {registry[name].build.__module__}")
    return chosen


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / f"{name}.txt").read_text(encoding="utf-8")


def _texts(kind: str, name: str, *, module: str, contract: str) -> tuple[str, str]:
    """Return the texts of a component's file and of its test."""
    class_name = "".join(word.capitalize() for word in name.split("_"))
    words = {"name": name, "title": _title(name), "class_name": class_name, "module": module, "contract": contract}
    return _template(f"{kind}.py").format(**words), _template(f"{kind}_test.py").format(**words)


def _write(kind: _Template, source: Path, test: Path, texts: tuple[str, str]) -> list[str]:
    for path in (source, test):
        if path.exists():
            raise UserError(f"{path} exists already")
    test.parent.mkdir(parents=True, exist_ok=True)
    for path, text in zip((source, test), texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return [f"wrote {source}: replace its last line by {kind.todo}", f"wrote {test}: say {kind.tested}"]


def _row(kind: str, name: str) -> str:
    return _KINDS[kind].row.format(name=name, label=_title(name))


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
