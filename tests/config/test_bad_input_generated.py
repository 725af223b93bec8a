"""Generated bad input through the command line: one line that says what is wrong, exit code 2, and nothing written."""

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import workload_fields
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harness.run.run
from harness.cli import main as cli

BOUNDED, WHOLE = 12, 450
SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
TALLY: dict[str, int] = {}


class Accepted(Exception):  # noqa: N818
    """The input was taken: it is not bad, and nothing is run."""


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(*_: Any, **__: Any) -> None:
        raise Accepted

    # What would follow if the input were good.
    monkeypatch.setattr(harness.run.run, "_schedule", accept)
    monkeypatch.setattr(harness.run.run, "_prepare", harness.run.run._prepare)
    monkeypatch.setattr(harness.run.run, "write_plan", accept)


def told(capsys: pytest.CaptureFixture[str], root: Path, *arguments: object) -> str | None:
    """Run the command line in this process; None if the input was taken, else the one line that refuses it."""
    before, argv = snapshot(root), sys.argv
    sys.argv = ["harness", *map(str, arguments)]
    capsys.readouterr()
    try:
        cli.main()
    except Accepted:
        shutil.rmtree(root / "results", ignore_errors=True)
        return None
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = argv
    out, err = capsys.readouterr()
    assert code == 2, (code, out, err)
    assert "Traceback" not in out + err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("harness: ")
    assert snapshot(root) == before, "something was written"
    TALLY["refused"] = TALLY.get("refused", 0) + 1
    return lines[0]


def snapshot(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "work").mkdir()
    yield tmp_path / "work"
    shutil.rmtree(tmp_path / "work")


# ---- grids and workloads: a good one, broken in one place

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=12),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    st.sampled_from(["../up", "/etc/passwd", "a/b", "\x00", "{signal}", "!!python/object:os.system", "1e999", "∞"]),
)  # fmt: skip
GRID = {
    "workload": "WORKLOAD", "split": "validation", "baseline": "Full KD", "seeds": [1, 2],
    "strategies": [
        "full_kd",
        {"preset": "se_kd", "label": "swept {budget}", "sweep": {"position.budget": [0.1, 0.2]}},
        {"label": "own", "position": {"signal": "kl", "policy": "top_k", "budget": 0.5}, "criterion": "forward_kl",
         "temperature": 1.0, "lambda": 1.0, "normaliser": "sequence_mean"},
    ],
}  # fmt: skip


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(tree, dict | list):
        for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
            found += leaves(item, (*path, key))
    return found


def broken(tree: Any, path: tuple[Any, ...], how: str, junk: Any) -> Any:
    tree = json.loads(json.dumps(tree))
    node = tree
    for key in path[:-1]:
        node = node[key]
    if how == "replace":
        node[path[-1]] = junk
    elif how == "remove":
        del node[path[-1]]
    elif isinstance(node, dict):
        node[f"{path[-1]}s"] = junk
    else:
        node.insert(0, junk)
    return tree


def dump(path: Path, fields: Any) -> bool:
    try:
        path.write_text(yaml.safe_dump(fields, allow_unicode=True, sort_keys=False), encoding="utf-8")
    except (UnicodeEncodeError, yaml.YAMLError):
        return False
    return True


HOW = st.sampled_from(["replace", "replace", "remove", "add"])


def one_grid(capsys: Any, place: Path, workload: Path, path: tuple[Any, ...], how: str, junk: Any) -> None:
    """Break a grid; what its workload needs is not built for one that is taken."""
    grid = broken({**GRID, "workload": str(workload)}, path, how, junk)
    if dump(place / "grid.yaml", grid):
        told(capsys, place, "run", place / "grid.yaml", "--results", place / "results", "--reports", place / "reports")


def one_workload(capsys: Any, place: Path, fields: dict[str, Any], path: tuple[Any, ...], how: str, junk: Any) -> None:
    dump(place / "grid.yaml", {**GRID, "workload": "tiny"})
    if dump(place / "workload.yaml", broken(fields, path, how, junk)):
        told(capsys, place, "run", place / "grid.yaml", "--workload", place / "workload.yaml",
             "--results", place / "results", "--reports", place / "reports")  # fmt: skip


def full_fields(checkpoints: Path) -> dict[str, Any]:
    fields = workload_fields()
    for name in ("teacher", "student"):
        fields[name]["path"] = str(checkpoints / name)
    files = fields["data"]["data_files"]
    files.update({split: str(checkpoints / path) for split, path in files.items()})
    return fields


def places_of(tree: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.sampled_from(leaves(tree))


def grids(num: int) -> Callable[..., None]:
    @settings(max_examples=num, **SETTINGS)
    @given(path=places_of(GRID), how=HOW, junk=JUNK)
    def check(path: Any, how: str, junk: Any, capsys: Any, place: Path, workload_file: Path) -> None:
        harness.run.run._prepare = harness.run.run._schedule
        one_grid(capsys, place, workload_file, path, how, junk)

    return check


def workloads(num: int) -> Callable[..., None]:
    @settings(max_examples=num, **SETTINGS)
    @given(path=places_of(workload_fields()), how=HOW, junk=JUNK)
    def check(path: Any, how: str, junk: Any, capsys: Any, place: Path, checkpoints: Path) -> None:
        one_workload(capsys, place, full_fields(checkpoints), path, how, junk)

    return check


# ---- files: a good one, damaged

DAMAGE = st.tuples(st.sampled_from(["flip", "cut", "insert", "drop", "junk", "empty"]), st.integers(0, 2**32))


def damaged(content: bytes, kind: str, seed: int) -> bytes:
    draws = random.Random(seed)
    at = draws.randrange(len(content) + 1)
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(draws.choice([1, 1, 4, 64])):
            changed[draws.randrange(len(changed))] ^= 1 << draws.randrange(8)
        return bytes(changed)
    return {
        "cut": content[:at],
        "insert": content[:at] + draws.randbytes(draws.randint(1, 16)) + content[at:],
        "drop": content[:at] + content[at + draws.randint(1, 64) :],
        "junk": draws.randbytes(draws.randint(1, 512)),
        "empty": b"",
    }[kind]


FILES = ["train.jsonl", "validation.jsonl", "student/config.json", "student/tokenizer.json", "teacher/config.json",
         "teacher/tokenizer.json", "student/model.safetensors", "teacher/model.safetensors"]  # fmt: skip


def inputs(num: int) -> Callable[..., None]:
    @settings(max_examples=num, **SETTINGS)
    @given(name=st.sampled_from(FILES), damage=DAMAGE)
    def check(name: str, damage: tuple[str, int], capsys: Any, place: Path, checkpoints: Path) -> None:
        copied = place / "copy"
        if not copied.exists():
            shutil.copytree(checkpoints, copied)
        dump(place / "grid.yaml", {**GRID, "workload": str(copied / "workload.yaml")})
        good = (checkpoints / name).read_bytes()
        (copied / name).write_bytes(damaged(good, *damage))
        try:
            told(capsys, place, "run", place / "grid.yaml", "--results", place / "results",
                 "--reports", place / "reports")  # fmt: skip
        finally:
            (copied / name).write_bytes(good)

    return check


GRIDS, WORKLOADS, INPUTS = grids(BOUNDED), workloads(BOUNDED), inputs(BOUNDED)
ALL_GRIDS, ALL_WORKLOADS, ALL_INPUTS = grids(4 * WHOLE), workloads(2 * WHOLE), inputs(2 * WHOLE)


def test_a_broken_grid_is_refused(capsys: Any, place: Path, workload_file: Path) -> None:
    GRIDS(capsys=capsys, place=place, workload_file=workload_file)


def test_a_broken_workload_is_refused(capsys: Any, place: Path, checkpoints: Path) -> None:
    WORKLOADS(capsys=capsys, place=place, checkpoints=checkpoints)


def test_broken_data_and_models_are_refused(capsys: Any, place: Path, checkpoints: Path) -> None:
    INPUTS(capsys=capsys, place=place, checkpoints=checkpoints)


@pytest.mark.faults
def test_two_thousand_bad_inputs_are_refused(capsys: Any, place: Path, workload_file: Path, checkpoints: Path) -> None:
    TALLY.clear()
    ALL_GRIDS(capsys=capsys, place=place, workload_file=workload_file)
    ALL_WORKLOADS(capsys=capsys, place=place, checkpoints=checkpoints)
    ALL_INPUTS(capsys=capsys, place=place, checkpoints=checkpoints)
    with capsys.disabled():
        print(f"\n{TALLY['refused']} bad inputs refused")  # noqa: T201
    assert TALLY["refused"] >= 2000
