"""Which positions each strategy keeps of the same held-out text: in order, as text, and sorted by entropy."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from harness.analysis.document import Plot
from harness.analysis.figures.glyphs import printable, wrapped
from harness.analysis.figures.selection import OWN, Block, Shown, draw_text, looks, missing, written
from harness.analysis.figures.source import listing
from harness.analysis.figures.style import BLUE, ORANGE, multiples
from harness.analysis.read import Run

# More would be a page that nobody compares.
MOST = 8


def make(run: Run) -> tuple[Plot, ...]:
    """Draw the strategies that leave positions out side by side, if there are two; of many, one of each policy."""
    shown = looks(run)
    same = [each for each in shown if list(each.tokens["token"]) == list(shown[0].tokens["token"])]
    chosen = same if len(same) <= MOST else _one_of_each(same, run)
    return () if len(chosen) < 2 else (_in_order(chosen), _sorted(chosen))


def _one_of_each(shown: Sequence[Shown], run: Run) -> list[Shown]:
    first = dict[str, Shown]()
    for each in shown:
        policy = run.methods[each.label].policy
        first.setdefault("" if policy is None else policy.name, each)
    return list(first.values())[:MOST]


def _in_order(shown: Sequence[Shown]) -> Plot:
    texts = written(shown[0])
    figure, num = draw_text(
        texts,
        [
            Block(
                title=printable(each.label),
                nats=each.tokens["nats"].to_numpy(float),
                weights=each.tokens[OWN].to_numpy(float),
            )
            for each in shown
        ],
    )
    return Plot(
        name="kept-text",
        title="Which positions each strategy keeps",
        caption=f"{_where(shown)} Every token is coloured by the entropy of the strategy's own student at the position "
        "that predicts it, and outlined where the strategy keeps that position, thinner where it weighs less."
        f"{missing(num, len(texts))}",
        alt=f"The same {num} tokens once per strategy: {listing([each.label for each in shown])}.",
        figure=figure,
    )


def _sorted(shown: Sequence[Shown]) -> Plot:
    columns = 2
    rows = -(-len(shown) // columns)
    figure, panels = multiples((7.2, 2.1 * rows + 0.3), columns, len(shown), sharex=True, sharey=True)
    means = dict[str, float]()
    for axes, each in zip(panels, shown, strict=True):
        ranked = each.tokens[each.tokens["nats"].notna()].sort_values("nats", kind="stable")
        nats, weights = ranked["nats"].to_numpy(float), ranked[OWN].to_numpy(float)
        places = np.arange(len(nats))
        axes.fill_between(places, nats, color="#fde5d8", linewidth=0, step="mid")
        axes.step(places, nats, where="mid", color=ORANGE, linewidth=1.1)
        below, most = axes.twinx(), float(weights.max(initial=1.0))
        below.bar(places, weights, width=0.9, color=BLUE)
        below.set(ylim=(0, 5 * most), yticks=(0, most))
        mean = means[each.label] = float(np.average(nats, weights=weights))
        share = f"{(weights > 0).mean():.0%} of the positions, mean {mean:.2f} nats"
        axes.set_title(f"{wrapped(each.label, 48)}\n{share}", loc="left")
    highest = max(float(each.tokens["nats"].max()) for each in shown)
    for axes in panels:
        # Bars stand below the curve, where there is no entropy.
        axes.set_yticks(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, highest))
        axes.set_ylim(-0.3 * highest, 1.02 * highest)
    for axes in panels[::columns]:
        axes.set_ylabel("Student entropy (nats)")
    for axes in panels[-columns:]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("Positions, least uncertain first")
    high, low = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return Plot(
        name="kept-sorted",
        title="What each strategy keeps, by its student's entropy",
        caption=f"{_where(shown)} Positions sorted by the entropy of the strategy's own student (curve). Bars, scale "
        "on the right: the weight that the strategy gives a position, how often it is drawn where positions are drawn; "
        "means are weighted by it.",
        alt=f"{high} keeps the most uncertain positions, with a mean of {means[high]:.2f} nats, {low} the least "
        f"uncertain ones, with {means[low]:.2f}.",
        figure=figure,
    )


def _where(shown: Sequence[Shown]) -> str:
    steps = sorted({each.step for each in shown})
    return f"Held-out sequence {shown[0].sequence} at step {listing([str(step) for step in steps])} of each strategy."
