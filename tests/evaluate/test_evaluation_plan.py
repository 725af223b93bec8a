"""What an evaluation is checked for before anything is trained, and what identifies it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import caches_in
from datasets import Dataset
from official_rows import ROWS

from harness.config import Evaluation
from harness.config.errors import UserError
from harness.config.yaml import parse
from harness.evaluate import evaluation as module
from harness.evaluate.definitions import SuiteTask
from harness.evaluate.evaluation import check_evaluation, fingerprint, prepare_items
from harness.evaluate.rows import find_source, load_from_hub
from harness.evaluate.suite import resolve_suite
from harness.records.layout import Results
from harness.run.plan import make_plan

OWN_TASK = """
task: colours
output_type: multiple_choice
doc_to_text: "The sky is"
doc_to_choice: "{{[first, second]}}"
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(*suite: str, **files: Any) -> Evaluation:
    shots = {"gsm8k": 0} if suite == ("gsm8k",) else {}
    return Evaluation(suite=suite, num_items=None, batch_size=1, data_files=files, fewshot=shots)


def without(row: dict[str, Any], column: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != column}


@pytest.mark.parametrize("task", list(ROWS))
def test_well_shaped_files_pass(task: str, tmp_path: Path) -> None:
    jsonl(tmp_path / "rows.jsonl", ROWS[task])
    check_evaluation(asked(task, **{task: "rows.jsonl"}), tmp_path, context=2048)


@pytest.mark.parametrize(
    ("task", "column"), [(task, column) for task in ROWS for column in ROWS[task][0] if column != "source_id"]
)
def test_a_missing_column_is_named_with_file_task_and_schema(task: str, column: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [ROWS[task][0], without(ROWS[task][1], column)])
    with pytest.raises(UserError) as error:
        check_evaluation(asked(task, **{task: "rows.jsonl"}), tmp_path)
    assert f"data_files.{task}: {path}, row 1: {column} is missing; rows of {task} hold " in str(error.value)
    assert all(name in str(error.value) for name in ROWS[task][0] if name != "source_id")


@pytest.mark.parametrize(
    ("task", "changed", "message"),
    [
        # As text it would match no option, and every item would silently count as wrong.
        ("piqa", {"label": "0"}, "label is '0'"),
        ("hellaswag", {"label": ""}, "label is ''"),
        ("hellaswag", {"endings": "one"}, "endings is 'one'"),
        ("arc_easy", {"choices": ["light"]}, r"choices is \['light'\]"),
        ("ifeval", {"kwargs": {}}, r"kwargs is \{\}"),
        ("lambada_openai", {"text": 3}, "text is 3"),
    ],
)
def test_a_column_of_another_type_is_refused(task: str, changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    jsonl(tmp_path / "rows.jsonl", [ROWS[task][0] | changed])
    with pytest.raises(UserError, match=f"row 0: {message}; rows of {task} hold"):
        check_evaluation(asked(task, **{task: "rows.jsonl"}), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, r"no such file: .*none\.jsonl; rows of gsm8k hold question \(text\), answer \(text\)"),
        ("rows.csv", "question,answer\n", r"rows\.csv must end in \.json, \.jsonl, \.parquet; rows of gsm8k"),
        ("rows.jsonl", "{", r"rows\.jsonl cannot be read: .*; rows of gsm8k"),
        ("rows.parquet", "not parquet", r"rows\.parquet cannot be read: .*; rows of gsm8k"),
        ("rows.json", "{}", "must hold rows, at least one"),
        ("rows.jsonl", "\n", "must hold rows, at least one"),
        ("rows.json", "[1]", "must hold rows, at least one"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        check_evaluation(asked("gsm8k", gsm8k=name), tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"suite": "papr"}, r"unknown suite 'papr'\. Did you mean 'paper'"),
        ({"suite": ["arc_esy"]}, r"lm-eval .* has no task 'arc_esy'\. Did you mean 'arc_easy'\?$"),
        ({"suite": ["mmlu"]}, "'mmlu' is a group of lm-eval tasks: name its members"),
        ({"suite": ["paper", "piqa"]}, "names the task 'piqa' twice"),
        ({"suite": []}, "evaluation.suite is empty"),
        ({"suite": ["./none.yaml"]}, r"no such file: .*none\.yaml"),
        ({"suite": ["wikitext"]}, "task 'wikitext' reports word_perplexity, .*; it must report one of acc, "),
        ({"data_files": {"gsm8k": "rows.jsonl"}}, "unknown task of evaluation.data_files 'gsm8k'"),
        ({"num_items": None}, "num_items is null: tiny_completion is generated"),
        ({"suite": ["ifeval"]}, "'ifeval' generates up to 1280 tokens, and a model's context is 1024"),
        (
            {"items": {"tiny_lastwrd": 5}},
            r"unknown task of evaluation.items 'tiny_lastwrd'\. Did you mean 'tiny_lastword'",
        ),
        ({"fewshot": {"gsm8k": 5}}, "unknown task of evaluation.fewshot 'gsm8k'"),
        ({"fewshot": {"tiny_lastword": 2}}, "'tiny_lastword' is asked with 2 examples and has no training split"),
        (
            {"suite": ["ifeval"], "fewshot": {"ifeval": 1}, "max_new_tokens": {"ifeval": 512}},
            "'ifeval' is asked with 1",
        ),
        ({"suite": ["piqa"], "max_new_tokens": {"piqa": 5}}, "max_new_tokens.piqa: the task generates nothing"),
    ],
)
def test_what_cannot_be_asked_is_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    fields = {"suite": "tiny", "num_items": 4, "batch_size": 1} | changed
    with pytest.raises(ValueError, match=message):
        check_evaluation(parse(Evaluation, fields, where="w.yaml"), tmp_path, context=1024)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_items": 0}, "num_items: Input should be greater than or equal to 1"),
        ({"batch_size": 0}, "batch_size: Input should be greater than or equal to 1"),
        ({"data_files": {"piqa": {"validation": "a.json"}}}, "data_files.piqa: give test, and validation and train"),
        (
            {"data_files": {"piqa": {"test": "a.json", "dev": "b.json"}}},
            "data_files.piqa: give test, and validation and train",
        ),
        ({"items": {"piqa": 0}}, "items.piqa: Input should be greater than or equal to 1"),
        ({"fewshot": {"piqa": -1}}, "fewshot.piqa: Input should be greater than or equal to 0"),
        ({"max_new_tokens": {"ifeval": 0}}, "max_new_tokens.ifeval: Input should be greater than or equal to 1"),
        ({"validation": {"piqa": 0}}, "validation.piqa: Input should be greater than or equal to 1"),
    ],
)
def test_wrong_fields_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(Evaluation, {"suite": "tiny", "num_items": 4, "batch_size": 1} | changed, where="w.yaml")


def test_a_plan_refuses_a_wrong_file(
    write_workload: Callable[..., Path], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    jsonl(tmp_path / "rows.jsonl", [{"question": "1 + 1?"}])
    workload = write_workload(
        evaluation={
            "suite": ["gsm8k"],
            "num_items": 4,
            "batch_size": 4,
            "fewshot": {"gsm8k": 0},
            "data_files": {"gsm8k": "rows.jsonl"},
        }
    )
    grid = write_grid(["no_kd"], workload=str(workload))
    with pytest.raises(UserError, match=r"rows\.jsonl, row 0: answer is missing; rows of gsm8k hold question \(text\)"):
        make_plan(grid, Results(tmp_path / "results"))


def test_a_trial_is_identified_by_what_its_files_hold(
    write_workload: Callable[..., Path], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    def trial_id(name: str) -> str:
        workload = write_workload(
            evaluation={
                "suite": ["gsm8k"],
                "num_items": 4,
                "batch_size": 4,
                "fewshot": {"gsm8k": 0},
                "data_files": {"gsm8k": name},
            }
        )
        return make_plan(write_grid(["no_kd"], workload=str(workload)), Results(tmp_path / "results")).trials[0].id

    jsonl(tmp_path / "rows.jsonl", ROWS["gsm8k"])
    before = trial_id("rows.jsonl")
    (tmp_path / "rows.jsonl").rename(tmp_path / "moved.jsonl")
    assert trial_id("moved.jsonl") == before
    jsonl(tmp_path / "moved.jsonl", ROWS["gsm8k"][:-1])
    assert trial_id("moved.jsonl") != before


def test_an_evaluation_is_identified_by_definitions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "colours.yaml"
    own.write_text(OWN_TASK, encoding="utf-8")
    jsonl(tmp_path / "rows.jsonl", [{"first": "blue", "second": "red", "gold": 0}])
    found = [fingerprint(asked("colours.yaml", colours="rows.jsonl"), tmp_path)]
    files = {"colours": {"validation": "rows.jsonl", "test": "rows.jsonl"}}
    found.append(fingerprint(asked("colours.yaml", **files), tmp_path))
    own.write_text(OWN_TASK.replace("The sky", "The sea"), encoding="utf-8")
    found.append(fingerprint(asked("colours.yaml", colours="rows.jsonl"), tmp_path))
    monkeypatch.setattr(module, "version", lambda _: "0.0.0")
    found.append(fingerprint(asked("colours.yaml", colours="rows.jsonl"), tmp_path))
    assert len(set(found)) == 4


def test_a_task_of_ones_own_is_checked_by_the_columns_its_templates_read(tmp_path: Path) -> None:
    (tmp_path / "colours.yaml").write_text(OWN_TASK, encoding="utf-8")
    jsonl(tmp_path / "rows.jsonl", [{"first": "blue", "gold": 0}])
    with pytest.raises(UserError, match="row 0: second is missing; rows of colours hold gold, first, second"):
        check_evaluation(asked("colours.yaml", colours="rows.jsonl"), tmp_path)
    with pytest.raises(UserError, match="names no data set with a validation or test split"):
        check_evaluation(asked("colours.yaml"), tmp_path)


def task_of(name: str) -> SuiteTask:
    (task,) = resolve_suite((name,), Path())
    return task


@pytest.mark.parametrize(
    ("task", "validation", "test"),
    [
        ("arc_easy", ("allenai/ai2_arc ARC-Easy", "validation", None), ("allenai/ai2_arc ARC-Easy", "test", None)),
        ("hellaswag", ("Rowan/hellaswag", "validation", "even"), ("Rowan/hellaswag", "validation", "odd")),
        ("piqa", ("baber/piqa", "validation", "even"), ("baber/piqa", "validation", "odd")),
        ("gsm8k", ("openai/gsm8k main", "test", "even"), ("openai/gsm8k main", "test", "odd")),
        (
            "lambada_openai",
            ("EleutherAI/lambada_openai default", "test", "even"),
            ("EleutherAI/lambada_openai default", "test", "odd"),
        ),
        ("ifeval", ("google/IFEval", "train", "even"), ("google/IFEval", "train", "odd")),
    ],
)
def test_validation_and_test_never_share_items(task: str, validation: Any, test: Any) -> None:
    sources = [find_source(task_of(task), split, asked(task), Path()) for split in ("validation", "test")]  # type: ignore[arg-type]
    assert [(source.place, source.split, source.half) for source in sources] == [validation, test]


def test_without_files_the_official_data_set_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> Dataset:
        calls.append((args, kwargs))
        return Dataset.from_list(ROWS["arc_easy"])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    task = task_of("arc_easy")
    rows = load_from_hub(task, find_source(task, "test", asked("arc_easy"), Path()))
    assert calls == [(("allenai/ai2_arc", "ARC-Easy"), {"split": "test"})]
    assert len(rows) == len(ROWS["arc_easy"])


def test_a_hub_that_cannot_be_reached_is_noticed_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"openai/gsm8k main.*data_files\.gsm8k, with the columns question, answer"):
        prepare_items(asked("gsm8k"), tmp_path, "test", caches_in(tmp_path))
