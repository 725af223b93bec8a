"""What a suite asks: item files and task definitions."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lm_eval.tasks._yaml_loader import load_yaml

from harness.data.items import items as real_items
from harness.evaluate import suite


@pytest.mark.parametrize("split", suite.SPLITS)
def test_real_items_are_written_once(split: str, tmp_path: Path) -> None:
    files = suite.prepare_items("tiny", split, 12, tmp_path)
    assert list(files) == [task.name for task in suite.SUITES["tiny"]]
    stamps = {path: path.stat().st_mtime_ns for path in files.values()}
    assert suite.prepare_items("tiny", split, 12, tmp_path) == files
    assert {path: path.stat().st_mtime_ns for path in files.values()} == stamps
    for task, path in files.items():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        expected = real_items(task, split, 12)
        for row in rows:
            if "arguments" in row:
                row["arguments"] = json.loads(row["arguments"])
        assert rows == expected


def test_stale_items_are_replaced(tmp_path: Path) -> None:
    path = suite.prepare_items("tiny", "test", 3, tmp_path)["tiny_lastword"]
    fresh = path.read_text(encoding="utf-8")
    path.write_text("{}\n", encoding="utf-8")
    suite.prepare_items("tiny", "test", 3, tmp_path)
    assert path.read_text(encoding="utf-8") == fresh


def test_processes_may_prepare_the_same_items(tmp_path: Path) -> None:
    script = "import pathlib, sys; from harness.evaluate.suite import prepare_items; "
    script += "[prepare_items('tiny', 'test', num, pathlib.Path(sys.argv[1])) for num in range(1, 30)]"
    workers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    written = list((tmp_path / "items" / "tiny").iterdir())
    assert len(written) == 29 * 4
    assert all(path.read_text(encoding="utf-8").count("\n") == int(path.stem.rsplit("-")[-1]) for path in written)


def test_every_task_of_every_suite_has_a_definition() -> None:
    """Also a guard on lm-eval's private YAML loader."""
    for name, tasks in suite.SUITES.items():
        for task in tasks:
            config = load_yaml(suite._DEFINITIONS / name / f"{task.name}.yaml")
            assert config["task"] == task.name
            assert set(task.measures) <= {entry["metric"] for entry in config["metric_list"]}


def test_generation_leaves_room_for_the_longest_answer_even_digit_by_digit() -> None:
    config = load_yaml(suite._DEFINITIONS / "tiny" / "tiny_arithmetic.yaml")
    longest = " 15 + 9 = 24. 24 - 5 = 19. #### 19"
    assert config["generation_kwargs"]["max_gen_toks"] >= len(re.findall(r"####|.", longest))
