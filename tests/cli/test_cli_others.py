"""The remaining commands: list, doctor, report, workload build, help."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.cli import main as cli
from harness.cli.catalogue import KINDS, print_catalogue
from harness.cli.components import of_registry, of_source
from harness.cli.doctor import check_workload, examine
from harness.cli.shared import TRAINING
from harness.config.errors import UnknownNameError, UserError
from harness.config.expand import presets
from harness.models.head import Head
from harness.teacher.interface import Teacher
from harness.teacher.live import online_teacher
from strategies.registry import CLASSES, CRITERIA, POLICIES, REGISTRIES, SAMPLES, SIGNALS, Registry

PROJECT = Path(__file__).parents[2]


def printed(capsys: pytest.CaptureFixture[str], kind: str | None) -> str:
    print_catalogue(Console(width=200), kind)
    return capsys.readouterr().out


def test_list_names_everything_registered_with_its_paper(capsys: pytest.CaptureFixture[str]) -> None:
    everything = printed(capsys, None)
    for registry in (SIGNALS, POLICIES, CLASSES, CRITERIA, SAMPLES):
        for name in registry:
            assert f"\n{name} " in everything
            assert registry[name].source in everything
            assert registry[name].summary in everything
    assert all(f"\n{name} " in everything for name in presets())
    assert "\ntiny " in everything


def test_list_of_one_kind_holds_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert "reverse_kl" in printed(capsys, "criteria")
    assert "student_entropy" not in printed(capsys, "policies")


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_what_is_read_off_the_source_is_what_the_registry_holds(registry: Registry) -> None:
    assert of_source(registry) == of_registry(registry)


# What each command imports decides how long it takes to answer.
IMPORTS = """
import sys
from harness.cli import main

main.app(["list"], standalone_mode=False)
assert not {"torch", "transformers", "pandas"} & set(sys.modules)
main.app(["plan", "grids/position_axis.yaml", "--results", "nowhere"], standalone_mode=False)
slow = {"transformers", "torch._dynamo", "torch.distributed.tensor", "accelerate", "datasets", "lm_eval", "peft", "ray"}
assert "torch" in sys.modules and not slow & set(sys.modules), slow & set(sys.modules)
"""


def test_list_imports_no_torch_and_plan_no_transformers() -> None:
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", IMPORTS], cwd=PROJECT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "38 of 38 trials to run" in done.stdout


def test_a_component_that_says_only_when_it_runs_what_it_is_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "told_late"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(
        "from strategies.registry import signal\nPAPER = 'a paper'\n\n\n"
        "@signal('mine', source=PAPER)\ndef mine(*, targets):\n    return targets\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="malformed node"):
        of_source(Registry(kind="signal", package="told_late"))


def test_list_of_an_unknown_kind_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'signals'"):
        print_catalogue(Console(), "signal")
    components = {"signals", "policies", "classes", "samples", "criteria", "temperatures", "features"}
    assert set(KINDS) == components | {"presets", "workloads"}


def test_doctor_names_versions_and_says_how_the_hub_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    examine(Console(width=120))
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("torch", "transformers", "ray", "gpu", "cores"))
    assert "switched off by HF_HUB_OFFLINE" in shown


def test_doctor_finds_nothing_to_learn_in_a_teacher_distilled_into_itself(capsys: pytest.CaptureFixture[str]) -> None:
    check_workload(Console(width=400), "tiny", Path("results"))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("tiny: its teacher distilled into itself has nothing to learn: Full KD loss ")
    assert "SE-KD 20% loss " in line


def test_doctor_refuses_a_teacher_that_is_not_what_the_student_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*args: Any) -> Teacher:
        teacher = online_teacher(*args)
        return replace(teacher, head=Head(weight=teacher.head.weight * 1.1))

    monkeypatch.setattr("harness.trial.itself.online_teacher", shifted)
    with pytest.raises(UserError, match=r"workload 'tiny': its teacher .* must have loss 0, it has: Full KD loss"):
        check_workload(Console(), "tiny", Path("results"))


# Whatever the extra `train` installs is not there for this process.
WITHOUT_THE_EXTRA = """
import sys
from harness.cli.shared import TRAINING

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in TRAINING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from harness.cli.main import main
main()
"""


def without_the_extra(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_EXTRA, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip


def test_a_committed_report_is_rebuilt_without_what_trains(tmp_path: Path) -> None:
    folder = tmp_path / "multi_axis"
    shutil.copytree(PROJECT / "reports" / folder.name, folder, ignore=shutil.ignore_patterns("tables", "figures"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["trials"] = manifest["trials"][:8]  # the same code, in less time
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = without_the_extra("report", folder.name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"report.html", "report.md", "main.csv", "main.tex", "overview.png"} <= made
    assert not any(name.endswith((".pdf", ".svg")) for name in made), "on request, and in the page"


def test_what_needs_the_extra_says_so(tmp_path: Path) -> None:
    done = without_the_extra("run", "grid.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "is not installed" in done.stderr
    assert "pip install 'selective-kd-harness[train]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_extra_is_what_is_looked_for() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.match(r"[\w-]+", line)[0] for line in project["optional-dependencies"]["train"]]  # type: ignore[index]
    assert sorted(TRAINING) == sorted(name.replace("-", "_") for name in names)


def test_only_tiny_can_be_built(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["harness", "workload", "build", "tin"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "unknown embedded workload 'tin'. Did you mean 'tiny'?" in capsys.readouterr().err
