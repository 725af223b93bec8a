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
    """One column of a table."""

    heading: str  # printed name with its unit, e.g. "Accuracy (%)"
    direction: Direction | None = None  # which way is better, None where neither is
    numeric: bool = True  # whether cells are numbers: aligned right, and sorted by value
    code: bool = False  # whether cells are ids, hashes or file names, which are printed in a typewriter face


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One printed value."""

    text: str  # the value in its printed unit, an em dash where there is none
    value: float | None = None  # what it is sorted by; None sorts last
    mark: Verdict | None = None  # how it compares with the table's baseline; None for one that is not compared
    hint: str = ""  # shown where a format can (a tooltip), e.g. the interval behind a mark


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table."""

    name: str  # its file's stem; a slug, unique in the document
    title: str  # a few words
    columns: tuple[Column, ...]  # the columns; the first one names the rows
    rows: tuple[tuple[Cell, ...], ...]  # one tuple of cells per row, as long as `columns`
    caption: str  # what a reader must know to read it, the rule behind its marks included
    numbers: pd.DataFrame  # the numbers behind it, unrounded and tidy, for the CSV file


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure."""

    name: str  # its files' stem; a slug, unique in the document
    title: str  # a few words
    caption: str  # what is shown, what bars and bands mean, where the numbers come from
    alt: str  # what a reader who cannot see it should know
    figure: Figure | None = None  # the drawing; None once it is saved
    vector: str = ""  # the drawing as SVG, once it is saved


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
    """A whole report."""

    title: str  # the grid's name
    lead: str  # the question it was run to answer
    # what a reader asks first, as pairs of name and value: workload, split, trials, seeds, baseline
    facts: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...]  # in reading order

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every table, in reading order."""
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Table))

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Every figure, in reading order."""
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Plot))
