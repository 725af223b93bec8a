"""How the training loss falls: one small panel per strategy, all on the same axes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from harness.analysis.document import Plot
from harness.analysis.figures.glyphs import wrapped
from harness.analysis.figures.marks import counted, legend_below, span
from harness.analysis.figures.style import BLUE, GREY, INK, ORANGE, multiples
from harness.analysis.inference import Values
from harness.analysis.read import Run

_MOST = 40  # panels; a figure of more is not read
_COLUMNS = 4
_DRAWN = 600  # steps of a curve
_LOG_ABOVE = 10.0  # ratio of the largest to the least loss from which on an axis is logarithmic
_MANY_TICKS_UP_TO = 50.0  # the same ratio, up to which 2 and 5 have ticks beside the powers of ten
_DEEPEST = 1000.0  # the same ratio, beyond which one nearly vanishing loss would flatten all the others


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One strategy's loss in nats, smoothed; T steps, S seeds."""

    steps: Values  # shape (T,)
    seeds: Values  # shape (S, T); nan where a trial has no finite value
    mean: Values  # shape (T,), over the seeds that have a finite value at that step
    ended: tuple[int | None, ...]  # of each seed, the first step without a finite loss


def make(run: Run) -> tuple[Plot, ...]:
    """Draw the loss of every strategy that left a curve."""
    table = run.frames.tables.get("curve")
    if table is None or table.empty:
        return ()
    window = smoothing(table)
    by_label = dict(iter(table.groupby("label", sort=False)))
    curves = {name: curve(by_label[name], window) for name in run.labels if name in by_label}
    shown = dict(list(curves.items())[:_MOST])
    left_out = f" The first {_MOST} of {len(curves)} strategies are shown." if len(curves) > _MOST else ""
    values = _finite(shown)
    cut = ""
    if values.size and 0 < values.min() < values.max() / _DEEPEST:
        floor = float(values.max() / _DEEPEST)
        cut = f" Losses below {floor:.2g} are drawn at {floor:.2g}."
        shown = {
            name: replace(one, seeds=one.seeds.clip(min=floor), mean=one.mean.clip(min=floor))
            for name, one in shown.items()
        }
    trials = span(len(one.seeds) for one in shown.values())
    return (
        Plot(
            name="loss_curves",
            title="Training loss",
            caption=f"Loss of each optimiser step, mean of the {window} step(s) up to it; thick: mean over {trials} "
            "trial(s) per strategy, one per seed, faint: single trials, a cross where one stops being finite. Each "
            "strategy minimises its own loss over its own positions: the curves show whether it trained, their "
            f"heights are no ranking.{left_out}{cut}",
            alt=_alt({name: curves[name] for name in shown}),
            figure=_draw(shown, run),
        ),
    )


def _finite(curves: Mapping[str, Curve]) -> Values:
    values = np.concatenate([one.seeds.ravel() for one in curves.values()])
    return np.asarray(values[np.isfinite(values)])


def smoothing(table: pd.DataFrame) -> int:
    """Return over how many steps a grid's curves are averaged: a fiftieth of the longest, at least one."""
    return max(1, int(table.groupby("trial_id").size().max()) // 50)


def curve(rows: pd.DataFrame, window: int) -> Curve:
    """Smooth one strategy's trials by a trailing mean and average them.

    A trial's value counts from its first step on, over as many steps as there are; nothing is shown at a step whose own
    loss is not finite, and such a loss enters no mean.
    """
    losses = rows.pivot(index="step", columns="trial_id", values="loss_nats").astype("float64").where(np.isfinite)
    smooth = losses.rolling(window, min_periods=1).mean().where(losses.notna())
    trials = list(rows["trial_id"].unique())
    broken = rows[~np.isfinite(rows["loss_nats"].astype("float64"))].groupby("trial_id")["step"].min()
    return Curve(
        steps=smooth.index.to_numpy(dtype=np.float64),
        seeds=smooth[trials].to_numpy(dtype=np.float64).T,
        mean=smooth[trials].mean(axis=1).to_numpy(dtype=np.float64),
        ended=tuple(int(broken[trial]) if trial in broken else None for trial in trials),
    )


def _draw(found: Mapping[str, Curve], run: Run) -> Figure:
    columns = min(_COLUMNS, len(found))
    values = _finite(found)
    baseline = found.get(run.manifest.baseline or "")
    size = max(3.6, 1.85 * columns + 0.5), 1.4 * -(-len(found) // columns) + 0.9
    figure, panels = multiples(size, columns, len(found), sharex=True, sharey=True)
    for axes, (name, one) in zip(panels, found.items(), strict=True):
        own = name == run.manifest.baseline
        if baseline is not None and not own:
            some = drawn(len(baseline.steps))
            x, y = baseline.steps[some], baseline.mean[some]
            axes.plot(x, y, color=GREY, linewidth=0.9, linestyle=(0, (4, 1.5)), zorder=2)
        _panel(axes, one, ORANGE if own else BLUE)
        axes.set_title(counted(run, name, len(one.seeds)), fontsize=7)
    # The lowest panel of each column carries the steps, also where the last row is not full.
    for place in range(columns):
        lowest = panels[max(range(place, len(found), columns))]
        lowest.tick_params(axis="x", labelbottom=True)
        lowest.set_xlabel("Optimiser step")
    for axes in panels[::columns]:
        axes.set_ylabel("Loss (nats)")
    if values.size and values.min() > 0 and values.max() / values.min() > _LOG_ABOVE:
        panels[0].set_yscale("log")
        # Plain numbers: mathematical notation is off, because a label may contain a dollar sign.
        few = values.max() / values.min() > _MANY_TICKS_UP_TO
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
        panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panels[0].yaxis.set_minor_locator(NullLocator())
    handles = [Line2D([], [], color=BLUE, linewidth=1.3, label="mean over seeds")]
    handles += [Line2D([], [], color=BLUE, linewidth=0.6, alpha=0.4, label="single seeds")]
    if baseline is not None:
        text = wrapped(f"{run.manifest.baseline} (baseline)", 40)
        handles.append(Line2D([], [], color=GREY, linestyle=(0, (4, 1.5)), label=text))
    legend_below(figure, handles)
    return figure


def drawn(num: int) -> npt.NDArray[np.intp]:
    """Return which of a curve's steps are drawn: at most about 600, the last one always.

    That is twelve to each stretch that is averaged over, and a file that a page can hold after ten thousand steps.
    """
    stride = -(-num // _DRAWN)
    return np.unique([*range(0, num, stride), num - 1])


def _panel(axes: Axes, one: Curve, color: str) -> None:
    some = drawn(len(one.steps))
    for seed, ended in zip(one.seeds, one.ended, strict=True):
        axes.plot(one.steps[some], seed[some], color=color, linewidth=0.6, alpha=0.4, zorder=3)
        before = np.flatnonzero(np.isfinite(seed) & (one.steps < (np.inf if ended is None else ended)))
        if ended is not None and before.size:
            axes.plot(one.steps[before[-1]], seed[before[-1]], "x", color=INK, markersize=5, zorder=5)
    if not np.isfinite(one.mean).any():
        axes.text(0.5, 0.5, "not finite", transform=axes.transAxes, ha="center", fontsize=7, color=color)
    axes.plot(one.steps[some], one.mean[some], color=color, linewidth=1.3, zorder=4)
    axes.grid()


def _alt(found: Mapping[str, Curve]) -> str:
    told = []
    for name, one in found.items():
        kept = one.mean[np.isfinite(one.mean)]
        fall = f"from {kept[0]:.3g} to {kept[-1]:.3g}" if kept.size else "never finite"
        broken = sum(ended is not None for ended in one.ended)
        told.append(f"{name} {fall}" + (f", {broken} of {len(one.ended)} trials diverged" if broken else ""))
    return f"Training loss in nats of {len(found)} strategies: {'; '.join(told)}."
