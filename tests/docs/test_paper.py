"""docs/paper.md: its commands are commands of their grids, workloads and options, and no published row is missing."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from harness.analysis import published
from harness.analysis.strategies import RowStrategy, method
from harness.cli import main as cli
from harness.config.expand import load_grid
from harness.config.strategy import recorded
from harness.config.workloads import load_workload
from harness.records.layout import Results
from harness.run.plan import make_plan

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "paper.md").read_text(encoding="utf-8")
COMMANDS = sorted({" ".join(found.split()) for found in re.findall(r"`(harness [^`]+)`", PAGE)})
GRIDS = {
    "importance_metrics": "position_axis",
    "selection_policies": "policy_axis",
    "multi_axis": "multi_axis",
    "task_gsm8k": "task_gsm8k_paper",
    "runtime_rtx3090_80M": "runtime",
}


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Parse a command line as it is parsed when it is typed; return the command's name and its arguments."""
    command, name = typer.main.get_command(cli.app), words.pop(0)
    while words and words[0] in getattr(command, "commands", {}):
        name = words.pop(0)
        command = command.commands[name]
    return name, dict(command.make_context(name, words).params)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_can_be_planned(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    name, given = parsed(shlex.split(line))
    if name not in ("run", "plan"):
        return
    named = load_workload(given["workload"]) if given["workload"] else None
    seeds = None if given["seeds"] is None else tuple(map(int, given["seeds"].split(",")))
    if named is not None and seeds is not None:
        assert set(seeds) <= set(named.seeds)
    # The grid's own workload stands in for one whose models would have to be fetched.
    plan = make_plan(
        given["grid"],
        Results(tmp_path),
        split=given["split"],
        seeds=seeds,
        labels=tuple(given["only"] or ()),
        teacher=given["teacher"],
    )
    assert plan.todo


def test_every_table_and_figure_of_the_paper_has_its_row() -> None:
    first = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| ")]
    numbers: dict[str, set[int]] = {"Table": set(), "Figure": set()}
    for cell in first:
        if found := re.match(r" (Table|Figure)s? (\d+)(?: (and|to) (\d+))?,", cell):
            last = int(found[4] or found[2])
            numbers[found[1]] |= set(range(int(found[2]), last + 1))
    assert numbers == {"Table": set(range(1, 17)), "Figure": set(range(1, 9))}


@cache
def strategies(table: str) -> tuple[RowStrategy, ...]:
    assert f"`harness run grids/{GRIDS[table]}.yaml " in PAGE
    return tuple(method(recorded(one)) for one in load_grid(PROJECT / "grids" / f"{GRIDS[table]}.yaml").strategies)


@pytest.mark.parametrize(
    ("table", "split"),
    [(table, "test") for table in GRIDS if "runtime" not in table]
    + [("importance_metrics", "validation"), ("selection_policies", "validation")],
)
def test_every_published_row_is_a_strategy_of_the_grid(table: str, split: str) -> None:
    figures = published.load()
    theirs = figures.rows[(figures.rows["table"] == table) & (figures.rows["split"] == split)]
    ours = {
        row
        for one in strategies(table)
        for row in figures.of(one, task=table == "task_gsm8k", split=split)[["method", "regime"]].itertuples(
            index=False
        )
    }
    missing = {tuple(row) for row in theirs[["method", "regime"]].itertuples(index=False)} - {
        tuple(row) for row in ours
    }
    assert not missing


def test_every_published_run_time_is_of_a_strategy_of_the_grid() -> None:
    figures = published.load()
    theirs = figures.rows[figures.rows["table"] == "runtime_rtx3090_80M"]
    hours = theirs.loc[theirs["metric"] == "wall_hours_total", "value"].tolist()
    ours = [
        found["wall_hours_total"]
        for one in strategies("runtime_rtx3090_80M")
        for at_hand in (False, True)
        if (found := figures.runtime(one, cache_at_hand=at_hand))
    ]
    assert sorted(ours) == sorted(hours)
