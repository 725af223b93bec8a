"""One owner for each noun: no class name stands twice."""

import ast
from collections import defaultdict
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def test_no_class_name_stands_twice() -> None:
    places = defaultdict(list)
    for room in ("harness", "strategies"):
        for path in sorted((PROJECT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(str(path.relative_to(PROJECT)))
    twice = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert not twice, "rename the less central one"
