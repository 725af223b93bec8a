"""How a task is asked: examples before a question, whole splits, a cap on answers, chat templates."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import caches_in
from datasets import Dataset, DatasetDict
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from official_rows import ROWS
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from harness.config import Evaluation
from harness.config.errors import UserError
from harness.evaluate import runner
from harness.evaluate.definitions import find_official
from harness.evaluate.evaluation import Scores, check_evaluation, check_split, evaluate, fingerprint
from harness.records.layout import Results
from harness.run.plan import make_plan

# Other people and fruit than in the tested rows, so that no example is a question.
TRAIN = [
    {
        "question": f"Bob has {number} figs and buys 2 more. How many has he?",
        "answer": f"He has {number} + 2 = {number + 2}.\n#### {number + 2}",
    }
    for number in range(30)
]
GSM8K = find_official("gsm8k")


class Copier(LM):  # type: ignore[misc]
    """Adds up the two numbers of the last question, and writes the sum as the example before it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def generate_until(self, requests: list[Any]) -> list[str]:
        self.requests += requests
        return [self._answer(request.args[0]) for request in requests]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood

    @property
    def tokenizer_name(self) -> str:
        return "none"

    def apply_chat_template(self, history: list[dict[str, str]], **_: Any) -> str:
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in history)

    def chat_template(self, _: Any = False) -> str:
        return "a template"

    @staticmethod
    def _answer(prompt: str) -> str:
        *examples, question = prompt.split("Question: ")
        total = str(sum(map(int, re.findall(r"\d+", question))))
        return re.sub(r"\d+\s*$", total, examples[-1].partition("Answer:")[2]) if examples[1:] else total


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """Ask a copier GSM8K's made-up rows; returns it and its scores."""

    def run(part: str = "test", **changes: Any) -> tuple[Copier, Scores]:
        copier = Copier()
        monkeypatch.setattr(runner, "_InMemory", lambda **_: copier)
        model: Any = torch.nn.Linear(1, 1)
        model.device, model.dtype = torch.device("cpu"), torch.float32
        scores = evaluate(model, tokenizer, settings(tmp_path, **changes), folder=tmp_path, split=part,
                          results=caches_in(tmp_path))  # type: ignore[arg-type]  # fmt: skip
        return copier, scores

    return run


def settings(folder: Path, **changes: Any) -> Evaluation:
    for split, rows in {"train": TRAIN, "test": ROWS["gsm8k"]}.items():
        (folder / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    files = {"gsm8k": {"train": "train.json", "test": "test.json"}}
    fields = {"suite": ("gsm8k",), "num_items": None, "batch_size": 1, "data_files": files, "split": "whole"}
    return Evaluation.model_validate(fields | changes)


def official_prompts(rows: list[dict[str, Any]]) -> list[str]:
    """Return what lm-eval itself asks, its definition of GSM8K untouched but for where the rows come from."""
    data = DatasetDict({"train": Dataset.from_list(TRAIN), "test": Dataset.from_list(rows)})
    config = load_yaml(GSM8K) | {"custom_dataset": lambda **_: data}
    (task,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests()
    return [request.args[0] for request in task.instances]


def test_gsm8k_is_asked_with_lm_evals_own_five_examples(ask: Callable[..., Any]) -> None:
    copier, scores = ask()
    prompts = [request.args[0] for request in copier.requests]
    assert prompts == official_prompts(ROWS["gsm8k"])
    assert [prompt.count("Question: ") for prompt in prompts] == [6] * 8
    assert len({prompt.rpartition("Question: ")[0] for prompt in prompts}) > 1
    assert scores.metrics["accuracy/gsm8k"].value == 1.0
    task = scores.tasks["gsm8k"]
    assert (task.shots, task.half, task.num_items, task.max_new_tokens, task.chat_template) == (5, None, 8, None, False)


def test_without_examples_there_is_no_format_to_copy(ask: Callable[..., Any]) -> None:
    copier, scores = ask(fewshot={"gsm8k": 0})
    assert copier.requests[0].args[0] == f"Question: {ROWS['gsm8k'][0]['question']}\nAnswer:"
    assert scores.metrics["accuracy/gsm8k"].value == 0.0
    assert scores.metrics["accuracy_flexible/gsm8k"].value == 1.0
    assert scores.tasks["gsm8k"].shots == 0


def test_halves_are_asked_with_examples_too(ask: Callable[..., Any]) -> None:
    copier, scores = ask(split="halves", fewshot={"gsm8k": 2})
    assert [request.args[0].count("Question: ") for request in copier.requests] == [3] * 4
    assert scores.tasks["gsm8k"].half == "odd"


def test_validation_beside_a_whole_test_is_of_the_training_split(ask: Callable[..., Any]) -> None:
    copier, scores = ask("validation", validation={"gsm8k": 4})
    asked = [row["question"] for row in TRAIN[:4]]
    for request, question in zip(copier.requests, asked, strict=True):
        examples, _, last = request.args[0].rpartition("Question: ")
        assert last == f"{question}\nAnswer:"
        assert not any(each in examples for each in asked)
    assert scores.metrics["accuracy/gsm8k"].value == 1.0


def test_answers_are_capped_and_the_cap_is_recorded(ask: Callable[..., Any]) -> None:
    copier, scores = ask(max_new_tokens={"gsm8k": 7})
    assert {request.args[1]["max_gen_toks"] for request in copier.requests} == {7}
    assert copier.requests[0].args[1]["until"] == ["Question:", "</s>", "<|im_end|>"]
    assert scores.tasks["gsm8k"].max_new_tokens == 7


def test_a_chat_template_makes_turns_of_examples(ask: Callable[..., Any]) -> None:
    copier, scores = ask(chat_template=True)
    assert re.findall(r"<(\w+)>", copier.requests[0].args[0]) == ["user", "assistant"] * 5 + ["user"]
    assert scores.tasks["gsm8k"].chat_template


def test_a_chat_template_that_is_not_there_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="chat_template: the tokenizer has no chat template"):
        check_evaluation(settings(tmp_path, chat_template=True), tmp_path, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_files": {"gsm8k": "test.json"}}, r"asked with 5 examples and has no training split .*gsm8k\.train"),
        ({"fewshot": {"gsm8k": 31}}, "asked with 31 examples, and .*train.json has 30"),
    ],
)
def test_examples_that_cannot_be_had_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        check_evaluation(settings(tmp_path, **changes), tmp_path)


def test_nothing_is_chosen_by_items_that_are_tested(
    write_workload: Callable[..., Path], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "text.json").write_text(json.dumps(ROWS["lambada_openai"]), encoding="utf-8")
    fields = {"suite": ["lambada_openai"], "num_items": None, "batch_size": 1, "split": "whole"}
    workload = write_workload(evaluation=fields | {"data_files": {"lambada_openai": "text.json"}})
    grid = write_grid(["no_kd"], workload=str(workload), split="validation")
    with pytest.raises(UserError, match="whole tests all items of 'lambada_openai', which has no other split"):
        make_plan(grid, Results(tmp_path / "results"))
    check_split(settings(tmp_path, suite=("lambada_openai",), data_files={}), "test", tmp_path)


def test_what_is_asked_as_before_keeps_its_fingerprint(tmp_path: Path) -> None:
    found = [
        fingerprint(settings(tmp_path, **changes), tmp_path)
        for changes in ({}, {"fewshot": {"gsm8k": 4}}, {"fewshot": {"gsm8k": 0}}, {"data_files": {}})
    ]
    assert len(set(found)) == 4
    fields = {"suite": "tiny", "num_items": 4, "batch_size": 1}
    assert set(Evaluation.model_validate(fields).model_dump()) == {*fields, "data_files"}


def test_probabilities_are_formed_in_float32(
    monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).to(torch.bfloat16).eval()
    question = runner.Question(
        definition=find_official("lambada_openai"), rows=Dataset.from_list(ROWS["lambada_openai"])
    )
    (answers,) = runner.run(model, tokenizer, [question], batch_size=1)
    for sample, row in zip(answers.samples, ROWS["lambada_openai"], strict=True):
        context = tokenizer(row["text"].rpartition(" ")[0])["input_ids"]
        whole = torch.tensor(tokenizer(row["text"])["input_ids"])
        with torch.no_grad():
            logits = model(whole[None, :-1]).logits[0].float()
        picked = logits.log_softmax(dim=-1).gather(1, whole[1:, None])[len(context) - 1 :]
        # Formed in bfloat16, a log-likelihood of several nats is off by hundredths.
        assert sample["resps"][0][0][0] == pytest.approx(float(picked.sum()), abs=1e-3)
