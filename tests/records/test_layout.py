"""The results folder: one place for everything, and nobody else joins the names."""

import ast
from pathlib import Path

import pytest

from harness.records.layout import Results

PROJECT = Path(__file__).parents[2]
NAMES = {"cache", "locks", "trials", "checkpoints", "students", "trash", "tensorboard", "mirror.json", "record.json"}


def joined(path: Path) -> set[str]:
    """Return the names of the results folder that a module joins to a path."""
    divisions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.BinOp))
    right = (node.right for node in divisions if isinstance(node.op, ast.Div))
    return NAMES & {node.value for node in right if isinstance(node, ast.Constant)}


def test_nobody_else_joins_the_names_of_the_results_folder() -> None:
    others = [path for path in (PROJECT / "harness").rglob("*.py") if path.name != "layout.py"]
    assert {str(path.relative_to(PROJECT)): names for path in others if (names := joined(path))} == {}


def test_everything_has_its_own_place_below_the_root(tmp_path: Path) -> None:
    results = Results(tmp_path)
    places = [
        results.cache_locks, results.items, results.locks, results.trial("t"), results.checkpoints("t"),
        results.student("t"), results.manifest("grid"), results.tensorboard("grid"), results.trash("grid"),
    ]  # fmt: skip
    assert all(place.is_relative_to(tmp_path) for place in places)
    assert len(set(places)) == len(places)
    assert results.record("t").parent == results.trial("t")
    assert not list(tmp_path.iterdir()), "asking for a place makes nothing"


def test_only_what_is_a_unit_can_be_copied(tmp_path: Path) -> None:
    results = Results.at(tmp_path, "memory://layout")
    with pytest.raises(KeyError):
        results.offer(results.student("t"))


def test_a_trial_is_known_by_its_record(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for name in ("b", "a", "unfinished"):
        results.trial(name).mkdir(parents=True)
    for name in ("b", "a"):
        results.record(name).touch()
    assert results.trial_ids() == ["a", "b"]
