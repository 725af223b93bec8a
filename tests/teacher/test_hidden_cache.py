"""The cache of hidden states: exact, whole or absent, and named by everything it depends on."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.config.errors import UserError
from harness.data.tokens import Batch, Tokens
from harness.models import Head
from harness.teacher.hidden import HiddenCache, build_hidden, make_hidden_shards, open_hidden
from harness.teacher.source import Source

NUM, LENGTH, SIZE = 7, 5, 4


@pytest.fixture
def tokens() -> Tokens:
    ids = np.random.RandomState(0).randint(2, 50, size=(NUM, LENGTH)).astype(np.int32)
    return Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=0.5, key="tokens")


def source_of(tokens: Tokens, dtype: torch.dtype = torch.float32, **changes: Any) -> Source:
    name = str(dtype).removeprefix("torch.")
    return Source(**{"tokens": tokens, "teacher": "teacher", "tokenizer": "tokenizer", "dtype": name, **changes})


def states(dtype: torch.dtype) -> Tensor:
    """Hidden states of every sequence, some of them at the limits of a dtype."""
    made = torch.from_numpy(np.random.RandomState(1).standard_normal((NUM, LENGTH, SIZE))).to(dtype)
    made[0, 0] = torch.tensor([0.0, -0.0, 3e38, -1e-38], dtype=dtype)
    return made


def trunk_of(dtype: torch.dtype) -> Callable[[Batch], Tensor]:
    return lambda batch: states(dtype)[batch.index]


def head_of(dtype: torch.dtype) -> Head:
    return Head(weight=torch.from_numpy(np.random.RandomState(2).standard_normal((9, SIZE))).to(dtype))


def build(folder: Path, tokens: Tokens, dtype: torch.dtype = torch.float32, **changes: Any) -> HiddenCache:
    given = {"trunk": trunk_of(dtype), "batch_size": 3, "shard_size": 3, **changes}
    source = source_of(tokens, dtype, only=given.pop("only", None))
    return build_hidden(folder, source, given.pop("trunk"), head_of(dtype), **given)


def all_states(cache: HiddenCache, tokens: Tokens) -> Tensor:
    return cache.hidden(tokens.batch(torch.arange(NUM)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_states_and_head_come_back_bit_by_bit(dtype: torch.dtype, tokens: Tokens, tmp_path: Path) -> None:
    build(tmp_path, tokens, dtype)
    opened = open_hidden(tmp_path, source_of(tokens, dtype))
    assert opened is not None
    index = torch.tensor([6, 0, 2, 0])
    found = opened.hidden(tokens.batch(index))
    assert found.dtype == opened.dtype == dtype
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(found.view(bits), states(dtype)[index].view(bits))
    assert torch.equal(opened.head.weight, head_of(dtype).weight)
    assert opened.head.weight.dtype == dtype


def test_a_cache_costs_what_it_says(tokens: Tokens, tmp_path: Path) -> None:
    cache = build(tmp_path, tokens, torch.bfloat16)
    sizes = {path.name: path.stat().st_size for path in cache.path.iterdir()}
    shards = [f"shard-0000{number}.safetensors" for number in range(3)]
    assert sizes.keys() == {*shards, "head.safetensors", "meta.json"}
    assert cache.num_bytes == sum(sizes.values()) - sizes["meta.json"]
    assert cache.bytes_per_token == sum(sizes[name] for name in shards) / (NUM * LENGTH)
    assert 0 <= cache.bytes_per_token * NUM * LENGTH - NUM * LENGTH * SIZE * 2 <= 3 * 96  # headers
    assert cache.build_s > 0
    assert cache.num_tokens == json.loads((cache.path / "meta.json").read_text())["num_tokens"] == NUM * LENGTH


def test_progress_counts_sequences(tokens: Tokens, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    build(tmp_path, tokens, shard_size=6, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


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
    assert opened.num_tokens == 4 * LENGTH
    index = torch.tensor([6, 0, 3])
    assert torch.equal(opened.hidden(tokens.batch(index)), states(torch.float32)[index])
    for missing in (1, 4, 5):
        with pytest.raises(UserError, match=f"has no sequence {missing}"):
            opened.hidden(tokens.batch(torch.tensor([0, missing])))
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
    alone, source, here, told = build(tmp_path / "alone", tokens), source_of(tokens), list[int](), list[int]()

    def trunk(batch: Batch) -> Tensor:
        here.extend(batch.index.tolist())
        return trunk_of(torch.float32)(batch)

    def spread(numbers: Sequence[int], waiting: Callable[[], None]) -> None:
        assert list(numbers) == [0, 1, 2]
        make_hidden_shards(tmp_path, source, trunk_of(torch.float32), batch_size=3, numbers=numbers[::2])
        waiting()

    together = build(tmp_path, tokens, trunk=trunk, spread=spread, on_progress=lambda done, _: told.append(done))
    assert here == [3, 4, 5], "the shard in the middle was left"
    assert told[0] == 6
    assert told[-1] == NUM
    assert together.path.name == alone.path.name
    for name in (path.name for path in alone.path.glob("*.safetensors")):
        assert (together.path / name).read_bytes() == (alone.path / name).read_bytes()
    assert {path.name for path in together.path.iterdir()} == {path.name for path in alone.path.iterdir()}
    build(tmp_path, tokens, spread=lambda *_: pytest.fail("nothing is missing"))
    (tmp_path / "nobody").mkdir()
    with pytest.raises(UserError, match=r"meta\.json"):
        make_hidden_shards(tmp_path / "nobody", source, trunk, batch_size=3, numbers=[0])
