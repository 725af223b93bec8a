"""Prompts and answers: what is a target, where they come from, and bad rows refused by file and row."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import SEPARATOR, caches_in
from transformers import PreTrainedTokenizerFast

from harness.config import Data
from harness.config.errors import UserError
from harness.config.expand import load_grid
from harness.config.workloads import load_workload
from harness.data.corpus import owned
from harness.data.pairs import pairs
from harness.data.text import fingerprint
from harness.data.tokens import Tokens, prepare
from harness.records.layout import Results
from harness.trial.execute import run_trial
from harness.trial.identity import fingerprints
from harness.trial.trial import make_trials

ROWS = [{"q": f"the cat sees {'the dog ' * (n % 3)}and", "a": "runs home" + " to sleep" * (n % 4)} for n in range(12)]
FIELDS = {"prompt_field": "q", "answer_field": "a"}


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n" if path.suffix == ".jsonl" else json.dumps(rows), encoding="utf-8")
    return path


def data(path: Path, *, length: int = 32, num: int = 3, **settings: Any) -> Data:
    return Data.model_validate(
        {
            "dataset": "parquet" if path.suffix == ".parquet" else "json",
            "data_files": dict.fromkeys(("train", "validation", "test"), str(path)),
            "pairs": {**FIELDS, **settings},
            "sequence_length": length,
            "train_tokens": num * length,
            "heldout_tokens": num * length,
            "cross_document_targets": False,
        }
    )


def padded(given: Data, tokenizer: PreTrainedTokenizerFast, cache: Path, split: Any = "train") -> Tokens:
    return prepare(given, cache, split, tokenizer, source_key=fingerprint(given, cache), results=caches_in(cache))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_only_the_answer_and_its_end_are_targets(
    suffix: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    given = data(write(tmp_path / f"rows{suffix}", ROWS), num=12, prompt_template="Q {prompt}?")
    for _ in range(2):  # made, then found
        tokens = padded(given, tokenizer, tmp_path)
        batch = tokens.batch(torch.arange(12))
        for row, ids, valid, targets in zip(ROWS, batch.input_ids, batch.valid, batch.targets, strict=True):
            prompt, answer = (tokenizer.encode(text) for text in (f"Q {row['q']}?", f" {row['a']}"))
            whole = [*prompt, *answer, SEPARATOR]
            assert ids.tolist() == whole + [SEPARATOR] * (32 - len(whole))
            assert targets[valid].tolist() == [*answer, SEPARATOR]
            assert valid.nonzero().flatten().tolist() == list(range(len(prompt) - 1, len(whole) - 1))
            assert not targets[~valid].any()
    num_tokens = sum(len(tokenizer.encode(f" {row['a']}")) for row in ROWS)
    assert tokens.tokens_per_byte == pytest.approx(num_tokens / sum(len(row["a"]) + 1 for row in ROWS))


def test_an_answer_that_does_not_fit_is_cut(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    given = data(write(tmp_path / "rows.jsonl", [{"q": "the cat", "a": "runs home " * 20}]), length=16, num=1)
    batch = padded(given, tokenizer, tmp_path).batch(torch.arange(1))
    assert int(batch.valid.sum()) == 16 - len(tokenizer.encode("the cat"))
    assert SEPARATOR not in batch.input_ids


def test_halves_of_one_split_are_its_even_and_odd_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    given = data(path, halved=True).model_copy(update={"data_files": {"train": str(path), "test": str(path)}})
    even, odd = (list(pairs(given, tmp_path, split)) for split in ("validation", "test"))
    assert [pair.place.rpartition(" ")[2] for pair in (*even, *odd)] == [
        str(number) for number in (0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11)
    ]
    assert len(list(pairs(given, tmp_path, "train"))) == 12


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS[:2], {"q": "the cat"}], r"rows\.jsonl, row 2: field 'a' must be text, the row has .*q: str"),
        ([{"q": "the cat", "a": 5}] * 3, r"rows\.jsonl, row 0: field 'a' must be text, the row has .*a: int"),
        ([*ROWS[:2], {"q": "the cat", "a": "  "}], r"rows\.jsonl, row 2: field 'a' is empty"),
        ([*ROWS[:2], {"q": "", "a": "runs"}], r"rows\.jsonl, row 2: field 'q' is empty"),
        (
            [*ROWS[:2], {"q": "the cat " * 30, "a": "runs"}],
            r"row 2: the prompt is \d+ tokens long, which leaves no room",
        ),
    ],
)
def test_a_bad_row_is_named(rows: list[Any], message: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=message):
        padded(data(path), tokenizer, tmp_path)
    assert not list(tmp_path.glob("tokens-*"))


def test_too_few_pairs_are_told_with_the_arithmetic(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(
        UserError, match=r"has 12 pairs, the workload asks for 416 tokens in sequences of 32, .* 13 pairs"
    ):
        padded(data(path, num=13), tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": None, "generator": "tiny_math", "dataset": None}, "tiny_math makes pairs and needs `pairs`"),
        ({"cross_document_targets": True}, "cross_document_targets must be false"),
        ({"pairs": {**FIELDS, "prompt_template": "Q:"}}, r"prompt_template 'Q:' must contain \{prompt\}"),
    ],
)
def test_settings_of_pairs_that_cannot_be_meant(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    fields = data(write(tmp_path / "rows.jsonl", ROWS)).model_dump()
    with pytest.raises(ValueError, match=message):
        Data.model_validate({**fields, **changes})


def test_plain_text_has_no_trace_of_pairs(workload_file: Path) -> None:
    assert "pairs" not in load_workload(str(workload_file)).data.model_dump()
    assert "pairs" in load_workload("tiny_math").data.model_dump(mode="json")


def test_word_problems_belong_to_their_split() -> None:
    given = load_workload("tiny_math").data
    found = {split: [pair.prompt for pair in islice(pairs(given, Path(), split), 40)] for split in ("train", "test")}
    assert all(owned(split, prompt) for split, prompts in found.items() for prompt in prompts)
    assert len({*found["train"], *found["test"]}) > 75
    assert found["train"] == [pair.prompt for pair in islice(pairs(given, Path(), "train"), 40)]


def test_ones_own_pairs_are_a_workload(
    write_workload: Callable[..., Path], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    given = data(write(tmp_path / "rows.jsonl", ROWS), num=8).model_dump(mode="json", exclude_none=True)
    workload = load_workload(str(write_workload(data=given)))
    grid = load_grid(write_grid(["se_kd"], seeds=[1]))
    (trial,) = make_trials(grid, workload, fingerprints(workload))
    record = run_trial(trial, results=Results(tmp_path)).record
    assert record.selection is not None
    assert record.selection.valid_positions < 8 * 16
    assert record.metrics["heldout_loss"].value > 0


def test_a_prompts_tokens_are_targets_where_asked_for(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = write(tmp_path / "rows.jsonl", ROWS)
    given, both = (data(rows, num=8, **settings) for settings in ({}, {"prompt_targets": True}))
    answers, whole = (padded(each, tokenizer, tmp_path) for each in (given, both))
    batches = [each.batch(torch.arange(8)) for each in (answers, whole)]
    assert batches[1].num_valid == tuple(whole.num_valid.tolist())
    assert answers.spans is not None
    # Every token but the first of the text, up to its end.
    assert batches[1].num_valid == tuple((answers.spans[:, 1] - 1).tolist())
    assert bool((batches[1].valid | ~batches[0].valid).all())
    assert answers.key != whole.key


def test_the_hubs_workload_trains_on_what_the_paper_does() -> None:
    workload = load_workload("qwen3_gsm8k")
    pairs_of = workload.data.pairs
    assert pairs_of is not None
    assert (pairs_of.prompt_template + pairs_of.answer_template, pairs_of.prompt_targets) == (
        "{prompt}\n{answer}",
        True,
    )
    assert (workload.seeds, workload.evaluation.suite) == ((1340, 1341, 1342), "paper")
    assert (workload.optimisation.schedule, workload.optimisation.warmup) == ("constant", 0.0)
    # One pair of models, one optimiser and one evaluation: "shared across all experiments".
    other = load_workload("qwen3_fineweb")
    for part in ("teacher", "student", "optimisation", "evaluation"):
        assert getattr(workload, part) == getattr(other, part), part
