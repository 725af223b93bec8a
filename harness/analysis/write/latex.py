r"""A table in LaTeX, for booktabs and graphicx (and longtable where it is longer than a page)."""

import re
from collections.abc import Iterable

from harness.analysis.document import Cell, Column, Table
from harness.analysis.write.marks import ARROWS, legend_text, sign

# A float does not break across pages; above this many rows it would run off one.
FLOAT_ROWS = 45

_PLAIN = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}",
    "<": r"\textless{}", ">": r"\textgreater{}", '"': r"\textquotedbl{}", "—": "---", "–": "--", "…": r"\ldots{}",
    "“": "``", "”": "''", "‘": "`", "’": "'", "\u00a0": "~",
}  # fmt: skip
_MATHS = {
    "±": r"\pm", "↑": r"\uparrow", "↓": r"\downarrow", "→": r"\rightarrow", "≈": r"\approx", "≤": r"\leq",
    "≥": r"\geq", "≠": r"\neq", "×": r"\times", "·": r"\cdot", "−": "-", "∞": r"\infty", "∈": r"\in", "†": r"^\dagger",
    "‡": r"^\ddagger", "²": "^2", "°": r"^\circ", "α": r"\alpha", "β": r"\beta", "λ": r"\lambda", "ρ": r"\rho",
    "σ": r"\sigma", "τ": r"\tau", "Δ": r"\Delta",
}  # fmt: skip
_WRITTEN = str.maketrans(_PLAIN | {character: f"${command}$" for character, command in _MATHS.items()})


def to_latex(table: Table) -> str:
    """Write a table, labelled tab:<name>; a float as wide as the page, or one that breaks across pages if long."""
    spec = "".join("r" if column.numeric else "l" for column in table.columns)
    head = _row(escape(column.heading + ARROWS[column.direction]) for column in table.columns)
    body = [_row(_cell(*pair) for pair in zip(row, table.columns, strict=True)) for row in table.rows]
    label = rf"\label{{tab:{re.sub(r'[^A-Za-z0-9:-]+', '-', table.name)}}}"
    caption = rf"\caption{{{_caption(table)}}}"
    lines = _long if len(body) > FLOAT_ROWS else _float
    return "\n".join(lines(spec, head, body, caption, label)) + "\n"


def escape(text: str) -> str:
    """Escape what LaTeX would read as a command, and write signs beyond its fonts as commands."""
    return " ".join(text.split()).translate(_WRITTEN)


def _float(spec: str, head: str, body: list[str], caption: str, label: str) -> list[str]:
    return [
        "% needs booktabs, graphicx",
        r"\begin{table*}",
        r"\centering",
        caption,
        label,
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]


def _long(spec: str, head: str, body: list[str], caption: str, label: str) -> list[str]:
    return [
        "% needs booktabs, longtable",
        r"\begingroup\scriptsize",
        rf"\begin{{longtable}}{{{spec}}}",
        caption + label + r" \\",
        r"\toprule",
        head,
        r"\midrule",
        r"\endfirsthead",
        r"\toprule",
        head,
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
        *body,
        r"\end{longtable}",
        r"\endgroup",
    ]


def _caption(table: Table) -> str:
    legend = escape(legend_text(table, bold="Bold")).replace("Bold:", r"\textbf{Bold}:", 1)
    sentence = escape(table.title).rstrip(".") + "."
    return " ".join(part for part in (sentence, escape(table.caption), legend) if part)


def _cell(cell: Cell, column: Column) -> str:
    text = escape(cell.text)
    if column.code and text:
        return rf"\texttt{{{text}}}"
    if cell.mark == "better":
        return rf"\textbf{{{text}}}"
    return text + escape(sign(cell))


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
