"""Squares of numbers between 0 and 1, each written into its cell."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from harness.analysis.figures.style import INK
from harness.analysis.inference import Values


def light() -> Colormap:
    """Return the light part of a perceptually uniform map: black text can be read on all of it."""
    return LinearSegmentedColormap.from_list("light", colormaps["magma_r"](np.linspace(0.0, 0.36, 256)))


def heatmap(figure: Figure, axes: Axes, values: Values, names: list[str], *, size: float, unit: str) -> None:
    """Draw a square of shares with its names on both axes.

    Args:
        figure: where the colour bar goes.
        axes: where to draw.
        values: shape (N, N), in [0, 1]; nan is left white.
        names: of rows and columns, as they are to be written.
        size: of the numbers, points.
        unit: what the colour bar says.
    """
    colors = colormaps["magma_r"]
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colors, vmin=0.0, vmax=1.0, aspect="equal")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = colors(value)
            ink = INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
            axes.text(column, row, _short(float(value)), ha="center", va="center", fontsize=size, color=ink)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=25, pad=0.02)
    bar.set_label(unit)
    bar.outline.set_visible(False)


def _short(value: float) -> str:
    """Two digits without the leading zero, which small cells have no room for."""
    return "1" if value > 0.995 else f"{value:.2f}".removeprefix("0")
