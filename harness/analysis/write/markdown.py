"""A document as GitHub Markdown."""

import re

from harness.analysis.document import Block, Cell, Code, Column, Contents, Plot, Section, Table, Text
from harness.analysis.write.marks import ARROWS, legend_text, sign

_ANYWHERE = re.compile(r"([\\|*`<\[$~]|(?<!\w)_|_(?!\w)|&(?=#?\w+;))")
_LINE_START = re.compile(r"^([#>+-]|\d{1,9}(?=[.)](?:\s|$)))")


def to_markdown(document: Contents) -> str:
    """Write a whole document; its figures are expected in figures/<name>.png."""
    lead = [f"> {escape(line)}".rstrip() for line in document.lead.strip().splitlines()]
    parts = [f"# {escape(document.title)}", "\n".join(lead)]
    parts += ["\n".join(f"- {escape(name)}: {escape(value)}" for name, value in document.facts)]
    parts += [_section(section) for section in document.sections]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_markdown_table(table: Table) -> str:
    """Write one table with its caption and legend."""
    head = [escape(column.heading) + ARROWS[column.direction] for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[_cell(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]
    note = " ".join(part for part in (escape(table.caption), legend_text(table, bold="**Bold**")) if part)
    return "\n".join([*map(_pipe, (head, rule, *rows)), *(["", note] if note else [])]) + "\n"


def escape(text: str) -> str:
    """Escape what Markdown would read as markup, in one line that may stand in a table cell or begin a paragraph."""
    return _LINE_START.sub(_escape_start, _ANYWHERE.sub(r"\\\1", " ".join(text.split())))


def _escape_start(match: re.Match[str]) -> str:
    # A number is a list's by the dot behind it; the dot is what can be escaped.
    return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"


def _section(section: Section) -> str:
    body = "\n\n".join(_block(block) for block in section.blocks)
    if section.folded:
        body = f"<details>\n<summary>Show</summary>\n\n{body}\n\n</details>"
    return f"## {escape(section.title)}\n\n{body}"


def _block(block: Block) -> str:
    match block:
        case Table():
            return f"### {escape(block.title)}\n\n{to_markdown_table(block).rstrip()}"
        case Plot():
            image = f"![{escape(block.alt)}](figures/{block.name}.png)"
            return f"### {escape(block.title)}\n\n{image}\n\n{escape(block.caption)}"
        case Code():
            return f"```sh\n{block.text.strip()}\n```"
        case Text():
            return _text(block)


def _text(text: Text) -> str:
    lines = [f"- {escape(line)}" if text.points else escape(line) for line in text.lines]
    body = ("\n" if text.points else "\n\n").join(lines)
    if not text.warning:
        return body
    return "\n".join(["> [!WARNING]", *(f"> {line}".rstrip() for line in body.splitlines())])


def _cell(cell: Cell, column: Column) -> str:
    text = " ".join(cell.text.split())
    if column.code and text and "`" not in text:
        return f"`{text}`".replace("|", r"\|")
    text = escape(text)
    if cell.mark == "better":
        return f"**{text}**"
    return f"{text} {sign(cell)}".rstrip()


def _pipe(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
