"""`harness cache`: the teacher's caches, listed, built, verified and removed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.cli.shared import Plugins, ResultsFolder, check_writable, console, take_arithmetic
from harness.records.layout import Results

if TYPE_CHECKING:
    from harness.teacher.files import Meta

cache_app = typer.Typer(help="The teacher caches that trials read.", no_args_is_help=True)


@cache_app.command("ls")
def cache_ls(results: ResultsFolder = Path("results")) -> None:
    """List teacher caches: what of, how large, whether complete."""
    print_caches(console(), Results(results))


@cache_app.command("build")
def cache_build(
    what: Annotated[
        str, typer.Argument(help="Grid file, workload file, or the name of a workload.", metavar="GRID|WORKLOAD")
    ],
    results: ResultsFolder = Path("results"),
    plugin: Plugins = None,
) -> None:
    """Build the teacher caches that a grid or a workload needs, or continue where a build was cut off."""
    take_arithmetic(what)
    from harness.config.plugins import load_plugins
    from harness.run.prepare import build_caches

    terminal = console()
    load_plugins(plugin or ())
    check_writable(results)
    build_caches(what, Results.at(results), terminal)
    print_caches(terminal, Results(results))


@cache_app.command("verify")
def cache_verify(
    key: Annotated[str | None, typer.Argument(help="Only this cache; all if left out.", metavar="KEY")] = None,
    results: ResultsFolder = Path("results"),
) -> None:
    """Check every checksum; names bad files and exits with 1 if there is one."""
    from harness.teacher.manage import entries, find, problems

    place, terminal = Results(results), console()
    chosen = entries(place) if key is None else [find(place, key)]
    bad = 0
    for entry in chosen:
        lines = [f"bad: {problem}" for problem in problems(entry)]
        bad += len(lines)
        for line in lines or [f"good: {entry.path.name}, {entry.state}"]:
            terminal.print(line, highlight=False, soft_wrap=True, markup=False)
    if not chosen:
        terminal.print(f"no teacher caches under {place.cache}", highlight=False)
    if bad:
        raise typer.Exit(code=1)


@cache_app.command("rm")
def cache_rm(
    key: Annotated[str, typer.Argument(help="The cache's key, see `harness cache ls`.", metavar="KEY")],
    results: ResultsFolder = Path("results"),
) -> None:
    """Remove a teacher cache; the next run that needs it builds it again."""
    from harness.teacher.manage import remove_cache

    removed = remove_cache(Results(results), key)
    typer.echo(f"removed {removed.path} ({removed.num_bytes:,} bytes)")


def print_caches(terminal: Console, results: Results) -> None:
    """Print one line per cache: what it is of, its size, and whether it is complete."""
    from harness.teacher.manage import entries

    caches = entries(results)
    if not caches:
        terminal.print(f"no teacher caches under {results.cache}", highlight=False)
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("kind", "key", "of"):
        table.add_column(heading, overflow="fold")
    for heading in ("tokens", "bytes", "bytes/token"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for entry in caches:
        meta = entry.meta
        table.add_row(
            entry.kind,
            entry.key,
            _described(meta) if meta is not None else "",
            f"{meta.num_tokens:,}" if meta is not None and meta.num_tokens else "",
            f"{entry.num_bytes:,}",
            f"{meta.bytes_per_token:.1f}" if meta is not None and meta.complete and meta.num_tokens else "",
            entry.state,
        )
    terminal.print(table)


def _described(meta: "Meta") -> str:
    data = [f"{meta.about.get('workload', '?')} {meta.about['data']}"] if "data" in meta.about else []
    names = ("signal", "draws", "proposal", "seed", "temperature", "k", "precision")
    settings = [f"{name} {meta.ingredients[name]}" for name in names if name in meta.ingredients]
    some = [f"{meta.num_sequences} chosen sequences"] if meta.ingredients.get("sequences", "all") != "all" else []
    return ", ".join([*data, meta.about.get("teacher", "?"), *some, *settings])
