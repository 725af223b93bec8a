"""The embedded corpus, its items and the script that makes the embedded workload."""

import functools
import hashlib
import itertools
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.config.workloads import ASSETS
from harness.data.corpus import CORPUS, SPLITS, document, documents, owned
from harness.data.corpus.draws import CorpusDraws
from harness.data.items import ITEM_SPLITS, NUM_CHOICES, TASKS, items
from harness.data.pairs import word_problem
from scripts.tiny import build as build_tiny

NUM_DOCUMENTS = 600
NUM_ITEMS = 100


def prompt_of(item: dict[str, object]) -> str:
    return str(item.get("context") or item.get("question") or item.get("prompt"))


@functools.cache
def texts(split: str) -> set[str]:
    return {made.text for made in itertools.islice(documents(split), NUM_DOCUMENTS)}


def test_documents_are_a_pure_function_of_split_and_index() -> None:
    streamed = list(itertools.islice(documents("train", start=7), 20))
    assert streamed == [document("train", index) for index in range(7, 27)]
    assert document("train", 0) != document("pretrain", 0)


def test_the_corpus_is_the_one_the_shipped_models_read() -> None:
    draws = CorpusDraws("golden", 1)
    assert [draws.below(1000) for _ in range(5)] == [195, 766, 173, 283, 342]
    joined = "\n".join(made.text for split in SPLITS for made in itertools.islice(documents(split), 250))
    assert hashlib.sha256(joined.encode()).hexdigest()[:16] == "210b2f7da654f00e"


def test_items_and_pairs_are_those_of_the_version() -> None:
    assert CORPUS == 2, "texts, items or pairs have another version: record their hashes here"
    made = [items(task, split, 25) for task in TASKS for split in ITEM_SPLITS]
    made.append([word_problem(split, number) for split in ITEM_SPLITS for number in range(25)])
    assert hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16] == "ede6af1a52a0d0e8", (
        "what is generated changed. If that is meant, raise harness.data.corpus.CORPUS, so that trials run again"
    )


def test_every_kind_is_there_and_documents_are_short() -> None:
    made = list(itertools.islice(documents("train"), 1000))
    assert set(Counter(one.kind for one in made)) == {"story", "arithmetic", "instruction"}
    assert max(len(one.text.split()) for one in made) <= 110


def test_no_text_is_in_two_splits() -> None:
    for one, other in itertools.combinations(SPLITS, 2):
        assert not texts(one) & texts(other)


def test_a_prompt_belongs_to_exactly_one_split() -> None:
    assert all(sum(owned(split, f"prompt {index}") for split in SPLITS) == 1 for index in range(500))


def test_unknown_split_names_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="pretrain, train, validation, test"):
        documents("training")
    with pytest.raises(ValueError, match="validation, test"):
        items(TASKS[0], "train", 1)
    with pytest.raises(ValueError, match="tiny_completion"):
        items("tiny", "test", 1)


@pytest.mark.parametrize("task", TASKS)
def test_items_are_stable_distinct_and_json(task: str) -> None:
    made = {split: items(task, split, NUM_ITEMS) for split in ITEM_SPLITS}
    for split, found in made.items():
        assert json.loads(json.dumps(found)) == found
        assert len({prompt_of(item) for item in found}) == NUM_ITEMS
        assert items(task, split, 20) == found[:20]
    prompts = {split: {prompt_of(item) for item in found} for split, found in made.items()}
    assert not prompts["validation"] & prompts["test"]


@pytest.mark.parametrize("task", TASKS)
def test_items_are_in_no_training_text(task: str) -> None:
    training = "\n".join(texts("pretrain") | texts("train"))
    for split in ITEM_SPLITS:
        for item in items(task, split, NUM_ITEMS):
            assert prompt_of(item) not in training
            assert not owned("pretrain", prompt_of(item))
            assert not owned("train", prompt_of(item))


def test_right_endings_take_every_place_equally_often() -> None:
    made = items("tiny_completion", "test", 200)
    assert set(Counter(item["gold"] for item in made).values()) == {200 // NUM_CHOICES}
    lengths = {True: 0, False: 0}
    for item in made:
        choices, gold = item["choices"], item["gold"]
        assert isinstance(choices, list)
        assert isinstance(gold, int)
        assert len(set(choices)) == NUM_CHOICES
        assert all(choice.startswith(" ") for choice in choices)
        lengths[True] += len(choices[gold])
        lengths[False] += sum(map(len, choices)) - len(choices[gold])
    # The right ending is neither longer nor shorter than the wrong ones.
    assert lengths[True] * (NUM_CHOICES - 1) / lengths[False] == pytest.approx(1.0, abs=0.1)


def test_last_words_are_one_word_of_the_story() -> None:
    for item in items("tiny_lastword", "test", 200):
        target = str(item["target"])
        assert target.startswith(" ")
        assert target.strip() in str(item["context"])
        assert not str(item["context"]).endswith(" ")


def test_the_shipped_files_are_the_ones_the_log_speaks_of() -> None:
    folder = ASSETS
    log = json.loads((folder / "build_log.json").read_text())
    assert log["steps_scale"] == 1.0
    assert log["teacher"]["recipe"] == asdict(build_tiny.TEACHER)
    assert log["student"]["recipe"] == asdict(build_tiny.STUDENT)
    for name, value in log["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == value


def test_the_teacher_is_stronger_on_every_task() -> None:
    log = json.loads((ASSETS / "build_log.json").read_text())
    for split in ITEM_SPLITS:
        for task in TASKS:
            assert log["teacher"]["scores"][split][task] > log["student"]["scores"][split][task] + 0.1


def test_the_models_are_uncertain_in_different_places() -> None:
    """Else no experiment could tell the student's entropy from the teacher's: it was 0.83 in the first edition."""
    overlap = build_tiny.entropy_overlap(ASSETS)
    assert overlap == pytest.approx(json.loads((ASSETS / "build_log.json").read_text())["entropy_overlap"], abs=0.01)
    assert overlap["0.2"] <= 0.6


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny.build(folder, steps_scale=0.0005)
    return folder


@pytest.mark.slow
def test_a_build_loads(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built / "tokenizer")
    assert len(tokenizer) == 2048
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    text = "Question: Tom has 14 apples. Answer: 14 + 9 = 23. #### 23"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(sum(char.isdigit() for char in piece) < 2 for piece in tokenizer.convert_ids_to_tokens(ids))
    sizes = {}
    for name in ("teacher", "student"):
        assert len(AutoTokenizer.from_pretrained(built / name)) == 2048
        model = AutoModelForCausalLM.from_pretrained(built / name, dtype=torch.float32)
        logits = model(input_ids=torch.tensor([ids])).logits
        assert logits.shape == (1, len(ids), 2048)
        assert logits.isfinite().all()
        sizes[name] = model.num_parameters()
    assert sizes["teacher"] > 2 * sizes["student"]


@pytest.mark.slow
def test_a_build_is_logged(built: Path) -> None:
    log = json.loads((built / "build_log.json").read_text())
    assert log["steps_scale"] == 0.0005
    for name in ("teacher", "student"):
        assert log[name]["curve"][-1]["step"] == log[name]["recipe"]["steps"]
        assert set(log[name]["scores"]["test"]) >= set(TASKS)
        assert f"{name}/model.safetensors" in log["sha256"]


@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_an_impossible_scale_is_refused(scale: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps_scale"):
        build_tiny.build(tmp_path, steps_scale=scale)
