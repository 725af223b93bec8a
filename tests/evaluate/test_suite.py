"""Evaluation suites, asked of a small model that has learnt its answers by heart."""

import copy
import logging
import math
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import caches_in
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from harness.config import Evaluation
from harness.config.errors import UnknownNameError, UserError
from harness.evaluate import evaluation
from harness.evaluate.scores import COLUMNS, reliability_table, summarise
from harness.evaluate.suite import SUITES

Rows = dict[str, list[dict[str, object]]]

NUM = 4
COMPLETIONS = [
    ("The cat sat on the", " mat."),
    ("So Anna, who was tired, went home to her", " bed."),
    ("Tom drank some", " milk."),
    ("Ben and Sam played with the red", " ball."),
]
LASTWORDS = [
    ("The new owner of the cup was", " Milo"),
    ("It was a cold day. The colour of the boat was", " green"),
    ("He lived in a", " house"),
    ("In the evening the dog barked at the", " moon"),
]
SUMS = [(2, 3), (4, 4), (9, 8), (15, 6)]
WORDS = ["salad", "zebra", "lamp", "duck"]


def asked() -> Rows:
    """Items in the schema of `harness.data.items`, whose right answers are what the model has learnt."""
    endings = [ending for _, ending in COMPLETIONS]
    return {
        "tiny_completion": [
            {"context": context, "choices": endings, "gold": index} for index, (context, _) in enumerate(COMPLETIONS)
        ],
        "tiny_lastword": [{"context": context, "target": target} for context, target in LASTWORDS],
        "tiny_arithmetic": [{"question": f"Question: {a} and {b}? Answer:", "answer": str(a + b)} for a, b in SUMS],
        "tiny_instructions": [
            {
                "prompt": "Please. " * count + f'Instruction: Repeat the word "{word}" {count} times. Response:',
                "verifier": "repeat_word",
                "arguments": {"word": word, "count": count},
            }
            for count, word in enumerate(WORDS, start=2)
        ],
    }


def misgraded() -> Rows:
    """The same questions with answers that the learnt ones are not."""
    rows = asked()
    for index, row in enumerate(rows["tiny_completion"]):
        row["gold"] = (index + 1) % NUM
    for row, (_, other) in zip(rows["tiny_lastword"], LASTWORDS[1:] + LASTWORDS[:1], strict=True):
        row["target"] = other
    for row in rows["tiny_arithmetic"]:
        row["answer"] = f"{row['answer']}1"
    for row in rows["tiny_instructions"]:
        row["arguments"] = {"word": "other", "count": 1}
    return rows


def learnt() -> list[str]:
    """The texts the model is trained on: every question of `asked` with its right answer."""
    rows = asked()
    solutions = [f" {a} + {b} = {a + b}. #### {a + b}" for a, b in SUMS]
    responses = [f" {word}" * count for count, word in enumerate(WORDS, start=2)]
    return [
        *(context + ending for context, ending in COMPLETIONS + LASTWORDS),
        *(f"{row['question']}{text}" for row, text in zip(rows["tiny_arithmetic"], solutions, strict=True)),
        *(f"{row['prompt']}{text}" for row, text in zip(rows["tiny_instructions"], responses, strict=True)),
    ]


@dataclass(frozen=True)
class Student:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")  # type: ignore[no-untyped-call]


def build_model(tokenizer: PreTrainedTokenizerBase, *, eos: bool = True) -> PreTrainedModel:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id if eos else None,
            pad_token_id=None,
        )
    )


@pytest.fixture(scope="module")
def untrained() -> Student:
    tokenizer = train_tokenizer(learnt())
    return Student(build_model(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def memoriser() -> Student:
    """A model that has learnt every answer, trained without an end of sequence in its configuration."""
    tokenizer = train_tokenizer(learnt())
    model = build_model(tokenizer, eos=False)
    encoded = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in learnt()]
    longest = max(map(len, encoded))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in encoded])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in encoded])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Student(model, tokenizer)


def tiny(
    student: Student, data_dir: Path, *, num_items: int, batch_size: int = 16, split: Any = "test"
) -> evaluation.Scores:
    asked = Evaluation(suite="tiny", num_items=num_items, batch_size=batch_size)
    return evaluation.evaluate(
        student.model, student.tokenizer, asked, folder=data_dir, split=split, results=caches_in(data_dir)
    )


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., evaluation.Scores]:
    def evaluate(student: Student, rows: Rows, *, batch_size: int = 16) -> evaluation.Scores:
        monkeypatch.setattr(evaluation, "generate_items", lambda task, split, num: rows[task][:num])
        return tiny(student, tmp_path, num_items=NUM, batch_size=batch_size, split="validation")

    return evaluate


SHARES = (
    "accuracy",
    "accuracy/tiny_completion",
    "accuracy/tiny_lastword",
    "accuracy/tiny_arithmetic",
    "adherence",
)


def test_a_model_that_knows_the_answers_scores_one(memoriser: Student, ask: Callable[..., evaluation.Scores]) -> None:
    metrics = ask(memoriser, asked()).metrics
    assert set(metrics) == {*SHARES, "perplexity", "ece", "ece/tiny_completion"}
    assert {name: metrics[name].value for name in SHARES} == dict.fromkeys(SHARES, 1.0)
    assert {name: metrics[name].stderr for name in SHARES} == dict.fromkeys(SHARES, 0.0)
    assert [metrics[name].num for name in SHARES] == [3 * NUM, NUM, NUM, NUM, NUM]
    assert metrics["perplexity"].value == pytest.approx(1.0, abs=0.3)
    assert metrics["ece"].value < 0.1


def test_the_same_model_against_wrong_answers_scores_zero(
    memoriser: Student, ask: Callable[..., evaluation.Scores]
) -> None:
    metrics = ask(memoriser, misgraded()).metrics
    assert {name: metrics[name].value for name in SHARES} == dict.fromkeys(SHARES, 0.0)
    assert metrics["perplexity"].value > 10
    assert metrics["ece"].value > 0.9


def test_generation_works_where_the_configuration_has_no_end_of_sequence(memoriser: Student) -> None:
    assert memoriser.model.generation_config.eos_token_id is None


def test_an_untrained_model_is_near_chance(untrained: Student, tmp_path: Path) -> None:
    got = tiny(untrained, tmp_path, num_items=60, batch_size=64)
    assert 0.0 < got.metrics["accuracy/tiny_completion"].value < 0.5
    assert got.metrics["accuracy/tiny_arithmetic"].value == 0.0
    assert got.metrics["perplexity"].value > 100


def test_items_are_tidy_and_metrics_follow_from_them(memoriser: Student, ask: Callable[..., evaluation.Scores]) -> None:
    got = ask(memoriser, asked())
    assert tuple(got.items.columns) == COLUMNS
    counts = got.items.groupby(["task", "metric"]).size().to_dict()
    assert counts == {
        ("tiny_completion", "accuracy"): NUM,
        ("tiny_lastword", "accuracy"): NUM,
        ("tiny_lastword", "log_likelihood"): NUM,
        ("tiny_arithmetic", "accuracy"): NUM,
        ("tiny_instructions", "adherence"): NUM,
    }
    assert not got.items.duplicated(["task", "item", "metric"]).any()
    assert summarise(got.items) == got.metrics
    pd.testing.assert_frame_equal(reliability_table(got.items), got.reliability)
    assert got.reliability["num"].sum() == NUM
    assert {
        name: (task.num_items, task.source, task.split, task.half) for name, task in got.tasks.items()
    } == dict.fromkeys(asked(), (NUM, "generated", "validation", None))
    assert all(task.wall_s > 0 for task in got.tasks.values())
    with_options = got.items["confidence"].notna()
    assert set(got.items.loc[with_options, "task"]) == {"tiny_completion"}
    assert got.items.loc[with_options, "confidence"].between(0.25, 1.0).all()


def test_likelihoods_are_those_of_the_joined_text(memoriser: Student, ask: Callable[..., evaluation.Scores]) -> None:
    """The context ends without a space and the continuation brings it, so tokens do not straddle the boundary."""
    got = ask(memoriser, asked()).items
    measured = got[got["metric"] == "log_likelihood"].sort_values("item")["value"].to_numpy()
    totals = []
    for context, _, options in [(c, t, [t]) for c, t in LASTWORDS] + [
        (c, e, [other for _, other in COMPLETIONS]) for c, e in COMPLETIONS
    ]:
        totals.append([total_log_likelihood(memoriser, context, option) for option in options])
    assert measured == pytest.approx([total[0] for total in totals[:NUM]], abs=1e-4)
    probabilities = torch.tensor(totals[NUM:]).softmax(dim=-1).max(dim=-1).values
    shown = got.dropna(subset="confidence").sort_values("item")["confidence"].to_numpy()
    assert shown == pytest.approx(probabilities.numpy(), abs=1e-4)


def total_log_likelihood(student: Student, context: str, continuation: str) -> float:
    head, tail = student.tokenizer.encode(context), student.tokenizer.encode(continuation)
    assert student.tokenizer.encode(context + continuation) == head + tail
    with torch.no_grad():
        logits = student.model(input_ids=torch.tensor([head + tail])).logits[0]
    rows = logits.log_softmax(dim=-1)[len(head) - 1 : -1]
    return float(rows[torch.arange(len(tail)), torch.tensor(tail)].sum())


def test_a_task_may_be_asked_a_number_of_its_own(untrained: Student, tmp_path: Path) -> None:
    asked = Evaluation(suite="tiny", num_items=6, items={"tiny_arithmetic": 2}, batch_size=16)
    scores = evaluation.evaluate(
        untrained.model, untrained.tokenizer, asked, folder=tmp_path, split="test", results=caches_in(tmp_path)
    )
    assert {name: task.num_items for name, task in scores.tasks.items()} == {
        name: 2 if name == "tiny_arithmetic" else 6 for name in SUITES["tiny"]
    }
    assert scores.items.groupby("task")["item"].nunique()["tiny_arithmetic"] == 2


@pytest.mark.parametrize("start", ["", "<|endoftext|>"], ids=["no start", "start of text"])
def test_texts_encoded_together_are_those_encoded_one_by_one(untrained: Student, start: str) -> None:
    """lm-eval is handed the same tokens, whether a tokenizer marks the start of a text or the text bears it itself."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from harness.evaluate.runner import _InMemory

    tokenizer = copy.deepcopy(untrained.tokenizer)
    if start:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.convert_tokens_to_ids(start))]
        )
    pairs = [("The cat", " sat"), ("The cat ", "sat"), (f"{start}He lived", " in a house"), ("", "Milo and Sam")]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index) for index, pair in enumerate(pairs)
    ]
    handed: dict[type, list[Any]] = {}
    for kind in (HFLM, _InMemory):
        made = kind(pretrained=untrained.model, tokenizer=tokenizer, batch_size=2)
        made._loglikelihood_tokens = lambda found, kind=kind, **_: handed.setdefault(kind, found)
        made.loglikelihood(requests)
    assert handed[_InMemory] == handed[HFLM]


def test_generation_is_that_of_the_unpadded_prompt(memoriser: Student, ask: Callable[..., evaluation.Scores]) -> None:
    """Prompts differ in length, so a batch of all of them is padded on the left."""
    lengths = {len(memoriser.tokenizer.encode(str(row["prompt"]))) for row in asked()["tiny_instructions"]}
    assert len(lengths) > 1
    assert ask(memoriser, asked(), batch_size=4).metrics["adherence"].value == 1.0


def test_batch_size_changes_nothing(untrained: Student, memoriser: Student, tmp_path: Path) -> None:
    for student in (untrained, memoriser):
        one, many = (tiny(student, tmp_path, num_items=12, batch_size=batch_size) for batch_size in (1, 16))
        pd.testing.assert_frame_equal(one.items, many.items, rtol=1e-4, atol=1e-5)
        assert one.metrics.keys() == many.metrics.keys()
        for name, metric in one.metrics.items():
            assert metric.value == pytest.approx(many.metrics[name].value, rel=1e-4, abs=1e-5), name


def test_everything_is_left_as_it_was_found(untrained: Student, ask: Callable[..., evaluation.Scores]) -> None:
    model, tokenizer = untrained.model, untrained.tokenizer
    model.train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    needs_gradient = [weight.requires_grad for weight in model.parameters()]
    padding = tokenizer.pad_token, tokenizer.padding_side, len(tokenizer)
    level = logging.getLogger("lm_eval").level
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(3).tolist()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)

    ask(untrained, asked())

    assert (random.random(), np.random.rand(), torch.rand(3).tolist()) == expected
    assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    assert [weight.requires_grad for weight in model.parameters()] == needs_gradient
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert (tokenizer.pad_token, tokenizer.padding_side, len(tokenizer)) == padding
    assert logging.getLogger("lm_eval").level == level
    model.train(mode=False)


def test_evaluating_in_the_middle_of_training_does_not_change_it(
    untrained: Student, ask: Callable[..., evaluation.Scores]
) -> None:
    def one_step(*, evaluate: bool) -> torch.Tensor:
        model = build_model(untrained.tokenizer).train()
        if evaluate:
            ask(Student(model, untrained.tokenizer), asked())
        ids = torch.randint(1, 200, (2, 8))
        model(input_ids=ids, labels=ids).loss.backward()
        gradient = model.get_input_embeddings().weight.grad
        assert isinstance(gradient, torch.Tensor)
        return gradient

    assert torch.equal(one_step(evaluate=False), one_step(evaluate=True))


def test_state_is_restored_when_evaluation_fails(untrained: Student, ask: Callable[..., evaluation.Scores]) -> None:
    model = build_model(untrained.tokenizer).train()
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(FloatingPointError, match=r"tiny_completion, item 0: log-likelihood nan"):
        ask(Student(model, untrained.tokenizer), asked())
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_is_quiet_and_writes_only_to_its_folder(
    untrained: Student,
    ask: Callable[..., evaluation.Scores],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", elsewhere)
    ask(untrained, asked())
    assert capfd.readouterr() == ("", "")
    assert list(elsewhere.iterdir()) == []
    assert len(list((tmp_path / "items").iterdir())) == 4


def test_refuses_an_unknown_split(untrained: Student, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown split 'vaildation'. Did you mean 'validation'"):
        tiny(untrained, tmp_path, num_items=2, split="vaildation")


def test_refuses_a_tokenizer_without_an_end(untrained: Student, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(learnt())
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="end-of-sequence"):
        tiny(Student(untrained.model, tokenizer), tmp_path, num_items=2)


def test_refuses_a_task_that_runs_out_of_items(ask: Callable[..., evaluation.Scores], untrained: Student) -> None:
    with pytest.raises(UserError, match=r"tiny_completion has 1 validation items, 4 were asked for"):
        ask(untrained, {task: rows[:1] for task, rows in asked().items()})


def test_naming_suites_does_not_import_lm_eval() -> None:
    probe = "import sys; from pathlib import Path; from harness.evaluate.suite import resolve_suite; "
    probe += "resolve_suite('paper', Path()); sys.exit('lm_eval' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
