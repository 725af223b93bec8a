"""Texts as a figure can show them: spaces and line ends visible, and nothing that the font has no glyph for."""

import textwrap
import unicodedata
from functools import cache

from matplotlib import font_manager

# Both come with matplotlib.
SANS, MONO = "DejaVu Sans", "DejaVu Sans Mono"

_VISIBLE = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def printable(text: str, *, font: str = SANS) -> str:
    """Write characters that the font lacks, or that cannot be seen, by their code point, as escapes."""
    known = _known(font)
    return "".join(char if ord(char) in known and _seen(char) else _code(char) for char in text)


def wrapped(text: str, width: int) -> str:
    """Return a printable text in lines of at most so many characters; a word that is longer is broken too."""
    return textwrap.fill(printable(text), width)


def token(text: str, *, font: str = MONO) -> str:
    """Return a token with its white space visible: a space as ·, a line end as ⏎, a tab as ⇥."""
    return printable("".join(_VISIBLE.get(char, char) for char in text), font=font)


@cache
def _known(font: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(font, fallback_to_default=False)).get_charmap())


def _seen(char: str) -> bool:
    """Whether a character takes a place of its own, from left to right: no controls, no combining marks."""
    if char == " ":
        return True
    return unicodedata.category(char)[0] not in "CMZ" and unicodedata.bidirectional(char) not in {"R", "AL"}


def _code(char: str) -> str:
    return f"\\u{ord(char):04x}"
