"""`harness bench`: commands without logic. Nothing heavy is imported before one is called."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.shared import Plugins, command_line, console, typed_options
from harness.config.errors import UserError

if TYPE_CHECKING:
    from harness.cost.bench.output import Output

bench_app = typer.Typer(
    help="What selection saves: memory, operations, seconds and storage of the paper's variants.",
    invoke_without_command=True,
)


class Optimizer(StrEnum):
    """Whose state is accounted for."""

    NONE = "none"
    ADAMW = "adamw"
    ADAMW_8BIT = "adamw_8bit"


Reports = Annotated[Path, typer.Option(help="Where csv, page, figure and json are written.", metavar="DIR")]
PairName = Annotated[str, typer.Option(help="Pair of shapes.", metavar="NAME")]
Pairs = Annotated[
    str, typer.Option(help="Pairs of shapes (harness/cost/shapes.yaml), e.g. medium,large.", metavar="NAMES")
]
BatchSize = Annotated[int, typer.Option(help="Sequences of a micro-batch.", min=1)]
Length = Annotated[int, typer.Option(help="Tokens of a sequence.", min=2)]
LogitMemory = Annotated[int, typer.Option(help="MiB that a chunk of logits may occupy.", min=1)]
Threads = Annotated[int, typer.Option(help="Threads; 0 for torch's own choice.", min=0)]
Rounds = Annotated[int, typer.Option(help="Rounds that count.", min=1)]
OptimizerName = Annotated[Optimizer, typer.Option("--optimizer", help="Optimiser that the table and figure show.")]

EFFICIENCY = Path("results/reports/efficiency")  # the committed ones: --reports reports/efficiency


@bench_app.callback()
def bench(
    context: typer.Context,
    paper_scale: Annotated[
        bool, typer.Option("--paper-scale", help="Run Qwen3-8B and Qwen3-1.7B with random weights on a GPU.")
    ] = False,
    reports: Reports = EFFICIENCY,
    optimizer: OptimizerName = Optimizer.ADAMW,
    steps: Annotated[int, typer.Option(help="Steps that are timed, with --paper-scale.", min=1)] = 5,
) -> None:
    """What selection saves: memory, operations, seconds and storage of the paper's variants."""
    options = typed_options(context)
    if context.invoked_subcommand is not None:
        if options:
            named, command = ", ".join(options), context.invoked_subcommand
            raise UserError(
                f"{named} before {command} would do nothing: write it after, harness bench {command} {named}"
            )
        return
    if not paper_scale:
        if options:
            raise UserError(f"{', '.join(options)}: without a command, these go with --paper-scale only")
        typer.echo(context.get_help())
        raise typer.Exit
    from harness.cost.bench.run import run_paper_scale

    run_paper_scale(_output(reports), optimizer=optimizer.value, steps=steps)


@bench_app.command()
def memory(
    pair: PairName = "qwen3",
    batch_size: BatchSize = 2,
    length: Length = 512,
    logit_memory_mib: LogitMemory = 256,
    optimizer: OptimizerName = Optimizer.ADAMW_8BIT,
    reports: Reports = EFFICIENCY,
) -> None:
    """Count the peak bytes of a step by category, on tensors without storage; nothing is downloaded or allocated."""
    from harness.cost.bench.run import run_memory

    size = (batch_size, length)
    run_memory(_output(reports), pair=pair, size=size, logit_memory_mib=logit_memory_mib, optimizer=optimizer.value)


@bench_app.command()
def trace(
    pair: PairName = "qwen3",
    batch_size: BatchSize = 2,
    length: Length = 512,
    logit_memory_mib: LogitMemory = 256,
    reports: Reports = EFFICIENCY,
) -> None:
    """Trace the bytes over a step by category, on tensors without storage."""
    from harness.cost.bench.run import run_trace

    run_trace(_output(reports), pair=pair, size=(batch_size, length), logit_memory_mib=logit_memory_mib)


@bench_app.command()
def flops(
    pair: PairName = "qwen3",
    batch_size: BatchSize = 2,
    length: Length = 512,
    reports: Reports = EFFICIENCY,
) -> None:
    """Count the operations of a step, beside what the arithmetic says."""
    from harness.cost.bench.run import run_flops

    run_flops(_output(reports), pair=pair, size=(batch_size, length))


@bench_app.command()
def scaling(
    pair: PairName = "qwen3",
    sizes: Annotated[
        str | None, typer.Option(help="Batches by sequences x tokens, e.g. 2x512,16x512.", metavar="BxL,BxL")
    ] = None,
    logit_memory_mib: LogitMemory = 256,
    reports: Reports = EFFICIENCY,
) -> None:
    """Count how the memory of a step grows with the positions of a batch."""
    from harness.cost.bench.run import run_scaling

    run_scaling(_output(reports), pair=pair, sizes=sizes, logit_memory_mib=logit_memory_mib)


@bench_app.command()
def step(
    pairs: Pairs = "medium,large",
    batch_size: BatchSize = 4,
    length: Length = 256,
    logit_memory_mib: LogitMemory = 64,
    rounds: Rounds = 9,
    threads: Threads = 0,
    reports: Reports = EFFICIENCY,
) -> None:
    """Time a step of every variant, side by side."""
    from harness.cost.bench.run import run_step

    output, size = _output(reports, threads), (batch_size, length)
    run_step(output, pairs=pairs, size=size, logit_memory_mib=logit_memory_mib, rounds=rounds)


@bench_app.command()
def grid(
    file: Annotated[Path, typer.Argument(help="Grid whose trained strategies are taken.", metavar="GRID")] = Path(
        "grids/position_axis.yaml"
    ),
    pairs: Pairs = "medium",
    counted: Annotated[
        str, typer.Option(help="Pair of shapes that operations are counted for.", metavar="NAME")
    ] = "qwen3",
    batch_size: BatchSize = 4,
    length: Length = 128,
    sequences: Annotated[int, typer.Option(help="Training sequences of the timed grid.", min=1)] = 32,
    logit_memory_mib: LogitMemory = 64,
    threads: Threads = 0,
    plugin: Plugins = None,
    reports: Reports = EFFICIENCY,
) -> None:
    """Compare a grid that shares the teacher's hidden states with its student-only work, in operations and seconds."""
    from harness.config.plugins import load_plugins
    from harness.cost.bench.run import run_grid

    load_plugins(plugin or ())
    run_grid(
        _output(reports, threads),
        file=file,
        pairs=pairs,
        counted=counted,
        size=(batch_size, length),
        sequences=sequences,
        logit_memory_mib=logit_memory_mib,
    )


@bench_app.command()
def storage(
    pair: PairName = "qwen3",
    rows: Annotated[int, typer.Option(help="Made-up rows that draws are stored of.", min=1)] = 1024,
    reports: Reports = EFFICIENCY,
) -> None:
    """Measure the bytes of a stored token, and what they make of 100 billion tokens."""
    from harness.cost.bench.run import run_storage

    run_storage(_output(reports), pair=pair, rows=rows)


def _output(reports: Path, threads: int = 0) -> "Output":
    """Return where results go, and run on so many threads from here on, on torch's own choice if 0."""
    import torch

    from harness.cost.bench.output import Output

    if threads:
        torch.set_num_threads(threads)
    return Output(console=console(), folder=reports, command=command_line())
