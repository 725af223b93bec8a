"""`harness new`: a file, its test and a line in a grid; then only the new trials are missing."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.cli.new import new_component, new_plugin
from harness.config.errors import UserError
from harness.config.expand import load_grid
from harness.config.plugins import load_plugins
from harness.distill.probe import probe

PROJECT = Path(__file__).parents[2]

GRID = """# A question.
workload: {workload}
split: validation
seeds: [1, 2, 3]
strategies:
  - no_kd
  - label: "{{signal}}"
    position: {{policy: top_k, budget: 0.2}}
    criterion: forward_kl
    sweep:
      position.signal:
        - kl   # a comment that stays
        - student_entropy
"""


@pytest.fixture
def grid(tmp_path: Path, workload_file: Path) -> Path:
    path = tmp_path / "question.yaml"
    path.write_text(GRID.format(workload=workload_file))
    return path


def test_it_adds_the_signal_to_the_end_of_the_sweep_and_keeps_comments(grid: Path, tmp_path: Path) -> None:
    (tmp_path / "strategies" / "signals").mkdir(parents=True)
    before = grid.read_text()
    new_component("signal", "my_signal", grid=grid, root=tmp_path)
    assert grid.read_text() == before + "        - my_signal\n"
    assert "raise NotImplementedError" in (tmp_path / "strategies" / "signals" / "my_signal.py").read_text()


def test_a_sweep_in_the_middle_of_a_file_is_found_too(grid: Path, tmp_path: Path) -> None:
    (tmp_path / "strategies" / "signals").mkdir(parents=True)
    grid.write_text(grid.read_text() + "  - full_kd\n")
    new_component("signal", "my_signal", grid=grid, root=tmp_path)
    assert grid.read_text().endswith("        - student_entropy\n        - my_signal\n  - full_kd\n")


@pytest.mark.parametrize("name", ["My-Signal", "3rd", "", "../up", "kl"])
def test_a_name_that_cannot_be_is_refused_and_nothing_is_written(name: str, grid: Path, tmp_path: Path) -> None:
    before = grid.read_text()
    with pytest.raises(UserError, match=r"signal"):
        new_component("signal", name, grid=grid, root=tmp_path)
    assert grid.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == [grid.name]


def test_a_grid_without_a_sweep_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    grid = tmp_path / "flat.yaml"
    grid.write_text("workload: tiny\nsplit: test\nstrategies: [no_kd]\n")
    with pytest.raises(UserError, match=r"no sweep over position\.signal"):
        new_component("signal", "my_signal", grid=grid, root=tmp_path)
    assert not (tmp_path / "strategies").exists()


@pytest.mark.slow
def test_from_idea_to_missing_trials(grid: Path, tmp_path: Path) -> None:
    """In a copy of the project: the unfilled template is refused; one line later only its trials are to run."""
    clone = tmp_path / "clone"
    for folder in ("harness", "strategies"):
        shutil.copytree(PROJECT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))

    def harness(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness.cli", *map(str, arguments)]
        return subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=120, check=False)

    made = harness("new", "signal", "my_signal", "--grid", grid)
    assert made.returncode == 0, made.stderr
    refused = harness("plan", grid, "--results", tmp_path / "results")
    assert refused.returncode == 2
    assert "signal 'my_signal' fails on a trial input: NotImplementedError" in refused.stderr
    source = clone / "strategies" / "signals" / "my_signal.py"
    source.write_text(
        source.read_text().replace(
            'raise NotImplementedError("replace this line by the score")',
            "return (teacher_logprobs - student_logprobs).abs().amax(dim=-1)",
        )
    )
    planned = harness("plan", grid, "--results", tmp_path / "results")
    assert planned.returncode == 0, planned.stderr
    assert "my signal" in planned.stdout
    assert "10 of 10 trials to run" in planned.stdout
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/strategies/test_signal_my_signal.py"],
        cwd=clone, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout


def test_the_shipped_grid_has_a_sweep_to_add_to() -> None:
    labels = [strategy.label for strategy in load_grid(PROJECT / "grids" / "position_axis.yaml").strategies]
    assert labels[:6] == ["No KD", "Teacher", "Full KD", "RandomPos 20%", "AT-KD", "SE-KD 20%"]
    assert len(labels) == 14


# ---- policies, criteria, and plugins outside the project

FILLED = {
    "signal": (
        'raise NotImplementedError("replace this line by the score")',
        "return (teacher_logprobs - student_logprobs).abs().amax(dim=-1)",
    ),
    "policy": (
        'raise NotImplementedError("replace this line by the selection")',
        "weight = ((scores > 0.4) & valid).float()\n"
        "        return Selection(weight=weight, denom=weight.sum(dim=-1)), state",
    ),
    "criterion": (
        'raise NotImplementedError("replace this line by the loss of each row")',
        "return (teacher_logprobs.exp() * (teacher_logprobs - student_logprobs)).sum(dim=-1)",
    ),
}


@pytest.mark.usefixtures("forget_plugins")
@pytest.mark.parametrize("kind", sorted(FILLED))
def test_a_plugin_comes_with_its_test_and_a_grid(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / f"own_{kind}_file.py"
    lines = new_plugin(kind, f"own_{kind}", file)
    assert lines[-1] == f"then: harness run {file.with_suffix('.yaml')} --plugin {file}"
    old, new = FILLED[kind]
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))
    load_plugins([file])
    (own,) = [each for each in load_grid(file.with_suffix(".yaml")).strategies if each.label.startswith("Own")]
    probe(own)
    monkeypatch.syspath_prepend(tmp_path)
    test = importlib.import_module(f"test_own_{kind}_file")
    (function,) = [value for name, value in vars(test).items() if name.startswith("test_")]
    function()
    file.write_text(file.read_text().replace(new, old))
    with pytest.raises(UserError, match="exists already"):
        new_plugin(kind, f"another_{kind}", file, no_grid=True)


@pytest.mark.parametrize("kind", ["policy", "criterion"])
def test_a_policy_or_criterion_is_one_more_row_of_its_grid(kind: str, tmp_path: Path) -> None:
    folder = {"policy": "policies", "criterion": "criteria"}[kind]
    (tmp_path / "strategies" / folder).mkdir(parents=True)
    grid = tmp_path / f"{kind}_axis.yaml"
    shutil.copy(PROJECT / "grids" / grid.name, grid)
    before = yaml.safe_load(grid.read_text())
    kept = grid.read_text()
    new_component(kind, "my_own", grid=grid, root=tmp_path)
    after = yaml.safe_load(grid.read_text())
    assert grid.read_text().startswith(kept)
    assert after["strategies"][:-1] == before["strategies"]
    assert after["strategies"][-1]["label"].startswith("My own")
    assert (tmp_path / "strategies" / folder / "my_own.py").is_file()
    assert (tmp_path / "tests" / "strategies" / f"test_{kind}_my_own.py").is_file()


def test_a_list_that_is_followed_by_another_key_is_extended_at_its_own_end(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("workload: tiny\nstrategies:\n- no_kd\n- label: x\n  criterion: forward_kl\n\n# why\nsplit: test\n")
    new_plugin("criterion", "my_own", tmp_path / "own_file.py", grid=grid)
    assert yaml.safe_load(grid.read_text())["strategies"][-1]["criterion"] == "my_own"
    assert "# why\nsplit: test\n" in grid.read_text()


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("kl", "own_file.py", "signal 'kl' exists already: strategies.signals.kl"),
        ("mine", "own-file.py", "letters, digits and underscores"),
        ("mine", "missing/own_file.py", "there is no folder"),
        ("mine", "taken.py", r"taken\.yaml exists already: name it with --grid"),
    ],
)
def test_a_plugin_that_cannot_be_is_refused_and_nothing_is_written(
    name: str, file: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "taken.yaml").write_text("kept")
    with pytest.raises(UserError, match=message):
        new_plugin("signal", name, tmp_path / file)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.yaml"]
