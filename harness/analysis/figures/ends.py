"""Names at the right ends of lines, moved apart where they would lie on one another."""

import numpy as np
from matplotlib.axes import Axes

from harness.analysis.figures.style import INK
from harness.analysis.inference import Values


def label_ends(axes: Axes, ends: list[tuple[float, str, str, str]], *, gap: float, size: float = 7.0) -> None:
    """Write what lines are beside the right edge of their axes, whose limits must be set before.

    Args:
        axes: the axes.
        ends: (last value, text, colour, marker) of each line; no marker is "".
        gap: least distance of two texts, as a share of the axes' height.
        size: of the texts, points.
    """
    low, high = axes.get_ylim()
    ordered = sorted(ends)
    wanted = np.array([(value - low) / (high - low) for value, *_ in ordered])
    for place, want, (_, text, color, marker) in zip(spread(wanted, gap), wanted, ordered, strict=True):
        axes.plot([1.0, 1.035], [want, place], color="#bbbbbb", linewidth=0.6, transform=axes.transAxes, clip_on=False)
        if marker:
            axes.plot(1.06, place, marker, color=color, markersize=3.5, transform=axes.transAxes, clip_on=False)
        start = 1.09 if marker else 1.05
        axes.text(start, place, text, transform=axes.transAxes, ha="left", va="center", fontsize=size, color=INK)


def spread(places: Values, gap: float) -> Values:
    """Return ascending places moved as little as needed to be `gap` apart: groups keep their mean."""
    groups: list[tuple[float, int]] = []
    for place in places:
        groups.append((float(place), 1))
        while len(groups) > 1:
            (below, num_below), (above, num_above) = groups[-2:]
            if above - below >= gap * (num_below + num_above) / 2:
                break
            merged = (below * num_below + above * num_above) / (num_below + num_above)
            groups[-2:] = [(merged, num_below + num_above)]
    return np.array([mean + gap * (rank - (num - 1) / 2) for mean, num in groups for rank in range(num)])
