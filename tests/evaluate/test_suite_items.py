"""The items of the embedded suite, and the definitions that ask them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import caches_in

from harness.config import Evaluation
from harness.data.items import items as real_items
from harness.evaluate.evaluation import SPLITS, prepare_items
from harness.evaluate.suite import SUITES, resolve_suite
from harness.records.layout import Results


def prepare(split: str, num_items: int, data_dir: Path) -> dict[str, Path]:
    asked = Evaluation(suite="tiny", num_items=num_items, batch_size=1)
    return prepare_items(asked, data_dir, split, caches_in(data_dir))  # type: ignore[arg-type]


@pytest.mark.parametrize("split", SPLITS)
def test_real_items_are_written_once(split: str, tmp_path: Path) -> None:
    files = prepare(split, 12, tmp_path)
    assert list(files) == list(SUITES["tiny"])
    stamps = {path: path.stat().st_mtime_ns for path in files.values()}
    assert prepare(split, 12, tmp_path) == files
    assert {path: path.stat().st_mtime_ns for path in files.values()} == stamps
    for task, path in files.items():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        expected = real_items(task, split, 12)
        for row in rows:
            if "arguments" in row:
                row["arguments"] = json.loads(row["arguments"])
        assert rows == expected


def test_stale_items_are_replaced(tmp_path: Path) -> None:
    path = prepare("test", 3, tmp_path)["tiny_lastword"]
    fresh = path.read_text(encoding="utf-8")
    path.write_text("{}\n", encoding="utf-8")
    prepare("test", 3, tmp_path)
    assert path.read_text(encoding="utf-8") == fresh


@pytest.mark.slow
def test_processes_may_prepare_the_same_items(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from harness.config import Evaluation; "
    script += "from harness.evaluate.evaluation import prepare_items; folder = Path(sys.argv[1]); "
    script += "from harness.records.layout import Results; results = Results(folder); "
    script += "[prepare_items(Evaluation(suite='tiny', num_items=num, batch_size=1), folder, 'test', results) "
    script += "for num in range(1, 30)]"
    workers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    written = list(Results(tmp_path).items.iterdir())
    assert len(written) == 29 * 4
    assert all(path.read_text(encoding="utf-8").count("\n") == int(path.stem.rsplit("-")[-1]) for path in written)


def test_generation_leaves_room_for_the_longest_answer_even_digit_by_digit() -> None:
    (task,) = resolve_suite(("tiny_arithmetic",), Path())
    longest = " 15 + 9 = 24. 24 - 5 = 19. #### 19"
    assert task.definition.longest_answer >= len(re.findall(r"####|.", longest))
