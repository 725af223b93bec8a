"""`harness reproduce`: trials of a report run again, beside what the report has of them."""

import json
import secrets
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.shared import check_writable, command_line, console, take_arithmetic
from harness.config.arithmetic import check_arithmetic, set_arithmetic
from harness.config.errors import UserError
from harness.config.overrides import parse_settings
from harness.config.yaml import read_text
from harness.records.layout import Results

_SEEDS = 10_000


def reproduce(
    context: typer.Context,
    report: Annotated[Path, typer.Argument(help="A report, e.g. reports/position_axis.", metavar="REPORT")],
    trials: Annotated[
        int | None, typer.Option(help="So many of its trials, drawn at random; all if left out.", metavar="N")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only rows whose label begins like this; repeatable.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the draw; another one every time if left out, and printed.", metavar="S")
    ] = None,
    arithmetic: Annotated[
        str | None, typer.Option(help="pinned, compatible or native; the workload's if left out.", metavar="KIND")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="An empty folder to run in, which stays; a temporary one if left out.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Write what differs to PATH.csv, and in short to PATH.md.", metavar="PATH")
    ] = None,
) -> None:
    """Run trials of a report again, and say of each whether its digits are equal, or what differs; exits 1 if any."""
    kind = None if arithmetic is None else check_arithmetic(arithmetic, "--arithmetic")
    if results is not None and results.is_dir() and any(results.iterdir()):
        raise UserError(f"{results} is not empty: trials are run again in a folder of their own")
    check_writable(*(folder for folder in (results, table and table.parent) if folder is not None))
    made = _made_by(context, report)
    _need(report, made)
    made["overrides"] = parse_settings(made["settings"] or ())
    take_arithmetic(made["workload"] or str(made["grid"]), made["overrides"])
    if kind is not None:
        set_arithmetic(kind)
    from harness.analysis.original import read_original
    from harness.analysis.write.reproduced import show, write
    from harness.config.plugins import load_plugins
    from harness.run.reproduce import Command, plan_again, run_again

    terminal = console()
    try:
        load_plugins(made["plugin"] or ())
    except UserError as error:
        raise UserError(f"{report} cannot be reproduced: {error}") from None
    original = read_original(report)
    command = Command(**{field.name: made[field.name] for field in fields(Command)})
    drawn = secrets.randbelow(_SEEDS) if seed is None else seed
    with _folder(results) as folder:
        place = Results(folder)
        plan, records = plan_again(
            original, command, place, arithmetic=kind, only=tuple(only or ()), num=trials, seed=drawn
        )
        if trials is not None:
            terminal.print(f"{trials} of the report's trials, drawn by --seed {drawn}.", highlight=False)
        outcomes = run_again(original, plan, records, place, terminal)
    show(terminal, outcomes)
    if table is not None:
        write(table, outcomes, report, command_line())
    if not all(outcome.equal for outcome in outcomes):
        raise typer.Exit(code=1)


def _made_by(context: typer.Context, report: Path) -> dict[str, Any]:
    """Return the arguments of the `harness run` that a report says made it.

    Raises:
        UserError: it is no report, or says nothing that can be run.
    """
    # Not by harness.records.store: it imports numpy, and the arithmetic is not known yet.
    try:
        words = shlex.split(json.loads(read_text(report / "manifest.json"))["command"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{report} is no report: its manifest.json names no command") from None
    group: Any = context.find_root().command
    run = group.commands["run"]
    if words[:2] != ["harness", "run"] or len(words) < 3:
        raise UserError(f"{report} cannot be reproduced: it was made by {shlex.join(words)!r}, not by harness run")
    parsed = run.make_context("run", words[2:], resilient_parsing=True)
    return dict(parsed.params)


def _need(report: Path, made: dict[str, Any]) -> None:
    """Refuse a report whose files are gone.

    Raises:
        UserError: the first file that is missing, and what it is.
    """
    workload = made["workload"] or ""
    files = {"grid": [made["grid"]], "workload": [Path(workload)] if workload.endswith((".yaml", ".yml")) else []}
    for what, paths in {**files, "plugin": made["plugin"] or []}.items():
        for path in paths:
            if not path.exists():
                raise UserError(f"{report} cannot be reproduced: its {what} {path} is gone")


@contextmanager
def _folder(results: Path | None) -> Iterator[Path]:
    if results is not None:
        yield results
        return
    with tempfile.TemporaryDirectory(prefix="harness-reproduce-") as folder:
        yield Path(folder)
