"""Every figure that a grid's records can fill, drawn with matplotlib from data frames."""

import gc
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness.analysis.document import Plot
from harness.analysis.figures import (
    cost,
    curves,
    dots,
    kept,
    overlap,
    reliability,
    samples,
    selection,
    sweep,
    tokens,
    trade,
)  # fmt: skip
from harness.analysis.figures.style import drawing, save
from harness.analysis.read import Run

# Each looks at what there is and returns the figures it can make of it, often none.
Maker = Callable[[Run], tuple[Plot, ...]]

# In reading order.
MAKERS: tuple[Maker, ...] = (
    dots.make, sweep.make, trade.make, cost.make, curves.make, reliability.make, selection.make, kept.make,
    overlap.make, tokens.make, samples.make,
)  # fmt: skip

# What a process that draws was forked with: a whole run, which is not to be sent with every figure.
_OWN: list[Callable[[Maker], tuple[Plot, ...]]] = []


@contextmanager
def saving(run: Run, folder: Path, *, pdf: bool = False) -> Iterator[Callable[[], tuple[Plot, ...]]]:
    """Draw and save every figure that a grid's records can fill, beside the block, in processes of their own.

    Where none can be spared they are drawn when they are asked for; the bytes are the same whoever draws.

    Yields:
        What waits for the figures and returns them in reading order, as `style.save` leaves them.
    """
    draw = partial(_draw, run, folder, pdf)
    # A copy of a process whose other threads hold locks, as Ray's do, may wait for them for ever.
    alone = threading.active_count() == 1 and "ray" not in sys.modules
    if not alone or (os.cpu_count() or 1) == 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield lambda: tuple(plot for make in MAKERS for plot in draw(make))
        return
    _ = run.points, run.methods  # Computed here, they are known to every process.
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(min(os.cpu_count() or 1, len(MAKERS)), fork, initializer=_begin, initargs=(draw,))
    try:
        parts = pool.map(_drawn, range(len(MAKERS)))
        yield lambda: tuple(plot for part in parts for plot in part)
    finally:
        pool.shutdown(cancel_futures=True)


def _draw(run: Run, folder: Path, pdf: bool, make: Maker) -> tuple[Plot, ...]:
    with drawing():
        return tuple(save(plot, folder, pdf=pdf) for plot in make(run))


def _begin(draw: Callable[[Maker], tuple[Plot, ...]]) -> None:
    # Figures are many objects that refer to each other; a process this short need not look for those that are lost.
    gc.disable()
    _OWN.append(draw)


def _drawn(place: int) -> tuple[Plot, ...]:
    return _OWN[-1](MAKERS[place])
