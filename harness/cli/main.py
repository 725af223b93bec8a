"""The command line: commands without logic. Errors of the user are one line on stderr and exit code 2."""

import logging
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.bench import bench_app
from harness.cli.cache import cache_app
from harness.cli.carry import carry_out, check_whole
from harness.cli.claims import claims
from harness.cli.evaluate import evaluate
from harness.cli.export_table import export_table
from harness.cli.new import new_app
from harness.cli.report import report
from harness.cli.reproduce import reproduce
from harness.cli.shared import (
    AcceptCheckpoints,
    Address,
    CheckpointEvery,
    Decide,
    Deterministic,
    DiagnosticsEvery,
    Fresh,
    GridFile,
    HowTaught,
    KeepStudents,
    MirrorUri,
    OnCpu,
    Only,
    Pdf,
    Plugins,
    Rebuild,
    Reports,
    ResultsFolder,
    Sample,
    Seeds,
    Settings,
    SplitName,
    Trackers,
    Tunes,
    WorkloadName,
    check_writable,
    command_line,
    console,
    explain_missing,
    parse_seeds,
    take_arithmetic,
)
from harness.cli.workload import workload_app
from harness.config.errors import UnknownNameError, UserError, one_line
from harness.config.overrides import parse_settings
from harness.records.layout import Results

# What a shell says of a process that Ctrl-C or SIGTERM ended.
INTERRUPTED = (130, TERMINATED := 143)

app = typer.Typer(
    name="harness",
    help="Benchmark and ablate selective knowledge distillation of language models.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(workload_app, name="workload")
app.add_typer(new_app, name="new")
app.add_typer(cache_app, name="cache")
app.add_typer(bench_app, name="bench")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; allowed anywhere.")] = False,
) -> None:
    """Benchmark and ablate selective knowledge distillation of language models."""
    # `main` takes --debug out of the arguments before they are parsed, so that it may stand anywhere.


@app.command()
def run(
    grid: GridFile,
    results: ResultsFolder = Path("results"),
    reports: Reports = None,
    workload: WorkloadName = None,
    settings: Settings = None,
    split: SplitName = None,
    seeds: Seeds = None,
    only: Only = None,
    decide: Decide = None,
    tune: Tunes = False,
    sample: Sample = None,
    diagnostics: DiagnosticsEvery = None,
    teacher: HowTaught = None,
    plugin: Plugins = None,
    force: Annotated[bool, typer.Option("--force", help="Run finished trials again.")] = False,
    fresh: Fresh = False,
    rebuild: Rebuild = False,
    accept_checkpoints: AcceptCheckpoints = False,
    checkpoint_every: CheckpointEvery = "10m",
    deterministic: Deterministic = False,
    keep_students: KeepStudents = False,
    address: Address = None,
    mirror: MirrorUri = None,
    track: Trackers = None,
    cpu: OnCpu = False,
    pdf: Pdf = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the plan, run nothing.")] = False,
) -> None:
    """Run the missing trials of a grid, then write and print its report."""
    check_whole(tune=tune, only=only, seeds=seeds, decide=decide)
    overrides = parse_settings(settings or ())
    take_arithmetic(workload or str(grid), overrides)
    from harness.config.plugins import load_plugins
    from harness.run.needs import check_needs
    from harness.run.options import Options, parse_trackers
    from harness.run.plan import make_plan
    from harness.run.run import sync_mirror
    from harness.trial.checkpoint import parse_interval

    terminal = console()
    load_plugins(plugin or ())
    check_writable(results, reports or results)
    place = Results.at(results, mirror)
    if not dry_run:
        sync_mirror(place, terminal)
    options = Options(
        checkpoint_every=parse_interval(checkpoint_every),
        deterministic=deterministic,
        keep_students=keep_students,
        address=address,
        trackers=parse_trackers(track or ("tensorboard",)),
        fresh=fresh,
        rebuild=rebuild,
        accept_checkpoints=accept_checkpoints,
        cpu=cpu,
        pdf=pdf,
    )
    ask = partial(
        make_plan,
        grid,
        place,
        workload=workload,
        overrides=overrides,
        split=split,
        seeds=parse_seeds(seeds),
        labels=tuple(only or ()),
        decide=decide,
        sample=sample,
        diagnostics=diagnostics,
        teacher=teacher,
        cpu=cpu,
        force=force or fresh,
        rebuild=rebuild,
        admit=None if dry_run else partial(check_needs, results=place, options=options),
    )
    raise typer.Exit(
        code=carry_out(ask, place, reports or place.reports, terminal, options, tune=tune, dry_run=dry_run)
    )


@app.command()
def plan(
    grid: Annotated[
        Path | None,
        typer.Argument(help="Grid file; without one, the paper's main strategies on --workload.", metavar="[GRID]"),
    ] = None,
    results: ResultsFolder = Path("results"),
    workload: WorkloadName = None,
    settings: Settings = None,
    split: SplitName = None,
    seeds: Seeds = None,
    only: Only = None,
    decide: Decide = None,
    tune: Tunes = False,
    sample: Sample = None,
    teacher: HowTaught = None,
    plugin: Plugins = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="What would it take on this GPU? Hours, memory, disk, from shapes alone.", metavar="NAME"),
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(help="Share of the GPU's peak reached; 0.2 (workloads as shipped) if left out.")
    ] = None,
    calibrate: Annotated[
        int, typer.Option(help="Train so many steps on the device that is here: their hours, their peak.", min=0)
    ] = 0,
) -> None:
    """Show what a grid would run, what is finished, and what it would cost; with --gpu, before anything is fetched."""
    from harness.config.plugins import load_plugins

    if mfu is not None and gpu is None:
        raise UserError("--mfu is a share of a GPU's peak: name the GPU with --gpu")
    check_whole(tune=tune, only=only, seeds=seeds, decide=decide)
    overrides = parse_settings(settings or ())
    load_plugins(plugin or ())
    place = Results(results)
    if grid is None or gpu is not None or calibrate:
        from harness.cost.forecast.forecast import MFU
        from harness.cost.forecast.show import forecast_and_print

        part = (split, seeds, only, sample, decide, tune) != (*(None,) * 5, False)
        share = MFU if mfu is None else mfu
        forecast_and_print(
            console(), grid, workload, overrides=overrides, teacher=teacher, gpu=gpu, mfu=share, results=place,
            steps=calibrate, part=part,
        )  # fmt: skip
        return
    from harness.run.plan import make_plan, print_plan
    from harness.run.tune import print_tuned

    labels = tuple(only or ())
    ask = partial(
        make_plan,
        grid,
        place,
        workload=workload,
        overrides=overrides,
        split=split,
        seeds=parse_seeds(seeds),
        labels=labels,
        decide=decide,
        sample=sample,
        teacher=teacher,
    )
    if tune:
        print_tuned(ask, place, console())
    else:
        print_plan(console(), ask(), place)


app.command()(report)
app.command()(claims)
app.command("export-table")(export_table)
app.command()(reproduce)


@app.command()
def export(
    trial: Annotated[str, typer.Argument(help="The trial's id, or how it begins.", metavar="TRIAL")],
    results: ResultsFolder = Path("results"),
    to: Annotated[Path | None, typer.Option(help="A new folder; exports/TRIAL if left out.", metavar="DIR")] = None,
) -> None:
    """Write a trained student's folder for from_pretrained, with a model card; its run kept it (--keep-students)."""
    from harness.records.export import export as export_student

    typer.echo(str(export_student(Results(results), trial, to)))


app.command()(evaluate)


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="signals, policies, classes, samples, criteria, presets or workloads; all if left out."),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """List signals, policies, classes, samples, criteria, presets and workloads, with their papers."""
    from harness.cli.catalogue import print_catalogue
    from harness.config.plugins import load_plugins

    load_plugins(plugin or ())
    print_catalogue(console(), kind)


@app.command()
def doctor(
    workload: Annotated[
        str | None,
        typer.Option(help="Also distil this workload's teacher into itself: the loss must be 0.", metavar="NAME"),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Where fetched models of the workload are; results if left out.", metavar="DIR")
    ] = None,
) -> None:
    """Show versions and devices, and whether the hub can be reached; check a workload's teacher."""
    from harness.cli.doctor import check_workload, examine

    if workload is None and results is not None:
        raise UserError("--results says where a workload's models are: it goes with --workload")
    examine(console())
    if workload is not None:
        check_workload(console(), workload, results or Path("results"))


def main() -> None:
    """Run the command line; the console script's entry point."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
        logging.getLogger("harness").setLevel(logging.DEBUG)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(TERMINATED))
    try:
        app(standalone_mode=True)
    except SystemExit as ended:
        if ended.code in INTERRUPTED:
            typer.echo(f"harness: stopped; to go on: {command_line()}", err=True)
        raise
    except (UserError, UnknownNameError) as error:
        if debug:
            raise
        typer.echo(f"harness: {one_line(str(error))}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        explanation = explain_missing(error)
        if debug or explanation is None:
            raise
        typer.echo(f"harness: {explanation}", err=True)
        sys.exit(2)
