"""Pages, links and names in the documentation hold: nothing is spoken of that is not there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import commands

PROJECT = Path(__file__).parents[2]
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md"), *(PROJECT / "tests").glob("*.md")])
# History speaks of what is gone.
SPOKEN = [page for page in PAGES if page.name != "CHANGELOG.md"]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made where it is read."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith("http"):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_reached_from_the_readme() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    for page in (PROJECT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme, page.name


@pytest.mark.parametrize("page", SPOKEN, ids=lambda page: page.name)
def test_every_path_spoken_of_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:harness|strategies|scripts|tests|grids|reports|docs)/[\w./*-]*)`", text):
        # What a run of position_axis writes is there in a checkout too; a pattern must match something.
        assert list(PROJECT.glob(path.rstrip("/"))), f"{page.name}: {path}"


def test_the_page_of_commands_is_what_the_command_line_says() -> None:
    assert commands.FILE.read_text(encoding="utf-8") == commands.page(), "run: python -m scripts.commands"


def rows_below(heading: str) -> Iterator[list[str]]:
    """Yield the cells of the table below a heading of docs/architecture.md, without its head."""
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.split(f"{heading}\n", 1)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    yield from ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])


def test_the_rooms_are_those_of_the_tree() -> None:
    rooms = {cells[0].strip("`") for cells in rows_below("# Architecture")}
    package = PROJECT / "harness"
    there = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms == there - {"__init__"}


def test_every_noun_of_the_glossary_is_defined_where_it_says() -> None:
    nouns = list(rows_below("## Glossary"))
    assert len(nouns) >= 25
    for name, meaning, owner in nouns:
        assert meaning
        path = PROJECT / owner.strip("`")
        defined = {
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        constants = set(re.findall(r"^([A-Z_]+)\b", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert name.strip("`") in defined | constants, f"{name} is not defined in {owner}"


def test_committed_reports_stay_small() -> None:
    files = [path for path in (PROJECT / "reports").rglob("*") if path.is_file()]
    assert not [path.name for path in files if path.suffix in (".svg", ".pdf")], "on request, or inside a page"
    assert sum(path.stat().st_size for path in files) < 40e6
