"""The cache of hidden states: exact, whole or absent, and named by everything it depends on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import caches_in
from torch import Tensor

from harness.config.errors import UserError
from harness.data.tokens import Batch, Tokens
from harness.models import Head
from harness.teacher.kinds.hidden import HiddenStates, TeacherHead
from harness.teacher.kinds.rows import RowTeacher, Trunk
from harness.teacher.provide import Make, Stored, open_stored, provide
from harness.teacher.source import Source

NUM, LENGTH, SIZE = 7, 5, 4


@pytest.fixture
def tokens() -> Tokens:
    ids = np.random.RandomState(0).randint(2, 50, size=(NUM, LENGTH)).astype(np.int32)
    return Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=0.5, key="tokens")


def source_of(tokens: Tokens, dtype: torch.dtype = torch.float32, **changes: Any) -> Source:
    name = str(dtype).removeprefix("torch.")
    return Source(
        **{
            "tokens": tokens,
            "teacher": "teacher",
            "tokenizer": "tokenizer",
            "dtype": name,
            "about": {"data": "train"},
            **changes,
        }
    )


def states(dtype: torch.dtype) -> Tensor:
    """Hidden states of every sequence, some of them at the limits of a dtype."""
    made = torch.from_numpy(np.random.RandomState(1).standard_normal((NUM, LENGTH, SIZE))).to(dtype)
    made[0, 0] = torch.tensor([0.0, -0.0, 3e38, -1e-38], dtype=dtype)
    return made


def trunk_of(dtype: torch.dtype) -> Callable[[Batch], Tensor]:
    return lambda batch: states(dtype)[batch.index]


def head_of(dtype: torch.dtype) -> Head:
    return Head(weight=torch.from_numpy(np.random.RandomState(2).standard_normal((9, SIZE))).to(dtype))


def teacher_of(trunk: Trunk, batch_size: int = 3) -> Callable[[], RowTeacher]:
    return lambda: RowTeacher(trunk=trunk, head=head_of(torch.float32), batch_size=batch_size, chunk=1)


def build(
    folder: Path,
    tokens: Tokens,
    dtype: torch.dtype = torch.float32,
    *,
    trunk: Trunk | None = None,
    only: Any = None,
    **changes: Any,
) -> Stored[Trunk]:
    fields = {"batch_size": 3, "shard_size": 3, **changes}
    asked = teacher_of(trunk or trunk_of(dtype), fields["batch_size"])
    return provide(HiddenStates(), source_of(tokens, dtype, only=only), asked, results=caches_in(folder), **fields)


def open_hidden(folder: Path, source: Source) -> Stored[Trunk] | None:
    return open_stored(HiddenStates(), source, caches_in(folder))


def all_states(cache: Stored[Trunk], tokens: Tokens) -> Tensor:
    return cache.read(tokens.batch(torch.arange(NUM)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_states_and_head_come_back_bit_by_bit(dtype: torch.dtype, tokens: Tokens, tmp_path: Path) -> None:
    build(tmp_path, tokens, dtype)
    source = source_of(tokens, dtype)
    provide(TeacherHead(), source, lambda: head_of(dtype), results=caches_in(tmp_path), batch_size=1)
    opened = open_hidden(tmp_path, source)
    assert opened is not None
    # Of other data, the head is the same.
    head = open_stored(TeacherHead(), source_of(replace(tokens, key="other"), dtype), caches_in(tmp_path))
    assert head is not None
    assert open_stored(TeacherHead(), source_of(tokens, dtype, tokenizer="other"), caches_in(tmp_path)) is None
    index = torch.tensor([6, 0, 2, 0])
    found = opened.read(tokens.batch(index))
    assert found.dtype == dtype
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(found.view(bits), states(dtype)[index].view(bits))
    assert torch.equal(head.read().weight, head_of(dtype).weight)
    assert head.read().weight.dtype == dtype


def test_a_cache_costs_what_it_says(tokens: Tokens, tmp_path: Path) -> None:
    cache = build(tmp_path, tokens, torch.bfloat16)
    sizes = {path.name: path.stat().st_size for path in cache.store.path.iterdir()}
    shards = [f"shard-0000{number}.safetensors" for number in range(3)]
    assert sizes.keys() == {*shards, "meta.json"}
    assert cache.num_bytes == sum(sizes.values()) - sizes["meta.json"]
    meta = cache.store.meta
    assert meta.bytes_per_token == sum(sizes[name] for name in shards) / (NUM * LENGTH)
    assert 0 <= meta.bytes_per_token * NUM * LENGTH - NUM * LENGTH * SIZE * 2 <= 3 * 96  # headers
    assert cache.build_s > 0
    assert meta.num_tokens == json.loads((cache.store.path / "meta.json").read_text())["num_tokens"] == NUM * LENGTH


def test_progress_counts_sequences(tokens: Tokens, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    build(tmp_path, tokens, shard_size=6, on_progress=lambda *step: seen.append(step))
    assert seen == [("teacher states, train", done, 7) for done in (3, 6, 7)]


def test_shards_hold_whole_batches(tokens: Tokens, tmp_path: Path) -> None:
    # Or the last batch of a shard would have a shape that no batch of training has.
    seen: list[int] = []

    def trunk(batch: Batch) -> Tensor:
        seen.append(len(batch.index))
        return states(torch.float32)[batch.index]

    build(tmp_path, tokens, trunk=trunk, batch_size=2, shard_size=3)
    assert seen == [2, 2, 2, 1]


def test_the_cache_does_not_depend_on_batch_and_shard_size(tokens: Tokens, tmp_path: Path) -> None:
    for size in (1, 3, 100):
        cache = build(tmp_path / str(size), tokens, batch_size=size, shard_size=4)
        assert torch.equal(all_states(cache, tokens), states(torch.float32))


def test_a_cache_of_some_sequences_holds_those_and_refuses_others(tokens: Tokens, tmp_path: Path) -> None:
    seen: list[int] = []

    def trunk(batch: Batch) -> Tensor:
        seen.extend(batch.index.tolist())
        return states(torch.float32)[batch.index]

    only = np.array([0, 2, 3, 6])
    build(tmp_path, tokens, only=only, trunk=trunk)
    assert seen == only.tolist()
    opened = open_hidden(tmp_path, source_of(tokens, only=only))
    assert opened is not None
    assert opened.store.meta.num_tokens == 4 * LENGTH
    index = torch.tensor([6, 0, 3])
    assert torch.equal(opened.read(tokens.batch(index)), states(torch.float32)[index])
    for missing in (1, 4, 5):
        with pytest.raises(UserError, match=f"has no sequence {missing}"):
            opened.read(tokens.batch(torch.tensor([0, missing])))
    assert open_hidden(tmp_path, source_of(tokens)) is None
    assert open_hidden(tmp_path, source_of(tokens, only=only[:3])) is None


@pytest.mark.parametrize("only", [[], [2, 1], [1, 1], [-1, 2], [3, 7]])
def test_sequences_must_be_ascending_and_exist(only: list[int], tokens: Tokens) -> None:
    with pytest.raises(UserError, match="ascending"):
        source_of(tokens, only=np.array(only, dtype=np.int64))


def test_there_is_no_cache_before_it_is_built(tokens: Tokens, tmp_path: Path) -> None:
    assert open_hidden(tmp_path, source_of(tokens)) is None
    build(tmp_path, tokens)
    assert open_hidden(tmp_path, source_of(tokens, teacher="other")) is None


def test_building_takes_no_gradients(tokens: Tokens, tmp_path: Path) -> None:
    weight = torch.ones(SIZE, requires_grad=True)
    cache = build(tmp_path, tokens, trunk=lambda batch: states(torch.float32)[batch.index] * weight)
    assert not all_states(cache, tokens).requires_grad


def test_shards_that_others_make_are_taken_and_the_rest_is_made_here(tokens: Tokens, tmp_path: Path) -> None:
    alone, here, told = build(tmp_path / "alone", tokens), list[int](), list[int]()

    def trunk(batch: Batch) -> Tensor:
        here.extend(batch.index.tolist())
        return trunk_of(torch.float32)(batch)

    def spread(what: str, make: Make, numbers: Sequence[int], waiting: Callable[[], None]) -> None:
        assert (what, list(numbers)) == ("teacher states, train", [0, 1, 2])
        make(numbers[::2])
        here.clear()
        waiting()
        (cache,) = tmp_path.glob("hidden-*")
        cache.rename(tmp_path / "aside")
        with pytest.raises(UserError, match=r"meta\.json"):
            make(numbers)
        (tmp_path / "aside").rename(cache)

    together = build(tmp_path, tokens, trunk=trunk, spread=spread, on_progress=lambda _, done, __: told.append(done))
    assert here == [3, 4, 5], "the shard in the middle was left"
    assert told[0] == 6
    assert told[-1] == NUM
    ours, theirs = together.store.path, alone.store.path
    assert ours.name == theirs.name
    for name in (path.name for path in theirs.glob("*.safetensors")):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    build(tmp_path, tokens, spread=lambda *_: pytest.fail("nothing is missing"))
