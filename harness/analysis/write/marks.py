"""How a verdict is shown: the same signs in every format, and a legend of those a table uses."""

from harness.analysis.document import Cell, Table
from harness.analysis.metrics import Verdict

# Better is set in bold instead: by `Bold`, whatever the format calls it.
SIGNS: dict[Verdict, str] = {"worse": "†", "different": "‡", "not distinguishable": "≈"}

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


def sign(cell: Cell) -> str:
    """Return the sign behind a cell's text, empty where there is none."""
    return SIGNS.get(cell.mark, "") if cell.mark else ""


def legend(table: Table) -> tuple[tuple[str, str], ...]:
    """Explain the signs that a table uses.

    Returns:
        Pairs of sign and meaning, in a fixed order; the sign of better is empty, for the format to fill in.
    """
    used = {cell.mark for row in table.rows for cell in row}
    pairs = [("", "better")] if "better" in used else []
    pairs += [(text, mark) for mark, text in SIGNS.items() if mark in used]
    if pairs or "untested" in used:
        pairs.append(("unmarked", "not compared, or too few seeds to tell" if "untested" in used else "not compared"))
    return tuple(pairs)


def legend_text(table: Table, *, bold: str) -> str:
    """Write the legend as a sentence, empty for a table without marks; `bold` is how the format names better."""
    pairs = legend(table)
    return "; ".join(f"{text or bold}: {meaning}" for text, meaning in pairs) + "." if pairs else ""
