"""Places for text: short labels beside points and at the ends of lines, so that none covers another or a point."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from harness.analysis.figures.style import INK
from harness.analysis.inference import Values

# Directions tried at each distance, the readable ones (right above first) before the others.
_ANGLES = np.deg2rad([35, 145, -35, -145, 90, -90, 0, 180, 15, 60, 120, 165, -15, -60, -120, -165])
_DISTANCES = (8.0, 12.0, 17.0, 23.0, 30.0, 38.0, 47.0, 57.0)  # points
_HALF_MARKER = 3.0  # points
_ROOM = 1.0  # points between a label and anything else


def label_points(
    axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], colors: Sequence[str]
) -> list[Annotation]:
    """Write a short text beside each point, at the nearest place that is free; a line leads back where it is far.

    The layout must be final: limits set and the figure settled.

    Args:
        axes: where the points are.
        points: in data coordinates, inside the panel.
        texts: one per point.
        colors: one per point.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    unit = figure.dpi / 72
    centers = axes.transData.transform(np.asarray(points, dtype=float).reshape(-1, 2))
    inside = np.asarray(axes.get_window_extent().extents).reshape(2, 2)
    # Corners, shape (boxes, 2, 2), in pixels: what is taken starts with the points themselves.
    taken = np.stack([centers - _HALF_MARKER * unit, centers + _HALF_MARKER * unit], axis=1)
    moves = unit * np.array(
        [(far * np.cos(angle), far * np.sin(angle)) for far in _DISTANCES for angle in _ANGLES], dtype=float
    )
    written = []
    for center, text, color in zip(centers, texts, colors, strict=True):
        half = np.array([4.6 * len(text) + 2 * _ROOM, 6.0 + 2 * _ROOM]) * unit / 2
        boxes = np.stack([center + moves - half, center + moves + half], axis=1)
        outside = 4 * half[0] * half[1] - _common(boxes, inside[None])[:, 0]
        # Where nothing is free, the place that covers least.
        best = int(np.argmin(np.round(_common(boxes, taken).sum(axis=1) + outside, 6)))
        taken = np.concatenate([taken, boxes[best : best + 1]])
        distance, spot = _DISTANCES[best // len(_ANGLES)], center + moves[best]
        arrow = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2.5}
        written.append(
            axes.annotate(
                text,
                xy=tuple(axes.transData.inverted().transform(center)),
                xytext=tuple((spot - center) / unit),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=6.5,
                color=color,
                arrowprops=arrow if distance > _DISTANCES[0] else None,
                zorder=6,
            )
        )
    return written


def _common(boxes: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the area that each box shares with each other one, shape (boxes, others)."""
    low = np.maximum(boxes[:, None, 0], others[None, :, 0])
    high = np.minimum(boxes[:, None, 1], others[None, :, 1])
    return np.asarray(np.clip(high - low, 0.0, None).prod(axis=-1))


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
