"""Packed draws come back exactly, in as many bytes as the specification promises."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.teacher.kinds.bits import PairLayout, laid_out, ragged

QWEN3 = 151_936


@pytest.mark.parametrize(
    ("vocab_size", "draws", "num_bytes"),
    [
        (QWEN3, 63, 3),
        (QWEN3, 64, 3),  # count - 1 is stored
        (262_144, 64, 3),
        (262_145, 64, 4),
        (QWEN3, 65, 4),
        (2048, 64, 3),
        (2048, 32, 2),
        (256, 1, 1),
        (QWEN3, 1, 3),
        (1, 1, 1),
        (2**31, 2**20, 7),
    ],
)
def test_a_record_takes_whole_bytes_and_as_few_as_hold_it(vocab_size: int, draws: int, num_bytes: int) -> None:
    record = PairLayout(vocab_size=vocab_size, draws=draws)
    assert record.num_bytes == num_bytes
    ids = np.array([0, vocab_size - 1, vocab_size // 2], dtype=np.int64)
    counts = np.array([draws, 1, (draws + 1) // 2], dtype=np.int64)
    packed = record.pack(ids, counts)
    assert packed.shape == (3, num_bytes)
    assert packed.dtype == np.uint8
    found = record.unpack(packed)
    assert np.array_equal(found[0], ids)
    assert np.array_equal(found[1], counts)


def test_every_id_of_a_large_vocabulary_survives() -> None:
    # 17 bits, the paper's own cache, wrap every id above 131 071.
    record = PairLayout(vocab_size=QWEN3, draws=64)
    ids = np.arange(QWEN3, dtype=np.int64)
    for count in (1, 64):
        found = record.unpack(record.pack(ids, np.full(QWEN3, count)))
        assert np.array_equal(found[0], ids)
        assert (found[1] == count).all()


@pytest.mark.parametrize("vocab_size", [2048, QWEN3, 262_144])
def test_every_count_survives(vocab_size: int) -> None:
    record = PairLayout(vocab_size=vocab_size, draws=64)
    counts = np.arange(1, 65, dtype=np.int64)
    for first in (0, vocab_size - 1):
        found = record.unpack(record.pack(np.full(64, first), counts))
        assert np.array_equal(found[1], counts)
        assert (found[0] == first).all()


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_records_survive(data: st.DataObject) -> None:
    record = PairLayout(vocab_size=data.draw(st.integers(1, 2**33)), draws=data.draw(st.integers(1, 2**20)))
    pairs = data.draw(
        st.lists(st.tuples(st.integers(0, record.vocab_size - 1), st.integers(1, record.draws)), max_size=30)
    )
    ids, counts = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    found = record.unpack(record.pack(ids, counts))
    assert np.array_equal(found[0], ids)
    assert np.array_equal(found[1], counts)
    bits = max(1, (record.vocab_size - 1).bit_length()) + (record.draws - 1).bit_length()
    assert bits <= 8 * record.num_bytes < bits + 8


@pytest.mark.parametrize(("ids", "counts"), [([50], [1]), ([-1], [1]), ([3], [0]), ([3], [9])])
def test_what_would_wrap_is_refused(ids: list[int], counts: list[int]) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        PairLayout(vocab_size=50, draws=8).pack(np.array(ids), np.array(counts))


@pytest.mark.parametrize(("most", "dtype"), [(255, torch.uint8), (256, torch.int16), (40_000, torch.int32)])
def test_lengths_take_as_few_bytes_as_hold_them(most: int, dtype: torch.dtype) -> None:
    lengths = torch.tensor([[0, most], [3, 0]])
    shard = ragged(lengths, {})
    assert shard["lengths"].dtype == dtype
    assert torch.equal(shard["lengths"].long(), lengths)
    assert shard["starts"].tolist() == [0, most, most + 3]


def test_records_are_laid_out_on_their_positions() -> None:
    lengths = np.array([[2, 0], [1, 3]])
    spread = laid_out(lengths, np.arange(6), 4, -1.0)
    assert spread.tolist() == [[[0, 1, -1, -1], [-1, -1, -1, -1]], [[2, -1, -1, -1], [3, 4, 5, -1]]]
