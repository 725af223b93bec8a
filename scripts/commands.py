"""Write docs/commands.md from the command line itself: `python -m scripts.commands`; a test compares the two."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from harness.cli.main import app

FILE = Path(__file__).parents[1] / "docs" / "commands.md"

_HEAD = """# Commands

Made from the command line by `python -m scripts.commands`; `harness COMMAND --help` says the same. `--debug`, anywhere,
shows the traceback of an error. Errors of the user are one line on stderr and exit code 2, before any work starts;
`harness run` ends with 1 if a trial failed and with 130 if it was stopped.
"""


def commands(command: Any, path: tuple[str, ...] = ("harness",)) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with what is typed for it, in the order of the help."""
    children = getattr(command, "commands", None)
    if children is None:
        yield " ".join(path), command
        return
    for name, child in children.items():
        yield from commands(child, (*path, name))


def page() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *(_section(name, command) for name, command in commands(typer.main.get_command(app)))])


def _section(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    typed = " ".join([name, *(_argument(each) for each in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"## {name}", "", f"`{typed}`", "", inspect.cleandoc(command.help or ""), ""]
    rows = [(f"`{_argument(each)}`", each) for each in arguments]
    rows += [(f"`{', '.join(each.opts)}{_metavar(each)}`", each) for each in options]
    if rows:
        lines += ["| | |", "| --- | --- |", *(f"| {shown} | {_meaning(each)} |" for shown, each in rows), ""]
    return "\n".join(lines)


def _argument(parameter: Any) -> str:
    shown = (parameter.metavar or parameter.name.upper()).strip("[]{}")
    return shown if parameter.required else f"[{shown}]"


def _metavar(parameter: Any) -> str:
    if parameter.is_flag:
        return ""
    kind = getattr(parameter.type_descriptor.annotation, "__name__", "value")
    return f" {parameter.metavar or {'int': 'N', 'float': 'X', 'Path': 'PATH'}.get(kind, kind.upper())}"


def _meaning(parameter: Any) -> str:
    default = parameter.default
    shown = not isinstance(default, bool) and default not in (None, (), []) and not callable(default)
    meaning = (parameter.help or "").replace("|", r"\|")
    return f"{meaning} Default: `{default}`." if shown else meaning


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
