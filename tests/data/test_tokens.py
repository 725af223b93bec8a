"""Packed tokens: the shift of the targets, the separators, and what identifies a data set."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import END_OF_TEXT, SEPARATOR, caches_in
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from harness.config import Data
from harness.config.errors import UserError
from harness.data.text import fingerprint, texts
from harness.data.tokens import Tokens, prepare, with_targets
from harness.models.vocabulary import Vocabulary


def data(**changes: Any) -> Data:
    fields = {
        "dataset": "json",
        "data_files": {split: f"{split}.jsonl" for split in ("train", "validation", "test")},
        "sequence_length": 16,
        "train_tokens": 400,
        "heldout_tokens": 160,
        "cross_document_targets": False,
    }
    return Data.model_validate({**fields, **changes})


@pytest.fixture
def pack(checkpoints: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Callable[..., Tokens]:
    def make(split: str = "train", *, cache: Path = tmp_path, source_key: str = "source", **changes: Any) -> Tokens:
        return prepare(
            data(**changes),
            checkpoints,
            split,
            tokenizer,
            source_key=source_key,
            results=caches_in(cache),  # type: ignore[arg-type]
        )

    return make


def write_rows(folder: Path, rows: list[Any]) -> Data:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return data(data_files=dict.fromkeys(("train", "validation", "test"), str(path)), train_tokens=16)


# ---- targets


def test_targets_are_shifted_by_exactly_one() -> None:
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    batch = with_targets(ids, index=torch.arange(2), separator=None)
    assert batch.targets.tolist() == [[6, 7, 8, 0], [10, 11, 12, 0]]
    assert batch.valid.tolist() == [[True, True, True, False]] * 2
    assert torch.equal(batch.input_ids, ids)


def test_the_mask_belongs_to_the_position_that_predicts() -> None:
    # End of text is predicted from the last token of its document; nothing is predicted from end of text.
    ids = torch.tensor([[5, 6, SEPARATOR, 7, 8]])
    batch = with_targets(ids, index=torch.arange(1), separator=SEPARATOR)
    assert batch.valid.tolist() == [[True, True, False, True, False]]
    assert batch.targets[0, 1] == SEPARATOR
    kept = [(int(ids[0, t]), int(batch.targets[0, t])) for t in range(5) if batch.valid[0, t]]
    assert kept == [(5, 6), (6, SEPARATOR), (7, 8)]


def test_cross_document_targets_are_a_choice(pack: Callable[..., Tokens]) -> None:
    within, across = pack(cross_document_targets=False), pack(cross_document_targets=True)
    index = torch.arange(len(within))
    ours, theirs = within.batch(index), across.batch(index)
    assert torch.equal(ours.targets, theirs.targets)
    differs = ours.valid != theirs.valid
    assert bool(differs.any())
    assert torch.equal(differs, (ours.input_ids == SEPARATOR) & theirs.valid)


def test_every_valid_position_has_the_next_token_as_its_target(pack: Callable[..., Tokens]) -> None:
    tokens = pack()
    batch = tokens.batch(torch.tensor([3, 0, 7]))
    assert batch.index.tolist() == [3, 0, 7]
    assert np.array_equal(batch.input_ids.numpy(), tokens.ids[[3, 0, 7]])
    assert torch.equal(batch.targets[:, :-1], batch.input_ids[:, 1:])
    assert not batch.valid[:, -1].any()
    assert not batch.valid[batch.input_ids == SEPARATOR].any()
    assert int(batch.valid.sum()) == int(((batch.input_ids != SEPARATOR)[:, :-1]).sum())


# ---- packing


def test_documents_are_joined_by_one_separator_each_and_cut_without_loss(
    pack: Callable[..., Tokens], checkpoints: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokens = pack()
    assert tokens.ids.shape == (400 // 16, 16)
    assert tokens.separator == SEPARATOR
    expected: list[int] = []
    for text in texts(data(), checkpoints, "train"):
        expected += [*tokenizer(text, add_special_tokens=False)["input_ids"], SEPARATOR]
    assert tokens.ids.flatten().tolist() == expected[:400]


def test_tokens_per_byte_counts_text_only(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = ["the cat sees the dog", "a cat", "é" * 3]  # bytes, not characters
    tokens = prepare(
        write_rows(tmp_path, [{"text": text} for text in rows]),
        tmp_path,
        "train",
        tokenizer,
        source_key="s",
        results=caches_in(tmp_path),
    )
    num_bytes = num_tokens = num_packed = 0
    for text in rows:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        num_bytes, num_tokens = num_bytes + len(text.encode()), num_tokens + len(ids)
        num_packed += len(ids) + 1
        if num_packed >= 16:
            break
    assert tokens.tokens_per_byte == pytest.approx(num_tokens / num_bytes)


def test_empty_documents_leave_no_separator(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"text": ""}, {"text": "the cat sees the dog " * 5}, {"text": ""}]
    tokens = prepare(
        write_rows(tmp_path, rows), tmp_path, "train", tokenizer, source_key="s", results=caches_in(tmp_path)
    )
    assert tokens.ids[0, 0] != SEPARATOR


def test_text_that_spells_the_separator_is_a_separator(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"text": f"the cat{END_OF_TEXT}the dog " * 8}]
    tokens = prepare(
        write_rows(tmp_path, rows), tmp_path, "train", tokenizer, source_key="s", results=caches_in(tmp_path)
    )
    batch = tokens.batch(torch.arange(1))
    assert not batch.valid[batch.input_ids == SEPARATOR].any()


def test_preparing_is_deterministic_and_stored_once(pack: Callable[..., Tokens], tmp_path: Path) -> None:
    first = pack(cache=tmp_path / "a")
    stamp = next((tmp_path / "a").glob("tokens-*/ids.npy")).stat().st_mtime_ns
    again, elsewhere = pack(cache=tmp_path / "a"), pack(cache=tmp_path / "b")
    assert np.array_equal(first.ids, elsewhere.ids)
    assert first.key == again.key == elsewhere.key
    assert next((tmp_path / "a").glob("tokens-*/ids.npy")).stat().st_mtime_ns == stamp
    assert [path.name[:6] for path in (tmp_path / "a").iterdir()] == ["tokens"]


@pytest.mark.parametrize(
    "changes", [{"split": "validation"}, {"sequence_length": 8}, {"train_tokens": 320}, {"source_key": "other"}]
)
def test_the_key_changes_with_what_is_packed(changes: dict[str, Any], pack: Callable[..., Tokens]) -> None:
    assert pack(**changes).key != pack().key


def test_the_key_ends_in_the_tokens_themselves(pack: Callable[..., Tokens], tmp_path: Path) -> None:
    first = pack(cache=tmp_path / "a")
    other = pack("validation", cache=tmp_path / "a", heldout_tokens=400)
    assert first.key.split("-")[1] != other.key.split("-")[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_tokens": 10**6}, r"the train split has \d+ tokens, the workload asks for 1000000: add documents"),
        ({"train_tokens": 15}, "15 tokens of train data are less than one sequence of 16"),
        ({"text_field": "body"}, r"train.jsonl, row 0: field 'body' must be text, the row has text: str"),
    ],
)
def test_too_little_data_or_no_text_is_refused(
    changes: dict[str, Any], message: str, pack: Callable[..., Tokens], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        pack(**changes)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("tokens", "."))]


@pytest.mark.parametrize("rows", [[{"text": 3}], [{"text": "fine " * 9}, {"text": None}], [{"txt": "x"}]])
def test_a_row_without_text_is_named(rows: list[Any], tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    described = write_rows(tmp_path, rows).model_copy(update={"train_tokens": 10_000})
    with pytest.raises(UserError, match=rf"row {len(rows) - 1}: field 'text' must be text"):
        prepare(described, tmp_path, "train", tokenizer, source_key="s", results=caches_in(tmp_path))


def test_a_file_that_is_no_json_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    described = write_rows(tmp_path, [{"text": "x"}])
    (tmp_path / "rows.jsonl").write_text('{"text": "fine"}\n{"text": \n', encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.jsonl is not JSON lines: line 2: Expecting value"):
        prepare(described, tmp_path, "train", tokenizer, source_key="s", results=caches_in(tmp_path))


def test_a_split_without_files_is_refused(checkpoints: Path) -> None:
    described = data(data_files={"train": "train.jsonl"})
    with pytest.raises(UserError, match="no validation split"):
        list(texts(described, checkpoints, "validation"))


def test_the_data_fingerprint_follows_the_content(tmp_path: Path) -> None:
    described = write_rows(tmp_path, [{"text": "one"}])
    before = fingerprint(described, tmp_path)
    assert fingerprint(described, tmp_path) == before
    write_rows(tmp_path, [{"text": "two"}])
    assert fingerprint(described, tmp_path) != before
    assert fingerprint(data(generator="tiny", dataset=None, data_files=None), tmp_path) != before


def test_the_tokenizer_fingerprint_follows_everything_that_maps_text_to_ids(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    import copy

    before = Vocabulary.of(tokenizer).fingerprint
    same = copy.deepcopy(tokenizer)
    assert Vocabulary.of(same).fingerprint == before
    lower = copy.deepcopy(tokenizer)
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert lower.get_vocab() == tokenizer.get_vocab()
    assert lower("The")["input_ids"] != tokenizer("The")["input_ids"]
    assert Vocabulary.of(lower).fingerprint != before


def test_another_process_is_sent_the_names_of_mapped_files_and_the_content_of_parts(tmp_path: Path) -> None:
    file = tmp_path / "ids.npy"
    np.save(file, np.arange(12, dtype=np.int32).reshape(4, 3))
    mapped = np.load(file, mmap_mode="r")
    whole = Tokens(ids=mapped, separator=0, cross_document_targets=False, tokens_per_byte=1.0, key="k")
    sent = pickle.dumps(whole)
    assert file.name.encode() in sent
    assert (pickle.loads(sent).ids == mapped).all()
    part = pickle.loads(pickle.dumps(replace(whole, ids=mapped[1:3])))
    assert part.ids.tolist() == [[3, 4, 5], [6, 7, 8]]
