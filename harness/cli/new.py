"""`harness new`: commands without logic."""

from pathlib import Path
from typing import Annotated

import typer

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
    _scaffold("signal", name, plugin, grid, no_grid=no_grid)


@new_app.command("policy")
def new_policy(name: NewName, plugin: NewPlugin = None, grid: NewGrid = None, no_grid: NoGrid = False) -> None:
    """Write a policy file and its test, and add the policy to a grid (grids/policy_axis.yaml)."""
    _scaffold("policy", name, plugin, grid, no_grid=no_grid)


@new_app.command("criterion")
def new_criterion(name: NewName, plugin: NewPlugin = None, grid: NewGrid = None, no_grid: NoGrid = False) -> None:
    """Write a criterion file and its test, and add the criterion to a grid (grids/criterion_axis.yaml)."""
    _scaffold("criterion", name, plugin, grid, no_grid=no_grid)


def _scaffold(kind: str, name: str, plugin: Path | None, grid: Path | None, *, no_grid: bool) -> None:
    from harness.cli.scaffold import new_component, new_plugin
    from harness.config.plugins import load_plugins

    load_plugins()
    made = (
        new_component(kind, name, grid=grid, no_grid=no_grid)
        if plugin is None
        else new_plugin(kind, name, plugin, grid=grid, no_grid=no_grid)
    )
    for line in made:
        typer.echo(line)
