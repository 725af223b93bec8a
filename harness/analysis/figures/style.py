"""What all figures share: fonts, colours that survive colour deficiencies and greyscale, and how they are saved."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Literal

from matplotlib import rcParams, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from harness.analysis.document import Plot

_PRINT = 200  # dots per inch
# As many as a PNG's palette holds: a third of the bytes, and no difference that a reader sees.
_COLOURS = 256
# What a file of each kind does not say of itself: when it was written, and by what.
_UNSAID = {"svg": ("Date", "Creator"), "pdf": ("CreationDate", "Creator", "Producer")}

INK, FAINT = "#333333", "#e6e6e6"

# Okabe and Ito's palette; the markers repeat the distinction where there is no colour.
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "text.parse_math": False,  # a label may contain a dollar sign
    "svg.hashsalt": "harness.analysis",
    "pdf.fonttype": 42,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Enter the style in which every figure is drawn and saved; within it, entering it again costs nothing."""
    if rcParams["svg.hashsalt"] == STYLE["svg.hashsalt"]:
        yield
        return
    with style.context(["default", STYLE]):
        yield


def settle(figure: Figure) -> None:
    """Lay a figure out once and for all: constrained layout would move things a little, and slowly, at every drawing.

    Texts are measured as they are printed: on a screen's coarse pixels their letters stand closer.
    """
    engine = figure.get_layout_engine()
    if engine is None:
        return
    dpi = figure.dpi
    figure.set_dpi(_PRINT)
    engine.execute(figure)
    # Not "none", whose placeholder has every figure drawn twice.
    figure.set_layout_engine(None)
    figure.set_dpi(dpi)


def save(plot: Plot, folder: Path, *, pdf: bool = False) -> Plot:
    """Write <name>.png, and .pdf if asked for; the same figure gives the same bytes.

    Returns:
        The plot as SVG, for pages, without its drawing.
    """
    assert plot.figure is not None
    folder.mkdir(parents=True, exist_ok=True)
    with drawing():
        settle(plot.figure)
        vector, pixels = StringIO(), BytesIO()
        plot.figure.savefig(vector, format="svg", metadata=dict.fromkeys(_UNSAID["svg"]))
        plot.figure.savefig(pixels, format="png", dpi=_PRINT, pil_kwargs={"compress_level": 1})
        if pdf:
            plot.figure.savefig(folder / f"{plot.name}.pdf", metadata=dict.fromkeys(_UNSAID["pdf"]))
    with Image.open(pixels) as image:
        few = image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    few.save(folder / f"{plot.name}.png", optimize=True, dpi=(_PRINT, _PRINT))
    return replace(plot, figure=None, vector=vector.getvalue())


def multiples(
    size: tuple[float, float],
    columns: int,
    num: int | None = None,
    *,
    sharex: bool = False,
    sharey: bool | Literal["row"] = False,
) -> tuple[Figure, list[Axes]]:
    """Return a figure of this size in inches and its panels: one row, or `num` in rows, the last perhaps short."""
    figure = Figure(figsize=size, layout="constrained")
    num = num or columns
    grid = figure.subplots(-(-num // columns), columns, sharex=sharex, sharey=sharey, squeeze=False).ravel()
    for axes in grid[num:]:
        axes.set_visible(False)
    return figure, list(grid[:num])


def list_rows(axes: Axes, ticks: Sequence[str]) -> None:
    """Name rows of equal height, the first on top."""
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_ylim(len(ticks) - 0.5, -0.5)
