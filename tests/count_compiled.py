"""Counts the compiled calls of every step of a grid's trials, in a process of its own: shape checks are not compiled.

Arguments: a grid, a results folder, and where processes train together the rank and the file at which they meet. One
process stops each trial in its middle and goes on with it. Prints a list of counts per trial, as JSON.
"""

import functools
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import harness  # noqa: F401 - pins the arithmetic

import torch  # isort: skip

from harness.distill.group import ALONE, Group, joined
from harness.records.layout import Results
from harness.run.attempt import help_run, run_and_write
from harness.run.options import Options
from harness.run.plan import make_plan
from harness.trial.checkpoint import Interval, Stopped
from harness.trial.trial import Trial

STEPS, MIDDLE, OPTIONS = 10, 4, Options(checkpoint_every=Interval())
calls = 0


def backend(graph: Any, _: Any) -> Callable[..., Any]:
    """Run a graph as it was traced, and count; to generate code for it would take a minute."""

    def run(*values: Any) -> Any:
        global calls
        calls += 1
        return graph.forward(*values)

    return run


def main(grid: str, folder: str, rank: str = "0", meeting: str = "") -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.compile = functools.partial(torch.compile, backend=backend)
    results = Results(Path(folder))
    for number, trial in enumerate(make_plan(Path(grid), results).todo):
        together = Path(f"{meeting}-{number}") if meeting else None
        if rank == "0":
            sys.stdout.write(f"{count_steps(trial, results, together)}\n")
        else:
            assert together is not None
            help_run(trial, results, options=OPTIONS, rank=int(rank), meeting=together)


def count_steps(trial: Trial, results: Results, meeting: Path | None) -> list[int]:
    counts, before = list[int](), calls

    def count(*_: object) -> None:
        nonlocal before
        counts.append(calls - before)
        before = calls

    def gather() -> AbstractContextManager[Group]:
        return nullcontext(ALONE) if meeting is None else joined(0, 2, meeting, sharded=True)

    for last in (MIDDLE, STEPS) if meeting is None else (STEPS,):
        with suppress(Stopped):
            stop = functools.partial(lambda last: meeting is None and len(counts) == last, last)
            run_and_write(trial, results, options=OPTIONS, on_step=count, stop=stop, gather=gather)
    return counts


main(*sys.argv[1:])
