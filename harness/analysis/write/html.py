"""A document as one HTML page that needs nothing else: style, script and figures are inside, and nothing is fetched."""

import base64
import hashlib
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.analysis.document import Cell, Code, Column, Contents, Plot, Table, Text
from harness.analysis.write.marks import legend, sign

# Above this size a figure of many points is smaller as pixels.
SVG_LIMIT_BYTES = 200_000

# Figures are drawn for print, with letters of 8 points; a page is read from farther away.
_PIXELS_PER_INCH = 112

# What a data URL may hold as it is: neither a sign that ends it or starts a fragment, nor one that HTML would escape.
_SAFE = " /:;=,?!()*+@._~$[]-"


@dataclass(frozen=True)
class Image:
    """A figure as the page embeds it: a data URL, and the pixels it is shown at where there is room."""

    url: str
    width: int


def to_html(document: Contents, figures: Path) -> str:
    """Write a whole document as one page.

    The page's content security policy names the hashes of its own style and script, so that nothing else can be loaded
    or run, whatever a label or a message of a failure contains. `figures` holds <name>.png of each figure.
    """
    style, script = _asset("page.css"), _asset("page.js")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            document=document,
            images={plot.name: _image(plot, figures) for plot in document.plots},
            style=style,
            script=script,
            policy=(
                f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
                "base-uri 'none'; form-action 'none'"
            ),
        )
    )


def slug(text: str) -> str:
    """Turn a heading into an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def sort_key(cell: Cell, column: Column) -> str | None:
    """Return what the page sorts a number by, as JavaScript reads it; None for what has no place among numbers."""
    if not column.numeric or cell.value is None or math.isnan(cell.value):
        return None
    if math.isinf(cell.value):
        return "Infinity" if cell.value > 0 else "-Infinity"
    return repr(float(cell.value))


def _image(plot: Plot, figures: Path) -> Image:
    text = plot.vector
    points = re.search(r'<svg [^>]*?width="([\d.]+)pt"', text)
    assert points is not None
    width = round(float(points[1]) / 72 * _PIXELS_PER_INCH)
    if len(text.encode()) <= SVG_LIMIT_BYTES:
        # Percent-encoding keeps the text's repetitions, which base64 would hide from compression.
        return Image(f"data:image/svg+xml,{quote(' '.join(text.split()), safe=_SAFE)}", width)
    pixels = base64.b64encode((figures / f"{plot.name}.png").read_bytes()).decode()
    return Image(f"data:image/png;base64,{pixels}", width)


def _split_unit(heading: str) -> tuple[str, str]:
    """Take the unit out of a heading: "Accuracy (%), published" is "Accuracy, published" in "%"."""
    found = re.fullmatch(r"(.+?) \(([^()]*)\)(.*)", heading)
    return (found[1] + found[3], found[2]) if found else (heading, "")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.analysis.write", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds = {"table": Table, "plot": Plot, "text": Text, "code": Code}
    environment.tests |= {name: lambda block, kind=kind: isinstance(block, kind) for name, kind in kinds.items()}
    environment.filters["slug"] = slug
    environment.globals |= {"sort_key": sort_key, "sign": sign, "legend": legend, "split_unit": _split_unit}
    return environment


def _asset(name: str) -> str:
    return (files("harness.analysis.write") / "page" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
