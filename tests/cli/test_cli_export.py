"""`harness export`: the very student that was evaluated, with a card that says what it is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from harness.cli.main import app
from harness.config.errors import UnknownNameError, UserError
from harness.records.export import export
from harness.records.layout import Results
from harness.records.record import Record
from harness.run import attempt
from harness.run.attempt import run_and_write
from harness.run.options import Options
from harness.run.plan import make_plan


def test_an_exported_student_is_the_one_that_was_evaluated(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    grid = write_grid(["no_kd", "se_kd"], workload=str(workload_file))
    untrained, trial = make_plan(grid, Results(results), seeds=(1,)).todo
    trained: dict[str, torch.Tensor] = {}
    save = attempt.save_student

    def spy(place: Path, trial_id: str, student: torch.nn.Module, tokenizer: object) -> None:
        trained.update({name: weight.clone() for name, weight in student.state_dict().items()})
        save(place, trial_id, student, tokenizer)  # type: ignore[arg-type]

    monkeypatch.setattr(attempt, "save_student", spy)
    record = run_and_write(trial, Results(results), options=Options(keep_students=True))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", trial.id[:10], "--results", str(results)])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "exports" / trial.id
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.state_dict().keys() == trained.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, trained[name])
    before = AutoModelForCausalLM.from_pretrained(workload_file.parent / "student")
    assert not torch.equal(before.get_output_embeddings().weight, model.get_output_embeddings().weight)
    assert len(AutoTokenizer.from_pretrained(folder)) == 97
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "distilled from `./teacher`" in card
    assert "signal: {name: student_entropy" in card or "name: student_entropy" in card
    for name, metric in record.metrics.items():
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
        assert f"{metric.value:.5g}" in row
    assert Record.model_validate(
        {key: value for key, value in json.loads((folder / "record.json").read_text()).items() if key != "checksum"}
    ).trial_id == trial.id  # fmt: skip
    with pytest.raises(UserError, match="exists already"):
        export(Results(results), trial.id, folder)
    run_and_write(untrained, Results(results), options=Options(keep_students=True))
    with pytest.raises(UserError, match="trains nothing"):
        export(Results(results), untrained.id, None)


def test_weights_that_were_not_kept_say_what_getting_them_costs(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    (trial,) = make_plan(write_grid(["sft"], workload=str(workload_file)), Results(tmp_path), seeds=(1,)).todo
    run_and_write(trial, Results(tmp_path))
    assert not (tmp_path / "students").exists()
    with pytest.raises(UserError, match=r"Train it again, \d+ s: harness run GRID --only 'SFT .*--seeds 1 --force"):
        export(Results(tmp_path), trial.id, None)
    with pytest.raises(UnknownNameError):
        export(Results(tmp_path), "zzz", None)
