"""`harness cache`: commands without logic."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.shared import Plugins, ResultsFolder, check_writable, console, take_arithmetic
from harness.records.layout import Results

cache_app = typer.Typer(help="The teacher caches that trials read.", no_args_is_help=True)


@cache_app.command("ls")
def cache_ls(results: ResultsFolder = Path("results")) -> None:
    """List teacher caches: what of, how large, whether complete."""
    from harness.teacher.manage import print_caches

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
    from harness.teacher.manage import print_caches

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
    from harness.teacher.manage import verify_caches

    if verify_caches(console(), Results(results), key):
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
