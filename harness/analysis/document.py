"""What a report consists of, before it is written in any format.

A `Contents` holds sections of blocks; `harness.analysis.write` turns one into Markdown, HTML, LaTeX or CSV. Texts here
are plain: whoever writes a format escapes them.
"""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.metrics import Direction, Verdict


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Attributes:
        heading: printed name with its unit, e.g. "Accuracy (%)".
        direction: which way is better, None where neither is.
        numeric: whether cells are numbers: aligned right, and sorted by value.
        code: whether cells are ids, hashes or file names, which are printed in a typewriter face.
    """

    heading: str
    direction: Direction | None = None
    numeric: bool = True
    code: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One printed value.

    Attributes:
        text: the value in its printed unit, an em dash where there is none.
        value: what it is sorted by; None sorts last.
        mark: how it compares with the table's baseline; None for one that is not compared.
        hint: shown where a format can (a tooltip), e.g. the interval behind a mark.
    """

    text: str
    value: float | None = None
    mark: Verdict | None = None
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        name: its file's stem; a slug, unique in the document.
        title: a few words.
        columns: the columns; the first one names the rows.
        rows: one tuple of cells per row, as long as `columns`.
        caption: what a reader must know to read it, the rule behind its marks included.
        numbers: the numbers behind it, unrounded and tidy, for the CSV file.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    numbers: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure.

    Attributes:
        name: its files' stem; a slug, unique in the document.
        title: a few words.
        caption: what is shown, what bars and bands mean, where the numbers come from.
        alt: what a reader who cannot see it should know.
        figure: the drawing; None once it is saved.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure | None = None


@dataclass(frozen=True, kw_only=True)
class Text:
    """Sentences, as paragraphs or as a list of points; a reader must not miss a warning."""

    lines: tuple[str, ...]
    points: bool = False
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Code:
    """Lines to be copied into a terminal or an editor."""

    text: str


Block = Text | Code | Table | Plot


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands under it; a page may show it folded at first."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A whole report.

    Attributes:
        title: the grid's name.
        lead: the question it was run to answer.
        facts: what a reader asks first, as pairs of name and value: workload, split, trials, seeds, baseline.
        sections: in reading order.
    """

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every table, in reading order."""
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Table))

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Every figure, in reading order."""
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Plot))
