"""Caches of draws and of largest classes: what online computation gives, at a fraction of the bytes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import caches_in
from torch import Tensor

from harness.config import Choice, Optimisation
from harness.config.errors import UserError
from harness.config.expand import presets
from harness.data.tokens import Batch, Tokens
from harness.distill.train import train
from harness.models import Head
from harness.teacher.interface import Targets
from harness.teacher.kinds.draws import StoredDraws
from harness.teacher.kinds.hidden import HiddenStates
from harness.teacher.kinds.rows import RowTeacher
from harness.teacher.kinds.top_classes import TopClasses
from harness.teacher.provide import Stored, open_stored, provide
from harness.teacher.source import Source
from strategies.base import log_probs
from strategies.classes.rs import rs
from strategies.classes.top_k import top_k
from strategies.classes.top_k_tail import top_k_tail
from strategies.noise import cells

NUM, LENGTH, SIZE, VOCAB = 9, 7, 6, 60
QWEN3 = 151_936


def make_source(dtype: torch.dtype = torch.float32, *, num: int = NUM, length: int = LENGTH, **changes: Any) -> Source:
    ids = np.random.RandomState(0).randint(0, 12, size=(num, length)).astype(np.int32)
    tokens = Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=0.5, key="tokens")
    name = str(dtype).removeprefix("torch.")
    return Source(**{"tokens": tokens, "teacher": "teacher", "tokenizer": "map", "dtype": name, **changes})


def teacher_of(source: Source, *, batch_size: int = 2, chunk: int = 5, vocab_size: int = VOCAB) -> RowTeacher:
    dtype = getattr(torch, source.dtype)
    draws = np.random.RandomState(1)
    hidden = torch.from_numpy(draws.standard_normal((*source.tokens.ids.shape, SIZE))).to(dtype)
    head = Head(weight=torch.from_numpy(draws.standard_normal((vocab_size, SIZE))).to(dtype))
    return RowTeacher(trunk=lambda batch: hidden[batch.index], head=head, batch_size=batch_size, chunk=chunk)


def online(teacher: RowTeacher, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The teacher's log-probabilities at the valid positions, and their noise keys."""
    rows, positions = batch.valid.nonzero(as_tuple=True)
    logits = teacher.trunk(batch)[batch.valid] @ teacher.head.weight.T
    return log_probs(logits / temperature), cells(batch.index[rows], positions)


@dataclass(frozen=True)
class Cache:
    """Draws or largest classes that are stored, as a test looks at them."""

    kind: Any
    stored: Stored[Targets]

    def target(self, batch: Batch) -> Any:
        return self.kind.target(self.stored.store, batch)


def stored(folder: Path, source: Source, kind: Any, teacher: RowTeacher | None = None) -> Cache:
    asked = teacher or teacher_of(source)
    provide(kind, source, lambda: asked, results=caches_in(folder), batch_size=asked.batch_size, shard_size=4)
    found = open_stored(kind, source, caches_in(folder))
    assert found is not None
    return Cache(kind, found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("proposal", [1.0, 0.8])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_cached_target_is_the_one_sampled_online(
    dtype: torch.dtype, proposal: float, temperature: float, tmp_path: Path
) -> None:
    source = make_source(dtype)
    settings = StoredDraws(draws=16, proposal=proposal, seed=5, temperature=temperature, vocab_size=VOCAB)
    # The same shapes online and here: products of another shape may round differently.
    teacher = teacher_of(source, batch_size=NUM, chunk=10_000)
    cache = stored(tmp_path, source, settings, teacher)
    batch = source.tokens.batch(torch.arange(NUM))
    logprobs, keys = online(teacher, batch, temperature)
    wanted = rs(teacher_logprobs=logprobs, keys=keys, draws=16, proposal=proposal, seed=5)
    target = cache.target(batch)
    found = target.sparse(batch.places)
    assert torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.weight, wanted.weight)
    assert found.weight.dtype == wanted.weight.dtype
    assert (found.log_weight is None) == (wanted.log_weight is None)
    if wanted.log_weight is not None:
        assert found.log_weight is not None
        assert torch.equal(found.log_weight, wanted.log_weight)
    assert (target.counts[~batch.valid] == 0).all()
    assert (target.counts[batch.valid].sum(dim=-1) == 16).all()


def test_a_batch_in_any_order_and_any_part_of_its_positions(tmp_path: Path) -> None:
    source = make_source(torch.float64)
    settings = StoredDraws(draws=8, proposal=1.0, seed=5, temperature=1.0, vocab_size=VOCAB)
    cache = stored(tmp_path, source, settings)
    whole = cache.target(source.tokens.batch(torch.arange(NUM)))
    index = torch.tensor([8, 0, 3, 0])
    batch = source.tokens.batch(index)
    part = cache.target(batch)
    assert torch.equal(part.ids, whole.ids[index])
    assert torch.equal(part.counts, whole.counts[index])
    chosen = batch.valid & (torch.arange(LENGTH) % 2 == 0)
    assert torch.equal(part.sparse(chosen.flatten().nonzero()[:, 0]).ids, whole.ids[index][chosen])


def test_the_draws_do_not_depend_on_shapes_or_on_which_sequences_are_kept(tmp_path: Path) -> None:
    source = make_source(torch.float64)
    settings = StoredDraws(draws=8, proposal=1.0, seed=5, temperature=1.0, vocab_size=VOCAB)
    only = np.array([1, 4, 8])
    few = make_source(torch.float64, only=only)
    caches = [
        stored(tmp_path / "a", source, settings, teacher_of(source, batch_size=1, chunk=1)),
        stored(tmp_path / "b", source, settings, teacher_of(source, batch_size=4, chunk=1000)),
        stored(tmp_path / "c", few, settings),
    ]
    batch = source.tokens.batch(torch.from_numpy(only))
    targets = [cache.target(batch) for cache in caches]
    assert all(torch.equal(target.ids, targets[0].ids) for target in targets)
    assert all(torch.equal(target.counts, targets[0].counts) for target in targets)
    with pytest.raises(UserError, match="has no sequence 5"):
        caches[2].target(source.tokens.batch(torch.tensor([5])))
    other = stored(tmp_path / "d", source, replace(settings, seed=6)).target(batch)
    assert not torch.equal(other.ids, targets[0].ids)


def test_a_hidden_cache_serves_as_the_teacher(tmp_path: Path) -> None:
    source = make_source()
    teacher = teacher_of(source)
    hidden = provide(HiddenStates(), source, lambda: teacher, results=caches_in(tmp_path), batch_size=2)
    from_cache = replace(teacher, trunk=hidden.read)
    settings = StoredDraws(draws=8, proposal=1.0, seed=5, temperature=1.0, vocab_size=VOCAB)
    batch = source.tokens.batch(torch.arange(NUM))
    found = [
        stored(tmp_path / name, source, settings, each).target(batch)
        for name, each in (("a", teacher), ("b", from_cache))
    ]
    assert torch.equal(found[0].ids, found[1].ids)
    assert torch.equal(found[0].counts, found[1].counts)


def test_sequences_without_a_target_have_no_draws(tmp_path: Path) -> None:
    ids = np.ones((3, LENGTH), dtype=np.int32)  # separators only
    tokens = Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=0.5, key="tokens")
    source = make_source(tokens=tokens)
    settings = StoredDraws(draws=8, proposal=1.0, seed=5, temperature=1.0, vocab_size=VOCAB)
    batch = tokens.batch(torch.arange(3))
    target = stored(tmp_path, source, settings).target(batch)
    assert target.ids.shape == (3, LENGTH, 8)
    assert (target.counts == 0).all()
    largest = stored(tmp_path, source, TopClasses(k=3, precision="float32", temperature=1.0, vocab_size=VOCAB)).target(
        batch
    )
    assert torch.isneginf(largest.logprobs).all()


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("k", [1, 5, VOCAB])
def test_the_largest_classes_and_the_tail_are_the_teachers(
    precision: Literal["float16", "bfloat16", "float32"], k: int, tmp_path: Path
) -> None:
    source = make_source()
    settings = TopClasses(k=k, precision=precision, temperature=2.0, vocab_size=VOCAB)
    cache = stored(tmp_path, source, settings)
    index = torch.tensor([7, 0, 3])
    batch = source.tokens.batch(index)
    logprobs, _ = online(teacher_of(source), batch, temperature=2.0)
    wanted = logprobs.topk(k, dim=-1)
    target = cache.target(batch)
    assert torch.equal(target.ids[batch.valid], wanted.indices)
    # Half a unit in the last place of each format.
    tolerance = {"float32": 1e-6, "float16": 2.0**-11, "bfloat16": 2.0**-8}[precision]
    torch.testing.assert_close(target.logprobs[batch.valid], wanted.values, rtol=tolerance, atol=1e-6)
    tail = target.log_tail[batch.valid].exp()
    torch.testing.assert_close(tail, 1.0 - wanted.values.exp().sum(dim=-1), rtol=0, atol=1e-6)
    assert (tail == 0).all() == (k == VOCAB)
    # One byte for an id of 60, the log-probability, and the tail in float32.
    positions = int(source.tokens.batch(torch.arange(NUM)).valid.sum())
    exact = positions * (k * (1 + {"float32": 4}.get(precision, 2)) + 4)
    assert exact <= cache.stored.store.meta.num_bytes <= exact + 3 * 512 + source.num_tokens


@pytest.mark.parametrize("renormalise", [False, True])
def test_cached_largest_classes_are_the_targets_made_online(renormalise: bool, tmp_path: Path) -> None:
    source = make_source()
    cache = stored(tmp_path, source, TopClasses(k=5, precision="float32", temperature=1.0, vocab_size=VOCAB))
    batch = source.tokens.batch(torch.arange(NUM))
    logprobs, _ = online(teacher_of(source), batch)
    target = cache.target(batch)
    pairs = [
        (target.sparse(batch.places, tail=True, renormalise=False), top_k_tail(teacher_logprobs=logprobs, num=5)),
        (
            target.sparse(batch.places, tail=False, renormalise=renormalise),
            top_k(teacher_logprobs=logprobs, num=5, renormalise=renormalise),
        ),
    ]
    for found, wanted in pairs:
        assert torch.equal(found.ids, wanted.ids)
        for name in ("weight", "log_weight", "tail", "log_tail"):
            ours, theirs = getattr(found, name), getattr(wanted, name)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("proposal", [1.0, 0.7])
@pytest.mark.parametrize("only", [None, [0, 2, 3, 5, 6, 7]])
def test_training_from_the_cache_is_training_with_draws_made_online(
    proposal: float, only: list[int] | None, make_pair: Any, make_core: Any, tmp_path: Path
) -> None:
    # Two epochs, no teacher in the second run. Counts are exact, so the student ends up equal bit by bit; log-weights
    # of another proposal carry the rounding of the products they were computed in.
    tolerance = 0.0 if proposal == 1.0 else 1e-11
    draws = np.random.RandomState(3)
    ids = draws.randint(1, 97, size=(8, 12)).astype(np.int32)
    tokens = Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=1.0, key="k")
    kept = None if only is None else np.array(only)
    source = make_source(torch.float64, tokens=tokens, only=kept)
    rs_kd = presets()["rs_kd"]
    options = {"draws": 6, "proposal": proposal, "seed": 9}
    strategy = rs_kd.model_copy(update={"classes": Choice(name="rs", options=options)})
    optimisation = Optimisation(
        learning_rate=1e-3,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        schedule="cosine",
        warmup=0.1,
        batch_size=2,
        micro_batch_size=1,
        epochs=2,
        max_grad_norm=1.0,
    )
    first, second = make_pair(torch.float64), make_pair(torch.float64)
    core = make_core(strategy, first)
    teacher = RowTeacher(trunk=core.teacher.hidden, head=core.teacher.head, batch_size=2, chunk=7)
    settings = StoredDraws(draws=6, proposal=proposal, seed=9, temperature=1.0, vocab_size=first.vocab_size)
    cache = stored(tmp_path, source, settings, teacher)
    without = replace(make_core(strategy, second, with_teacher=False), targets=cache.stored.read)
    # Where only some sequences are held, training sees those alone, under the numbers they have in the data set.
    trained = tokens if kept is None else Chosen(**vars(tokens), kept=kept)
    one, two = train(core, trained, optimisation), train(without, trained, optimisation)
    pd.testing.assert_frame_equal(one.curve, two.curve, check_exact=proposal == 1.0, rtol=tolerance)
    assert two.tally.teacher_rows == two.tally.teacher_passes == 0
    for ours, theirs in zip(first.student.parameters(), second.student.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@dataclass(frozen=True, kw_only=True)
class Chosen(Tokens):
    """Some sequences of a data set, under their own numbers."""

    kept: np.ndarray

    def __len__(self) -> int:
        return len(self.kept)

    def batch(self, index: Tensor) -> Batch:
        return super().batch(torch.from_numpy(self.kept)[index])


@pytest.mark.parametrize("k", [0, VOCAB + 1])
def test_k_is_a_number_of_classes(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must lie in \\[1, {VOCAB}\\]"):
        TopClasses(k=k, precision="float32", temperature=1.0, vocab_size=VOCAB)


def zipf_teacher(source: Source, vocab_size: int) -> RowTeacher:
    """Zipf-like rows of a large vocabulary, from nearly certain to nearly flat, their classes in a random order."""
    draws = np.random.RandomState(0)
    ranks = torch.from_numpy(np.log1p(draws.permutation(vocab_size))).float()
    sharpness = torch.from_numpy(draws.gamma(4.0, 0.5, size=(*source.tokens.ids.shape, 1))).float()
    head = Head(weight=-ranks[:, None])
    return RowTeacher(trunk=lambda batch: sharpness[batch.index], head=head, batch_size=2, chunk=16)


def test_a_vocabulary_of_qwen3_costs_less_than_fixed_records(tmp_path: Path) -> None:
    source = make_source(num=4, length=16)
    settings = StoredDraws(draws=64, proposal=1.0, seed=0, temperature=1.0, vocab_size=QWEN3)
    teacher = zipf_teacher(source, QWEN3)
    cache = stored(tmp_path, source, settings, teacher)
    batch = source.tokens.batch(torch.arange(4))
    target = cache.target(batch)
    assert int(target.ids.max()) > 131_071, "an id that 17 bits cannot hold"
    logprobs, keys = online(teacher, batch)
    wanted = rs(teacher_logprobs=logprobs, keys=keys, draws=64, proposal=1.0, seed=0)
    found = target.sparse(batch.places)
    assert torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.weight, wanted.weight)
    distinct = float((target.counts > 0).sum()) / target.counts[..., 0].numel()
    # 3 bytes for each distinct class, one for their number, and a header per shard.
    headers = 2 * 512 / source.num_tokens
    assert 3 * distinct < cache.stored.store.meta.bytes_per_token <= 3 * distinct + 1 + headers
    assert cache.stored.store.meta.bytes_per_token < 192, "64 records of 3 bytes, stored whether drawn or not"


def test_few_draws_from_sharp_rows_cost_no_more_than_the_paper_says(tmp_path: Path) -> None:
    # RS-KD states about 12 distinct classes of 3 bytes, 36 bytes.
    source = make_source(num=8, length=64)
    settings = StoredDraws(draws=12, proposal=1.0, seed=0, temperature=1.0, vocab_size=QWEN3)
    cache = stored(tmp_path, source, settings, zipf_teacher(source, QWEN3))
    headers = 3 * 512 / source.num_tokens
    assert cache.stored.store.meta.bytes_per_token <= 36 + 1 + headers
