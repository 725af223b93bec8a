"""Every option of every command has an effect or is refused: none is taken and ignored."""

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import typer

from harness.cli import main as cli

# What carries a command out. A call is written down instead of made; where the command goes on, with a result.
CARRIES_OUT = {
    "harness.config.plugins.load_plugins": None,
    "harness.run.run.sync_mirror": None,
    "harness.run.run.print_mirror_status": None,
    "harness.run.run.run_plan": 0,
    "harness.run.plan.make_plan": SimpleNamespace(trials=(), todo=()),
    "harness.run.plan.print_plan": None,
    "harness.run.tune.run_tuned": 0,
    "harness.run.tune.print_tuned": None,
    "harness.run.prepare.build_caches": None,
    "harness.cost.forecast.show.forecast_and_print": None,
    "harness.analysis.report.rebuild": None,
    "harness.analysis.report.write_report": None,
    "harness.analysis.report.print_report": None,
    "harness.records.export.export": "exported",
    "harness.cli.cache.print_caches": None,
    "harness.teacher.manage.entries": (),
    "harness.teacher.manage.find": SimpleNamespace(path=Path("cache"), state="complete"),
    "harness.teacher.manage.problems": (),
    "harness.teacher.manage.remove_cache": SimpleNamespace(path="cache", num_bytes=1),
    "harness.cli.catalogue.print_catalogue": None,
    "harness.cli.doctor.examine": None,
    "harness.cli.doctor.check_workload": None,
    "harness.cli.scripts.run_script": None,
    "harness.models.fetch.fetch": Path("model"),
    "harness.cli.new.new_component": [],
    "harness.cli.new.new_plugin": [],
    **{f"harness.cost.bench.run.run_{name}": None for name in
       ("paper_scale", "memory", "trace", "flops", "scaling", "step", "grid", "storage")},
    "torch.set_num_threads": None,
    "harness.cli.shared.set_arithmetic": None,
    "harness.cli.reproduce.set_arithmetic": None,
    "harness.analysis.original.read_original": "the report",
    "harness.run.reproduce.plan_again": ("a plan", {}),
    "harness.run.reproduce.run_again": (),
    "harness.analysis.claims.judge_claims": (),
    "harness.analysis.claims.claims_table": "a table",
    "harness.analysis.write.csv.to_csv": "csv",
    "harness.analysis.write.markdown.to_markdown_table": "markdown",
    "harness.analysis.report.read_run": SimpleNamespace(manifest=SimpleNamespace(grid="g", workload="tiny")),
    "harness.analysis.write.reproduced.show": None,
    "harness.analysis.write.reproduced.write": None,
    "secrets.randbelow": 4,
    "harness.models.load_tokenizer": "a tokenizer",
    "harness.models.load_model": "a model",
    "harness.models.fingerprint": "a digest",
    "harness.models.shapes.context_length": 8,
    "harness.evaluate.evaluation.check_evaluation": None,
    "harness.evaluate.evaluation.evaluate": SimpleNamespace(metrics={}, tasks={}, items=pd.DataFrame()),
}  # fmt: skip

# Ways to call a command without an option: each is tried, so that what one way takes cannot be ignored by another.
CALLS: dict[str, list[list[str]]] = {
    "": [["run", "absent.yaml", "--track", "nobody"]],
    "run": [["g.yaml"]],
    "plan": [["g.yaml"], ["g.yaml", "--gpu", "h100"], ["--workload", "tiny"]],
    "report": [["results/g"], ["reports/g"]],
    "claims": [["reports/g"]],
    "reproduce": [["reports/g"]],
    "evaluate": [["model"]],
    "export": [["abc"]],
    "list": [[], ["signals"]],
    "doctor": [[], ["--workload", "tiny"]],
    "cache ls": [[]],
    "cache build": [["tiny"]],
    "cache verify": [[], ["key"]],
    "cache rm": [["key"]],
    "workload build": [["tiny"]],
    "workload fetch": [["smol"]],
    "new signal": [["one"], ["one", "--no-grid"], ["one", "--plugin", "p.py"]],
    "new policy": [["one"], ["one", "--no-grid"], ["one", "--plugin", "p.py"]],
    "new criterion": [["one"], ["one", "--no-grid"], ["one", "--plugin", "p.py"]],
    "bench": [["--paper-scale"], [], ["step"], ["memory"]],
    **{f"bench {name}": [[]] for name in ("memory", "trace", "flops", "scaling", "step", "grid", "storage")},
}

# What an option is tried with, and is not by default; none of these is a flag.
VALUES = {
    "--address": "10.0.0.1:6379",
    "--arithmetic": "native",
    "--batch-size": "7",
    "--calibrate": "3",
    "--checkpoint-every": "17",
    "--compare": "results/other",
    "--counted": "small",
    "--data-files": "piqa=rows.jsonl",
    "--decide": "6",
    "--destination": "there",
    "--diagnostics": "5",
    "--dtype": "bfloat16",
    "--fewshot": "piqa=1",
    "--from": "hub",
    "--gpu": "a100",
    "--grid": "other.yaml",
    "--length": "33",
    "--logit-memory-mib": "11",
    "--max-new-tokens": "ifeval=7",
    "--mfu": "0.5",
    "--mirror": "memory://mirror",
    "--num-items": "3",
    "--only": "Full KD",
    "--optimizer": "none",
    "--pair": "small",
    "--pairs": "small",
    "--plugin": "mine.py",
    "--reports": "elsewhere",
    "--results": "others",
    "--revision": "abc",
    "--rounds": "2",
    "--rows": "3",
    "--sample": "2",
    "--seed": "9",
    "--seeds": "1,2",
    "--sequences": "5",
    "--set": "optimisation.epochs=2",
    "--sizes": "1x2",
    "--split": "validation",
    "--steps": "3",
    "--suite": "piqa",
    "--table": "there/table",
    "--teacher": "online",
    "--threads": "1",
    "--to": "there",
    "--track": "none",
    "--trials": "2",
    "--workload": "tiny_math",
}


def commands(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}".strip())


COMMANDS = dict(commands(typer.main.get_command(cli.app)))
OPTIONS = [
    (path, parameter.opts[0])
    for path, command in COMMANDS.items()
    for parameter in command.params
    if parameter.param_type_name == "option"
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    (folder / "reports" / "g" / "records").mkdir(parents=True)
    (folder / "reports" / "g" / "manifest.json").write_text(json.dumps({"command": "harness run g.yaml"}))
    (folder / "g.yaml").write_text("{workload: tiny, strategies: [se_kd]}")
    return folder


@pytest.fixture(scope="module")
def plain() -> dict[tuple[str, ...], tuple[str, list[str]]]:
    """What the command lines without an option have come to so far."""
    return {}


@pytest.fixture
def outcome(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command line comes to: how it ends, and the calls that would have carried it out."""
    monkeypatch.chdir(place)
    calls: list[str] = []

    def writer(name: str, function: Any, result: object) -> Any:
        def write(*args: Any, **kwargs: Any) -> object:
            arguments = inspect.signature(function).bind(*args, **kwargs).arguments
            # A console is another object each time, a temporary folder another one.
            said = {key: value for key, value in arguments.items() if key not in ("console", "command")}
            calls.append(re.sub(r"(harness-reproduce-)\w+", r"\1", f"{name}({said})"))
            return result

        return write

    for name, result in CARRIES_OUT.items():
        module, _, function = name.rpartition(".")
        owner = importlib.import_module(module)
        if function != "set_num_threads":
            monkeypatch.setattr(owner, function, writer(name, getattr(owner, function), result))
        else:
            monkeypatch.setattr(owner, function, lambda number: calls.append(f"threads {number}"))

    def run(words: list[str]) -> tuple[str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["harness", *words])
        calls.clear()
        try:
            cli.main()
            end = "returned"
        except SystemExit as ended:
            end = f"exit {ended.code}"
        except Exception as error:
            end = type(error).__name__
        return f"{end}: {capsys.readouterr().err}", list(calls)

    return run


@pytest.mark.parametrize(("path", "option"), OPTIONS, ids=[" ".join(each) for each in OPTIONS])
def test_an_option_is_obeyed_or_refused(path: str, option: str, outcome: Any, plain: dict[Any, Any]) -> None:
    (parameter,) = [each for each in COMMANDS[path].params if option in each.opts]
    words = [option] if parameter.is_flag else [option, VALUES[option]]
    for call in CALLS[path]:
        if option in call:
            continue
        command = path.split()
        key = (path, *call)
        before, calls = plain[key] = plain.get(key) or outcome([*command, *call])
        after, others = outcome([*command, *words, *call])
        if after.startswith("exit 2") and not before.startswith("exit 2"):
            assert option in after, f"{after} does not say what is wrong"
            assert not others, "refused too late"
        else:
            assert (before, calls) != (after, others), f"{' '.join([*command, *call])} takes {option} and ignores it"


def test_every_command_is_called() -> None:
    assert set(CALLS) >= {path for path, _ in OPTIONS}
    assert set(CALLS) <= set(COMMANDS)


def test_options_of_the_group_are_refused_before_a_command(outcome: Any) -> None:
    """`harness bench --reports DIR step` wrote over the committed files."""
    end, calls = outcome(["bench", "--reports", "elsewhere", "step"])
    assert end == (
        "exit 2: harness: --reports before step would do nothing: write it after, harness bench step --reports\n"
    )
    assert calls == []


def test_a_report_made_again_from_itself_goes_where_it_is_told(outcome: Any) -> None:
    """`harness report reports/literature --reports DIR` wrote over the committed files."""
    _, calls = outcome(["report", "reports/g", "--reports", "elsewhere"])
    assert "'destination': PosixPath('elsewhere')" in calls[0]
