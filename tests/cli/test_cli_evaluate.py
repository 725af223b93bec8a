"""`harness evaluate`: any model through the path of a trial's evaluation, without a grid."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness.cli import main as cli
from harness.config.workloads import ASSETS

STUDENT = str(ASSETS / "student")
ROWS = [{"question": f"{n} and 1?", "answer": f"#### {n + 1}"} for n in range(7)]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["harness", "evaluate", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_model_is_scored_with_its_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = [
        f"piqa={tmp_path / 'piqa.json'}",
        f"gsm8k={tmp_path / 'test.json'}",
        f"gsm8k.train={tmp_path / 'train.json'}",
    ]
    goals = [{"goal": f"Dry {n} shirts.", "sol1": "Hang them.", "sol2": "Eat them.", "label": n % 2} for n in range(6)]
    for name, rows in {"piqa": goals, "test": ROWS[:3], "train": ROWS}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    options = [option for file in files for option in ("--data-files", file)]
    options += ["--suite", "piqa", "--suite", "gsm8k", "--fewshot", "gsm8k=2", "--max-new-tokens", "gsm8k=4"]
    options += ["--to", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    assert run(monkeypatch, STUDENT, *options) == 0
    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert written["command"].startswith("harness evaluate ")
    assert (written["tasks"]["gsm8k"]["shots"], written["tasks"]["gsm8k"]["max_new_tokens"]) == (2, 4)
    assert {name: task["num_items"] for name, task in written["tasks"].items()} == {"piqa": 6, "gsm8k": 3}
    items = pd.read_csv(tmp_path / "out" / "items.csv")
    values = items[(items["task"] == "piqa") & (items["metric"] == "accuracy")]["value"]
    metrics = pd.read_csv(tmp_path / "out" / "metrics.csv", index_col="metric")
    assert metrics.loc["accuracy/piqa", "value"] == pytest.approx(values.mean())
    assert metrics.loc["accuracy/piqa", "stderr"] == pytest.approx(values.sem())
    assert f"{values.mean():.4f}" in shown
    assert "accuracy/gsm8k" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "pipa"], "has no task 'pipa'"),
        (["--suite", "piqa", "--fewshot", "piqa"], "--fewshot takes TASK=VALUE, it is 'piqa'"),
        (["--suite", "piqa", "--fewshot", "piqa=x"], "fewshot.piqa: Input should be a valid integer"),
        (["--suite", "piqa", "--dtype", "float8"], "unknown dtype 'float8'"),
        (["--suite", "gsm8k", "--data-files", "gsm8k=x.json"], "asked with 5 examples and has no training split"),
        (["--suite", "tiny_lastword", "--chat-template"], "the tokenizer has no chat template"),
        (["--suite", "tiny_lastword"], "evaluation.num_items is null: tiny_lastword is generated"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, STUDENT, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
