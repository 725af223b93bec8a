"""Squares of numbers between 0 and 1, each written into its cell."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap

from harness.analysis.figures.style import INK
from harness.analysis.inference import Values

_DARK = 0.37  # from this share on the map is dark


def light() -> Colormap:
    """Return the light part of a perceptually uniform map: black text can be read on all of it."""
    return LinearSegmentedColormap.from_list("light", colormaps["magma_r"](np.linspace(0.0, 0.36, 256)))


def heatmap(axes: Axes, values: Values, names: list[str], *, size: float, unit: str) -> None:
    """Draw a square of shares with its names on both axes.

    Args:
        axes: where to draw.
        values: shape (N, N), in [0, 1]; nan is left white.
        names: of rows and columns, as they are to be written.
        size: of the numbers, points.
        unit: what the colour bar says.
    """
    import seaborn  # here: it loads a lot, and most reports have no square

    # Two digits without the leading zero, which small cells have no room for.
    written = [["1" if value > 0.995 else f"{value:.2f}".removeprefix("0") for value in row] for row in values]
    bar = {"label": unit, "shrink": 0.6, "aspect": 25, "pad": 0.02}
    seaborn.heatmap(
        values, ax=axes, vmin=0.0, vmax=1.0, cmap="magma_r", square=True, annot=written, fmt="",
        annot_kws={"fontsize": size}, xticklabels=names, yticklabels=names, cbar_kws=bar,
    )  # fmt: skip
    # Seaborn turns to white ink earlier, on oranges where dark ink has twice the contrast.
    for text, value in zip(axes.texts, values[np.isfinite(values)], strict=True):
        text.set_color(INK if value < _DARK else "white")
    axes.tick_params(length=0)
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(axis="y", rotation=0)
