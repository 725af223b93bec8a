"""lm-eval's official tasks on local files, asked of scripted answerers whose scores are known."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import caches_in
from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from official_rows import INSTRUCTIONS, RIGHT, ROWS
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from harness.analysis.metrics import describe
from harness.config import Evaluation
from harness.evaluate import runner
from harness.evaluate.definitions import find_official, read_definition
from harness.evaluate.evaluation import Scores, check_evaluation, evaluate
from harness.evaluate.suite import SUITES

FORMATS = {"hellaswag": "json", "arc_easy": "parquet", "ifeval": "parquet"}


class Answerer(LM):  # type: ignore[misc]
    """Answers from a list; what is not on it is unlikely, and gets no answer."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        super().__init__()
        self.answers = answers

    def answer(self, prompt: str) -> str:
        return self.answers.get(prompt[prompt.rfind("Question:") :] if "Question:" in prompt else prompt, "")

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        right = [self.answer(request.args[0]) == request.args[1] for request in requests]
        return [(-0.5, True) if each else (-30.0, False) for each in right]

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [self.answer(request.args[0]) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise NotImplementedError


def write(folder: Path, task: str, rows: list[dict[str, Any]], kind: str) -> str:
    path = folder / f"{task}.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.name


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """The suite `paper` on local files in all three formats; both splits of every task are the whole file."""
    folder = tmp_path_factory.mktemp("official")
    names = {task: write(folder, task, rows, FORMATS.get(task, "jsonl")) for task, rows in ROWS.items()}
    files: Any = {task: {"train": name, "validation": name, "test": name} for task, name in names.items()}
    return Evaluation(suite="paper", num_items=None, batch_size=4, data_files=files), folder


@pytest.fixture
def score(paper: tuple[Evaluation, Path], monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Evaluate an answerer instead of a model."""

    def run(answers: Mapping[str, str], **changes: Any) -> Scores:
        evaluation, folder = paper
        monkeypatch.setattr(runner, "_InMemory", lambda **_: Answerer(answers))
        model: Any = torch.nn.Linear(1, 1)
        model.device, model.dtype = torch.device("cpu"), torch.float32
        return evaluate(
            model,
            tokenizer,
            evaluation.model_copy(update=changes),
            folder=folder,
            split="test",
            results=caches_in(folder),
        )

    return run


def test_a_perfect_answerer_scores_one(score: Any) -> None:
    found = score(RIGHT)
    values = {name: metric.value for name, metric in found.metrics.items()}
    shares = {name: value for name, value in values.items() if name.startswith(("accuracy", "adherence"))}
    assert shares == dict.fromkeys(shares, 1.0)
    assert set(shares) == {
        "accuracy",
        *(f"accuracy/{task}" for task in SUITES["paper"] if task != "ifeval"),
        *(f"accuracy_norm/{task}" for task in ("hellaswag", "piqa", "arc_easy")),
        "accuracy_flexible/gsm8k",
        "adherence",
        *(f"adherence/{variant}" for variant in ("prompt_loose", "inst_strict", "inst_loose")),
    }
    assert values["perplexity"] == pytest.approx(math.exp(0.5))
    assert max(value for name, value in values.items() if name.startswith("ece")) < 1e-6
    assert {name: task.num_items for name, task in found.tasks.items()} == {
        task: len(rows) for task, rows in ROWS.items()
    }


def test_every_metric_has_a_title_and_a_better_direction(score: Any) -> None:
    found = {name: describe(name) for name in [*score(RIGHT).metrics, "token_ece"]}
    assert {name for name, info in found.items() if info.direction == "lower"} == {
        *(name for name in found if name.startswith("ece")),
        "perplexity",
        "token_ece",
    }
    assert all(info.direction is not None for info in found.values())
    assert found["adherence/inst_loose"].heading == "Adherence, inst loose (%)"
    assert found["ece/piqa"].heading == "ECE, piqa (%)"
    assert len({info.heading for info in found.values()}) == len(found)


def test_a_hopeless_answerer_scores_zero_or_chance(score: Any) -> None:
    """Options that are all alike: the first is taken, which is right as often as any other."""
    values = {name: metric.value for name, metric in score({}).metrics.items()}
    chance = {"hellaswag": 1 / 4, "piqa": 1 / 2, "arc_easy": 1 / 4}
    for task in SUITES["paper"][:-1]:
        assert values[f"accuracy/{task}"] == chance.get(task, 0.0), task
    assert values["accuracy_flexible/gsm8k"] == 0.0
    assert values["accuracy"] == pytest.approx(1.0 / 5)
    assert {value for name, value in values.items() if name.startswith("adherence")} == {0.0}
    assert values["perplexity"] == pytest.approx(math.exp(30))
    # Sure of each option alike, and right as often as that: calibrated, as a guess at chance is.
    assert values["ece"] == pytest.approx(0.0, abs=1e-9)


def test_confidently_wrong_is_as_uncalibrated_as_can_be(score: Any) -> None:
    wrong = {f"Question: {row['goal']}\nAnswer:": " Put them in a pond." for row in ROWS["piqa"]}
    found = score(wrong, suite=("piqa",), data_files={"piqa": "piqa.jsonl"})
    assert found.metrics["accuracy/piqa"].value == 0.0
    assert found.metrics["ece/piqa"].value == pytest.approx(1.0, abs=1e-6)
    table = found.reliability
    assert table.loc[table["num"] > 0, ["source", "bin", "num", "accuracy"]].to_numpy().tolist() == [
        ["piqa", 14, 4, 0.0]
    ]


def test_numbers_are_those_that_lm_eval_reports(score: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the answers known: every aggregate of ours equals lm-eval's own."""
    reported: dict[str, dict[str, Any]] = {}
    original = evaluator.evaluate

    def recorded(*args: Any, **kwargs: Any) -> Any:
        results = original(*args, **kwargs)
        reported.update(results["results"])
        return results

    monkeypatch.setattr(evaluator, "evaluate", recorded)
    some = dict(list(RIGHT.items())[::2]) | {"Request 99.": "Bread and milk."}
    values = {name: metric.value for name, metric in score(some).metrics.items()}
    for ours, task, theirs in [
        ("accuracy/hellaswag", "hellaswag", "acc,none"),
        ("accuracy_norm/hellaswag", "hellaswag", "acc_norm,none"),
        ("accuracy/piqa", "piqa", "acc,none"),
        ("accuracy/arc_easy", "arc_easy", "acc,none"),
        ("accuracy/gsm8k", "gsm8k", "exact_match,strict-match"),
        ("accuracy_flexible/gsm8k", "gsm8k", "exact_match,flexible-extract"),
        ("accuracy/lambada_openai", "lambada_openai", "acc,none"),
        ("perplexity", "lambada_openai", "perplexity,none"),
        ("adherence", "ifeval", "prompt_level_strict_acc,none"),
        ("adherence/prompt_loose", "ifeval", "prompt_level_loose_acc,none"),
        ("adherence/inst_strict", "ifeval", "inst_level_strict_acc,none"),
        ("adherence/inst_loose", "ifeval", "inst_level_loose_acc,none"),
    ]:
        assert values[ours] == pytest.approx(reported[task][theirs], rel=1e-12), ours
    assert 0 < values["adherence"] < values["adherence/inst_strict"] < 1


def test_every_instruction_type_accepts_and_refuses_offline(score: Any) -> None:
    kinds = [kind for kind, _, _, _ in INSTRUCTIONS]
    assert len(set(kinds)) == 25
    files = {"ifeval": {"validation": "ifeval.parquet", "test": "ifeval.parquet"}}
    wrong = {f"Request {number}.": response for number, (_, _, _, response) in enumerate(INSTRUCTIONS)}
    for answers, value in ((RIGHT, 1.0), (wrong, 0.0)):
        found = score(answers, suite=("ifeval",), data_files=files)
        rows = found.items[found.items["metric"] == "adherence"]
        assert rows["value"].tolist() == [value] * (len(kinds) + 1)
        weights = found.items.loc[found.items["metric"] == "adherence/inst_strict", "weight"]
        assert weights.tolist() == [1] * len(kinds) + [2]
        assert "punkt_tab (English)" in found.tasks["ifeval"].note


def test_one_file_is_halved_by_index_and_items_keep_their_numbers(
    paper: tuple[Evaluation, Path], monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    monkeypatch.setattr(runner, "_InMemory", lambda **_: Answerer(RIGHT))
    model: Any = torch.nn.Linear(1, 1)
    model.device, model.dtype = torch.device("cpu"), torch.float32
    evaluation = Evaluation(
        suite=("gsm8k",), num_items=3, batch_size=1, data_files={"gsm8k": "gsm8k.jsonl"}, fewshot={"gsm8k": 0}
    )
    asked = {}
    for split in ("validation", "test"):
        found = evaluate(model, tokenizer, evaluation, folder=paper[1], split=split, results=caches_in(paper[1]))  # type: ignore[arg-type]
        rows = found.items[found.items["metric"] == "accuracy"]
        asked[split] = rows["item"].tolist()
        assert rows["value"].tolist() == [1.0] * 3
        task = found.tasks["gsm8k"]
        assert (task.source, task.split, task.num_items) == ("file", "all", 3)
        assert task.half == ("even" if split == "validation" else "odd")
    assert asked == {"validation": [0, 2, 4], "test": [1, 3, 5]}


def test_a_task_of_ones_own_is_asked_beside_official_ones(score: Any, paper: tuple[Evaluation, Path]) -> None:
    definition = {
        "task": "colours",
        "output_type": "multiple_choice",
        "doc_to_text": "The {{thing}} is",
        "doc_to_choice": "{{[first, second]}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (paper[1] / "colours.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    rows = [{"thing": thing, "first": "blue", "second": "red", "gold": 0} for thing in ("sky", "sea", "rose", "blood")]
    write(paper[1], "colours", rows, "json")
    files = {"colours": {"validation": "colours.json", "test": "colours.json"}, "piqa": "piqa.jsonl"}
    answers = {f"The {thing} is": " blue" for thing in ("sky", "sea")} | {
        f"The {thing} is": " red" for thing in ("rose", "blood")
    }
    found = score(answers, suite=("colours.yaml", "piqa"), data_files=files)
    assert found.metrics["accuracy/colours"].value == 0.5
    assert found.metrics["accuracy"].value == (0.5 + found.metrics["accuracy/piqa"].value) / 2
    assert found.metrics["ece/colours"].value == pytest.approx(0.5, abs=1e-6)
    assert found.metrics["ece"].value == (found.metrics["ece/colours"].value + found.metrics["ece/piqa"].value) / 2


def test_a_real_model_is_asked_the_whole_suite_whatever_the_batch(
    paper: tuple[Evaluation, Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    evaluation, folder = paper
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    # Ends soon: with random weights an answer would run to its limit of 1280 tokens.
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= 8
    check_evaluation(evaluation, folder, context=config.max_position_embeddings)
    one, many = (
        evaluate(
            model,
            tokenizer,
            evaluation.model_copy(update={"batch_size": batch_size, "num_items": 3}),
            folder=folder,
            split="validation",
            results=caches_in(folder),
        )
        for batch_size in (1, 8)
    )
    pd.testing.assert_frame_equal(one.items, many.items, rtol=1e-4, atol=1e-5)
    assert {task for task, count in one.items.groupby("task")["item"].nunique().items() if count == 3} == set(ROWS)
    assert math.isfinite(one.metrics["perplexity"].value)


def test_the_private_parts_of_lm_eval_that_are_used_are_there() -> None:
    """Read without lm-eval, an official definition is what lm-eval itself reads, functions apart."""
    for name in SUITES["paper"]:
        path = find_official(name)
        theirs = load_yaml(path)
        ours = read_definition(path).config
        assert theirs["task"] == name
        assert set(theirs) == set(ours)
        assert {key: value for key, value in theirs.items() if isinstance(value, str | int | None)} == {
            key: value for key, value in ours.items() if isinstance(theirs[key], str | int | None)
        }
        assert callable(theirs.get("process_docs", print))
    assert read_definition(find_official("mmlu_abstract_algebra")).config["dataset_path"] == "cais/mmlu"
    assert TaskManager(include_defaults=False).all_tasks == []
