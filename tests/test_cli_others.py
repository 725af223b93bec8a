"""The remaining commands: list, doctor, report, workload build, help."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from harness import cli
from harness.catalogue import KINDS, print_catalogue
from harness.doctor import examine
from harness.errors import UnknownNameError
from harness.grid import presets
from strategies.registry import CLASSES, CRITERIA, POLICIES, SIGNALS

PROJECT = Path(__file__).parent.parent


def printed(capsys: pytest.CaptureFixture[str], kind: str | None) -> str:
    print_catalogue(Console(width=200), kind)
    return capsys.readouterr().out


def test_list_names_everything_registered_with_its_paper(capsys: pytest.CaptureFixture[str]) -> None:
    everything = printed(capsys, None)
    for registry in (SIGNALS, POLICIES, CLASSES, CRITERIA):
        for name in registry:
            assert f"\n{name} " in everything
            assert registry[name].source in everything
            assert registry[name].summary in everything
    assert all(f"\n{name} " in everything for name in presets())
    assert "\ntiny " in everything


def test_list_of_one_kind_holds_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert "reverse_kl" in printed(capsys, "criteria")
    assert "student_entropy" not in printed(capsys, "policies")


def test_list_of_an_unknown_kind_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'signals'"):
        print_catalogue(Console(), "signal")
    assert set(KINDS) == {"signals", "policies", "classes", "criteria", "presets", "workloads"}


def test_doctor_names_versions_and_says_how_the_hub_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    examine(Console(width=120))
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("torch", "transformers", "ray", "gpu", "cores"))
    assert "switched off by HF_HUB_OFFLINE" in shown


def test_the_analysis_of_a_report_imports_no_torch() -> None:
    code = (
        "import sys, harness.cli, harness.analysis.report; "
        "heavy = {'torch', 'transformers', 'ray', 'lm_eval', 'datasets'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)


def test_only_tiny_can_be_built(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["harness", "workload", "build", "tin"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "unknown embedded workload 'tin'. Did you mean 'tiny'?" in capsys.readouterr().err


def test_every_command_is_documented_in_the_readme() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    commands = [
        command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback
    ]
    assert {"run", "plan", "report", "list", "doctor"} <= set(commands)
    cache = [f"cache {command.name}" for command in cli.cache_app.registered_commands]
    assert {"cache ls", "cache build", "cache verify", "cache rm"} == set(cache)
    for command in [*commands, *cache, "new signal", "workload build"]:
        assert f"harness {command}" in readme, command
