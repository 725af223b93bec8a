"""What README.md and docs/ tell a reader to type: run as written."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from harness.config import Data
from harness.config.expand import load_grid
from harness.config.workloads import load_workload
from harness.data.text import texts
from harness.data.tokens import prepare
from harness.records.layout import Results
from harness.records.store import read_manifest, read_record
from harness.run.plan import make_plan

PROJECT = Path(__file__).parents[2]


def block(page: str, heading: str, language: str) -> str:
    """Return the first fenced block of a language below a heading of a page."""
    section = (PROJECT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)
    assert found is not None, f"no {language} block below {heading!r} of {page}"
    return found.group(1)


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, str]:
    """An environment in which `harness` and `pytest` are this project's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, module in (("harness", "harness.cli"), ("pytest", "pytest")):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        path.chmod(0o755)
    search = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": search}


@pytest.mark.slow
def test_from_an_idea_to_a_table(commands: dict[str, str], tmp_path: Path, write_workload: Callable[..., Path]) -> None:
    """The block is run by a shell, in an empty folder; only the workload is a smaller one, as the block allows."""
    written = block("docs/plugins.md", "From an idea to a table", "sh")
    assert len(written.splitlines()) <= 10
    place = tmp_path / "idea"
    place.mkdir()
    workload = write_workload("small", seeds=[1])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", written],
        cwd=place,
        env={**commands, "WORKLOAD": str(workload)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "5 of 5 trials to run" in done.stdout
    assert "Trials: 5 finished, 0 failed, 0 not run." in done.stdout
    table = next(line for line in done.stdout.splitlines() if line.startswith("| Surprise gap 20%"))
    assert len(re.findall(r"\d\.\d", table)) >= 3
    results = place / "results"
    manifest = read_manifest(results / "my_signals-small" / "manifest.json")
    (entry,) = [each for each in manifest.trials if each.label == "Surprise gap 20%"]
    record = read_record(results / "trials" / entry.trial_id / "record.json")
    assert record.status == "finished"
    assert "signal surprise_gap" in record.sources


def test_a_workload_of_ones_own_text_is_what_the_block_says(
    tmp_path: Path, checkpoints: Path, tokenizer: Any, write_grid: Callable[..., Path]
) -> None:
    """The embedded workload's file with local models and the block in place of its data section."""
    fields = yaml.safe_load((PROJECT / "harness" / "config" / "workloads" / "tiny.yaml").read_text(encoding="utf-8"))
    for model in ("teacher", "student"):
        fields[model] = {"path": str(checkpoints / model)}
    fields |= yaml.safe_load(block("docs/workloads.md", "A workload of your own", "yaml"))
    for split in ("train", "validation", "test"):
        lines = [json.dumps({"text": f"The {split} dog sees {number} small stones."}) for number in range(90)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    file = tmp_path / "my_workload.yaml"
    file.write_text(yaml.safe_dump(fields), encoding="utf-8")
    grid = write_grid(["full_kd", "se_kd"], split="test")
    plan = make_plan(grid, Results(tmp_path / "results"), workload=str(file), seeds=(1337,))
    assert plan.grid.name == f"{load_grid(grid).name}-my_workload"
    assert [trial.strategy.label for trial in plan.todo] == ["Full KD", "SE-KD 20%"]
    data = load_workload(str(file)).data
    for split in ("train", "validation", "test"):
        found = list(texts(data, tmp_path, split))
        assert len(found) == 90
        assert found[7] == f"The {split} dog sees 7 small stones."
    short = Data.model_validate({**data.model_dump(), "train_tokens": 1024, "heldout_tokens": 512})
    packed = prepare(short, tmp_path, "train", tokenizer, source_key="here", results=Results(tmp_path))
    assert packed.ids.shape == (2, 512)
    assert tokenizer.decode(packed.ids[0]).startswith("The train dog sees")


def test_readme_is_one_screen_and_shows_a_signal_as_it_stands() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    shown = block("README.md", "A signal of your own", "python").strip().splitlines()
    source = (PROJECT / "strategies" / "signals" / "kl_plus_student_entropy.py").read_text(encoding="utf-8")
    assert [line for line in shown if line not in source.splitlines()] == []


def test_the_rows_of_the_readme_are_those_of_the_report() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (No KD|Full KD) \| ([\d.]+)[^|]*\| ([\d.]+)", readme, flags=re.MULTILINE)
    table = pd.read_csv(PROJECT / "reports" / "position_axis" / "tables" / "main.csv").set_index(["label", "metric"])[
        "mean"
    ]
    assert len(rows) == 2
    for label, loss, divergence in rows:
        assert loss == f"{table[label, 'heldout_loss']:.4f}"
        assert divergence == f"{table[label, 'teacher_kl']:.4f}"


def test_the_training_loop_runs_as_written() -> None:
    (written,) = re.findall(
        r"```python\n(.*?)```", (PROJECT / "docs" / "training_loop.md").read_text("utf-8"), re.DOTALL
    )
    done = subprocess.run(
        [sys.executable, "-c", written],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+ of 22 positions, loss \d+\.\d\d nats\n", done.stdout)


def test_the_grids_of_the_page_are_grids(tmp_path: Path) -> None:
    whole, *parts = re.findall(r"```yaml\n(.*?)```", (PROJECT / "docs" / "grids.md").read_text("utf-8"), re.DOTALL)
    head = whole[: whole.index("strategies:")]
    rows = "strategies:\n  - full_kd\n"
    # A part is one more row, or one more key.
    grids = [
        head + (rows + part if part.startswith("  - ") else f"{part}{rows}  - se_kd\n  - no_kd\n") for part in parts
    ]
    for number, text in enumerate([whole, *grids]):
        path = tmp_path / f"grid{number}.yaml"
        path.write_text(text, encoding="utf-8")
        assert len(load_grid(path).strategies) >= 3
