"""The cache of hidden states: exact, whole or absent, and named by everything it depends on."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.cache.hidden import HiddenCache, build_hidden, cache_key, open_hidden
from harness.data.tokens import Batch, Tokens
from harness.errors import UserError
from harness.models import Head

NUM, LENGTH, SIZE = 7, 5, 4


@pytest.fixture
def tokens() -> Tokens:
    ids = np.random.RandomState(0).randint(2, 50, size=(NUM, LENGTH)).astype(np.int32)
    return Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=0.5, key="tokens")


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
    given = {"trunk": trunk_of(dtype), "batch_size": 3, **changes}
    return build_hidden(folder, "key", tokens, given.pop("trunk"), head_of(dtype), **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_states_and_head_come_back_bit_by_bit(dtype: torch.dtype, tokens: Tokens, tmp_path: Path) -> None:
    build(tmp_path, tokens, dtype)
    opened = open_hidden(tmp_path, "key")
    assert opened is not None
    index = torch.tensor([6, 0, 2])
    found = opened.hidden(tokens.batch(index))
    assert found.dtype == opened.dtype == dtype
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(found.view(bits), states(dtype)[index].view(bits))
    assert torch.equal(opened.head.weight, head_of(dtype).weight)
    assert opened.head.weight.dtype == dtype


def test_a_cache_costs_what_it_says(tokens: Tokens, tmp_path: Path) -> None:
    cache = build(tmp_path, tokens, torch.bfloat16)
    sizes = {path.name: path.stat().st_size for path in cache.path.iterdir()}
    assert cache.num_bytes == sizes["states.npy"] + sizes["head.safetensors"]
    assert 0 <= sizes["states.npy"] - NUM * LENGTH * SIZE * 2 <= 256
    assert cache.build_s > 0
    assert json.loads((cache.path / "meta.json").read_text())["num_tokens"] == NUM * LENGTH


def test_progress_counts_sequences(tokens: Tokens, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    build(tmp_path, tokens, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_the_cache_does_not_depend_on_the_batch_size(tokens: Tokens, tmp_path: Path) -> None:
    caches = [build(tmp_path / str(size), tokens, batch_size=size) for size in (1, 3, 100)]
    assert all(np.array_equal(cache.states, caches[0].states) for cache in caches)


def test_the_key_changes_with_tokens_teacher_and_dtype(tokens: Tokens) -> None:
    key = cache_key(tokens, "teacher", "float32")
    assert key == cache_key(tokens, "teacher", "float32")
    others = {
        cache_key(replace(tokens, key="other"), "teacher", "float32"),
        cache_key(tokens, "other", "float32"),
        cache_key(tokens, "teacher", "bfloat16"),
    }
    assert len(others) == 3
    assert key not in others


def test_there_is_no_cache_before_it_is_built(tokens: Tokens, tmp_path: Path) -> None:
    assert open_hidden(tmp_path, "key") is None
    build(tmp_path, tokens)
    assert open_hidden(tmp_path, "other") is None


@pytest.mark.parametrize("name", ["states.npy", "head.safetensors", "meta.json"])
@pytest.mark.parametrize("how", ["shorter", "longer", "empty"])
def test_a_damaged_file_is_refused_by_name(name: str, how: str, tokens: Tokens, tmp_path: Path) -> None:
    path = build(tmp_path, tokens).path / name
    content = path.read_bytes()
    path.write_bytes({"shorter": content[:-5], "longer": content + b"x", "empty": b""}[how])
    with pytest.raises(UserError) as caught:
        open_hidden(tmp_path, "key")
    assert str(path) in str(caught.value)
    assert "remove" in str(caught.value)


@pytest.mark.parametrize("name", ["states.npy", "head.safetensors"])
def test_a_missing_file_is_refused_by_name(name: str, tokens: Tokens, tmp_path: Path) -> None:
    path = build(tmp_path, tokens).path / name
    path.unlink()
    with pytest.raises(UserError, match=f"{name} has 0 bytes"):
        open_hidden(tmp_path, "key")


def test_a_folder_without_its_description_does_not_block_a_new_build(tokens: Tokens, tmp_path: Path) -> None:
    # What a removal that was cut short leaves behind.
    (build(tmp_path, tokens).path / "meta.json").unlink()
    assert open_hidden(tmp_path, "key") is None
    assert np.array_equal(build(tmp_path, tokens).states, states(torch.float32).numpy())


class _FailsLate:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, batch: Batch) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("out of memory")
        return states(torch.float32)[batch.index]


def test_a_build_that_fails_leaves_no_cache(tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        build(tmp_path, tokens, trunk=_FailsLate())
    assert open_hidden(tmp_path, "key") is None
    assert np.array_equal(build(tmp_path, tokens).states, states(torch.float32).numpy())


def test_a_build_that_fails_leaves_no_litter(tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        build(tmp_path, tokens, trunk=_FailsLate())
    assert list(tmp_path.iterdir()) == []


def test_two_builders_leave_one_good_cache(tokens: Tokens, tmp_path: Path) -> None:
    barrier = threading.Barrier(2, timeout=30)

    def slow(batch: Batch) -> Tensor:
        if int(batch.index[0]) == 0:
            barrier.wait()  # both have begun before either ends
        return states(torch.float32)[batch.index]

    caches: list[HiddenCache] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            caches.append(build(tmp_path, tokens, trunk=slow))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    assert [cache.path for cache in caches] == [tmp_path / "hidden-key"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["hidden-key"]
    for cache in caches:
        assert np.array_equal(cache.states, states(torch.float32).numpy())


def test_building_takes_no_gradients(tokens: Tokens, tmp_path: Path) -> None:
    weight = torch.ones(SIZE, requires_grad=True)
    cache = build(tmp_path, tokens, trunk=lambda batch: states(torch.float32)[batch.index] * weight)
    assert not cache.hidden(tokens.batch(torch.arange(2))).requires_grad
