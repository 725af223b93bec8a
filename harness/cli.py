"""The command line: commands without logic. Errors of the user are one line on stderr and exit code 2."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.errors import UnknownNameError, UserError

app = typer.Typer(
    name="harness",
    help="Benchmark and ablate selective knowledge distillation of language models.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
workload_app = typer.Typer(help="The models and data that strategies are applied to.", no_args_is_help=True)
new_app = typer.Typer(help="Start a strategy component of your own.", no_args_is_help=True)
app.add_typer(workload_app, name="workload")
app.add_typer(new_app, name="new")
cache_app = typer.Typer(help="The teacher caches that trials read.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

GridFile = Annotated[Path, typer.Argument(help="Grid file, e.g. grids/position_axis.yaml.", metavar="GRID")]
Results = Annotated[Path, typer.Option(help="Where trials and caches are kept.", metavar="DIR")]
Reports = Annotated[Path, typer.Option(help="Where reports are written.", metavar="DIR")]
WorkloadName = Annotated[
    str | None,
    typer.Option("--workload", help="Run on this workload instead of the grid's (name or YAML).", metavar="NAME"),
]
Seeds = Annotated[str | None, typer.Option(help="Only these seeds, e.g. 1337,1338.", metavar="N,N")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Only strategies whose label begins like this; repeatable.", metavar="LABEL"),
]


Sample = Annotated[
    int | None,
    typer.Option(help="Only this many strategies, drawn at random, always the same.", metavar="N"),
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; allowed anywhere.")] = False,
) -> None:
    """Benchmark and ablate selective knowledge distillation of language models."""
    # `main` takes --debug out of the arguments before they are parsed, so that it may stand anywhere.


@app.command()
def run(
    grid: GridFile,
    results: Results = Path("results"),
    reports: Reports = Path("reports"),
    workload: WorkloadName = None,
    seeds: Seeds = None,
    only: Only = None,
    sample: Sample = None,
    force: Annotated[bool, typer.Option("--force", help="Run finished trials again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the plan, run nothing.")] = False,
) -> None:
    """Run the missing trials of a grid, then write and print its report."""
    from harness.plan import make_plan, print_plan
    from harness.run import check_writable, run_plan

    console = _console()
    check_writable(results)
    check_writable(reports)
    plan = make_plan(
        grid, results, workload=workload, seeds=_seeds(seeds), labels=tuple(only or ()), sample=sample, force=force
    )
    if dry_run:
        print_plan(console, plan, results)
        return
    unfinished = run_plan(plan, results, reports, console, command=_command_line())
    if unfinished:
        raise typer.Exit(code=1)


@app.command()
def plan(
    grid: GridFile,
    results: Results = Path("results"),
    workload: WorkloadName = None,
    seeds: Seeds = None,
    only: Only = None,
    sample: Sample = None,
) -> None:
    """Show what a grid would run, what is finished, and what it would cost."""
    from harness.plan import make_plan, print_plan

    made = make_plan(grid, results, workload=workload, seeds=_seeds(seeds), labels=tuple(only or ()), sample=sample)
    print_plan(_console(), made, results)


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(help="A grid's results (results/position_axis) or a report (reports/position_axis).")
    ],
    reports: Reports = Path("reports"),
) -> None:
    """Write a grid's tables and figure from its records, and print the table; needs no torch."""
    from harness.analysis.report import print_report, rebuild, write_report

    whole = folder.resolve()
    made = rebuild(folder) if (folder / "records").is_dir() else write_report(whole.parent, whole.name, reports)
    print_report(made, _console())


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="signals, policies, classes, samples, criteria, presets or workloads; all if left out."),
    ] = None,
) -> None:
    """List signals, policies, classes, samples, criteria, presets and workloads, with their papers."""
    from harness.catalogue import print_catalogue

    print_catalogue(_console(), kind)


@app.command()
def doctor() -> None:
    """Show versions and devices, and whether the hub can be reached."""
    from harness.doctor import examine

    examine(_console())


@new_app.command("signal")
def new_signal(
    name: Annotated[str, typer.Argument(help="Its name: small letters, digits and underscores.")],
    grid: Annotated[
        Path | None, typer.Option(help="Grid to add it to; give none with --no-grid.", metavar="GRID")
    ] = Path("grids/position_axis.yaml"),
    no_grid: Annotated[bool, typer.Option("--no-grid", help="Leave every grid as it is.")] = False,
) -> None:
    """Write a signal file and its test, and add the signal to a grid."""
    from harness.scaffold import new_signal as scaffold

    for line in scaffold(name, grid=None if no_grid else grid):
        typer.echo(line)


@cache_app.command("ls")
def cache_ls(results: Results = Path("results")) -> None:
    """List teacher caches: what of, how large, whether complete."""
    from harness.cache.manage import print_caches

    print_caches(_console(), results / "cache")


@cache_app.command("build")
def cache_build(
    what: Annotated[
        str, typer.Argument(help="Grid file, workload file, or the name of a workload.", metavar="GRID|WORKLOAD")
    ],
    results: Results = Path("results"),
) -> None:
    """Build the teacher caches that a grid or a workload needs, or continue where a build was cut off."""
    from harness.cache.manage import print_caches
    from harness.prepare import build_caches
    from harness.run import check_writable

    console = _console()
    check_writable(results)
    build_caches(what, results, console)
    print_caches(console, results / "cache")


@cache_app.command("verify")
def cache_verify(
    key: Annotated[str | None, typer.Argument(help="Only this cache; all if left out.", metavar="KEY")] = None,
    results: Results = Path("results"),
) -> None:
    """Check every checksum; names bad files and exits with 1 if there is one."""
    from harness.cache.manage import verify_caches

    if verify_caches(_console(), results / "cache", key):
        raise typer.Exit(code=1)


@cache_app.command("rm")
def cache_rm(
    key: Annotated[str, typer.Argument(help="The cache's key, see `harness cache ls`.", metavar="KEY")],
    results: Results = Path("results"),
) -> None:
    """Remove a teacher cache; the next run that needs it builds it again."""
    from harness.cache.manage import remove_cache

    removed = remove_cache(results / "cache", key)
    typer.echo(f"removed {removed.path} ({removed.num_bytes:,} bytes)")


@workload_app.command("build")
def workload_build(
    name: Annotated[str, typer.Argument(help="Which embedded workload; only tiny can be built.")],
    destination: Annotated[
        Path | None,
        typer.Option(help="Where to put the checkpoints; the shipped ones are replaced if left out.", metavar="DIR"),
    ] = None,
) -> None:
    """Train an embedded workload's tokenizer, teacher and student again; takes about an hour on two cores."""
    from harness.errors import unknown

    if name != "tiny":
        raise unknown("embedded workload", name, ["tiny"])
    from harness.workload import ASSETS
    from harness.workloads.build_tiny import build

    build(destination or ASSETS)


def main() -> None:
    """Run the command line; the console script's entry point."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app(standalone_mode=True)
    except (UserError, UnknownNameError) as error:
        if debug:
            raise
        typer.echo(f"harness: {error}", err=True)
        sys.exit(2)


def _seeds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        chosen = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--seeds takes whole numbers separated by commas, e.g. 1337,1338; it is {text!r}") from None
    return tuple(dict.fromkeys(chosen))


def _console() -> Console:
    """Return a console as wide as the terminal; a pipe or a log file has no width and gets a generous one."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=180)


def _command_line() -> str:
    return shlex.join(["harness", *sys.argv[1:]])
