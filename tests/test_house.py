"""The size of the house: what a reader meets stays small enough to be read."""

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
MODULE, FUNCTION, ENTRIES = 350, 80, 14


def sources() -> Iterator[tuple[str, str]]:
    """Yield each module of the project with its text."""
    for room in ("harness", "strategies", "scripts"):
        for path in sorted((PROJECT / room).rglob("*.py")):
            yield str(path.relative_to(PROJECT)), path.read_text(encoding="utf-8")


def test_no_module_is_long() -> None:
    long = {name: len(text.splitlines()) for name, text in sources() if len(text.splitlines()) > MODULE}
    assert not long


def test_no_function_is_long() -> None:
    long = {
        f"{name}: {node.name}": lines
        for name, text in sources()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION
    }
    assert not long


def test_the_folder_listing_is_the_pipeline() -> None:
    entries = {path.name for path in (PROJECT / "harness").iterdir() if path.name != "__pycache__"}
    assert len(entries) <= ENTRIES, sorted(entries)
