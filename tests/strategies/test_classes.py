"""The class axis: contract of every class policy, an oracle for values and gradients, and the identities of each."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Pair, split_batch
from oracle import SPLITS, Largest, assert_same, oracle, run, variant
from torch import Tensor

from harness.config import Choice, Strategy
from harness.config.errors import UserError
from harness.config.expand import load_grid, presets
from harness.config.labels import describe_classes
from harness.config.legality import Facts, check, check_strategy, components
from harness.config.workloads import load_workload
from harness.data.tokens import Batch
from harness.distill.compare import gather_rows
from harness.distill.probe import probe
from strategies.base import SparseTarget, log_probs, log_rest
from strategies.classes.rs import draw, from_counts
from strategies.noise import cells, streams, uniform
from strategies.registry import CLASSES, CRITERIA

NAMES = list(CLASSES)
NUM, VOCAB = 12, 30

# At least one of every registered policy; with VOCAB classes.
CHOICES = [
    Choice(name="all"),
    Choice(name="rs", options={"draws": 8}),
    Choice(name="rs", options={"draws": 1, "seed": 3}),
    Choice(name="rs", options={"draws": 8, "proposal": 0.5}),
    Choice(name="rs", options={"draws": 8, "proposal": 2.0}),
    Choice(name="top_k", options={"num": 5, "renormalise": False}),
    Choice(name="top_k", options={"num": 5, "renormalise": True}),
    Choice(name="top_k_tail", options={"num": 5}),
    Choice(name="top_k_tail", options={"num": 1}),
    Choice(name="top_p", options={"mass": 0.7}),
]
WHOLE = [
    Choice(name="all"),
    Choice(name="top_k", options={"num": VOCAB, "renormalise": False}),
    Choice(name="top_k", options={"num": VOCAB, "renormalise": True}),
    Choice(name="top_k_tail", options={"num": VOCAB}),
    Choice(name="top_p", options={"mass": 1.0}),
]
every_choice = pytest.mark.parametrize("choice", CHOICES, ids=describe_classes)


def logits(seed: int = 0, *, num: int = NUM, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(scale * np.random.RandomState(seed).standard_normal((num, VOCAB))).to(dtype)


def keys(num: int, sequence: int = 0) -> Tensor:
    return cells(torch.full((num,), sequence), torch.arange(num))


def reduce(choice: Choice, teacher_logprobs: Tensor, noise: Tensor | None = None) -> SparseTarget:
    component = CLASSES[choice.name]
    given = {
        "teacher_logprobs": teacher_logprobs,
        "keys": keys(len(teacher_logprobs)) if noise is None else noise,
    }
    target = component.build(**{name: given[name] for name in component.inputs}, **choice.options)
    assert isinstance(target, SparseTarget)
    return target


def compare(choice: Choice, student: Tensor, teacher: Tensor, criterion: str = "forward_kl") -> Tensor:
    rows = gather_rows(reduce(choice, log_probs(teacher)), log_probs(student))
    return CRITERIA[criterion].build(teacher_logprobs=rows.teacher, student_logprobs=rows.student)


def whole(student: Tensor, teacher: Tensor, criterion: str = "forward_kl") -> Tensor:
    return CRITERIA[criterion].build(teacher_logprobs=log_probs(teacher), student_logprobs=log_probs(student))


def gradient(losses: Callable[[Tensor], Tensor], student: Tensor) -> Tensor:
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(losses(leaf).sum(), leaf)[0]


def with_classes(classes: Any, **changes: Any) -> Strategy:
    return variant("full_kd", classes=classes.model_dump() if isinstance(classes, Choice) else classes, **changes)


# ---- the contract of every class policy


def test_every_class_policy_is_held_to_the_contract() -> None:
    assert {choice.name for choice in CHOICES} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_policy_declares_what_it_reads_and_what_may_read_it(name: str) -> None:
    component = CLASSES[name]
    assert "teacher_logprobs" in component.inputs
    assert set(component.inputs) <= {"teacher_logprobs", "keys"}
    assert set(component.traits["criteria"]) <= set(CRITERIA)
    assert bool(component.traits["criteria"]) == bool(component.traits["because"])
    budget = component.traits["budget"]
    assert budget is None or component.options[budget].required


@every_choice
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_are_masses_on_classes_that_appear_once(choice: Choice, dtype: torch.dtype) -> None:
    teacher = log_probs(logits(dtype=dtype))
    target = reduce(choice, teacher)
    assert target.weight.dtype == dtype
    assert target.ids.shape == target.weight.shape
    assert bool(((target.ids >= 0) & (target.ids < VOCAB)).all())
    assert bool((target.weight >= 0).all())
    assert bool((target.weight > 0).any(-1).all())
    assert torch.allclose(target.log_mass().exp()[:, : target.weight.shape[1]], target.weight)
    for ids, used in zip(target.ids, target.weight > 0, strict=True):
        assert len(set(ids[used].tolist())) == int(used.sum())
    if target.tail is not None:
        assert bool((target.weight > 0).all())
        assert torch.allclose(target.weight.sum(-1) + target.tail, torch.ones(NUM, dtype=dtype))


@every_choice
def test_a_row_is_reduced_on_its_own(choice: Choice) -> None:
    teacher, student = log_probs(logits()), log_probs(logits(1))
    together = gather_rows(reduce(choice, teacher), student)
    losses = CRITERIA["forward_kl"].build(teacher_logprobs=together.teacher, student_logprobs=together.student)
    for row in range(NUM):
        part = slice(row, row + 1)
        alone = gather_rows(reduce(choice, teacher[part], keys(NUM)[part]), student[part])
        loss = CRITERIA["forward_kl"].build(teacher_logprobs=alone.teacher, student_logprobs=alone.student)
        assert float(loss) == pytest.approx(float(losses[row]), rel=1e-12)


@every_choice
def test_no_rows_at_all(choice: Choice) -> None:
    target = reduce(choice, log_probs(logits())[:0])
    assert len(gather_rows(target, log_probs(logits())[:0]).student) == 0


@every_choice
@pytest.mark.parametrize("scale", [2.0, 300.0])
def test_values_and_gradients_are_numbers_in_float32(choice: Choice, scale: float) -> None:
    student, teacher = logits(1, scale=scale, dtype=torch.float32), logits(scale=scale, dtype=torch.float32)
    teacher[0, 1:] = -torch.inf  # a teacher that is certain
    leaf = student.requires_grad_()
    losses = compare(choice, leaf, teacher)
    assert losses.dtype == torch.float32
    assert bool(torch.isfinite(losses).all())
    (grad,) = torch.autograd.grad(losses.sum(), leaf)
    assert bool(torch.isfinite(grad).all())


@every_choice
def test_weights_of_zero_contribute_exactly_nothing(choice: Choice) -> None:
    student, target = logits(1), reduce(choice, log_probs(logits()))
    if target.tail is not None:
        pytest.skip("a target with a tail has no unused places")
    padded = SparseTarget(
        ids=torch.cat([target.ids, torch.zeros((NUM, 2), dtype=torch.long)], dim=-1),
        weight=torch.cat([target.weight, torch.zeros((NUM, 2), dtype=torch.float64)], dim=-1),
    )
    plain = replace(target, log_weight=None)

    def loss(chosen: SparseTarget) -> Callable[[Tensor], Tensor]:
        def losses(leaf: Tensor) -> Tensor:
            pair = gather_rows(chosen, log_probs(leaf))
            return CRITERIA["forward_kl"].build(teacher_logprobs=pair.teacher, student_logprobs=pair.student)

        return losses

    assert torch.allclose(loss(padded)(student), loss(plain)(student), rtol=1e-14, atol=0)
    assert torch.allclose(gradient(loss(padded), student), gradient(loss(plain), student), rtol=1e-13, atol=1e-16)


@every_choice
def test_the_dry_run_passes_every_class_policy(choice: Choice) -> None:
    probe(with_classes(choice))


# ---- identities


@pytest.mark.parametrize("choice", WHOLE, ids=describe_classes)
def test_keeping_every_class_is_the_forward_kl(choice: Choice) -> None:
    student, teacher = logits(1), logits()
    assert torch.allclose(compare(choice, student, teacher), whole(student, teacher), rtol=1e-12, atol=0)
    found = gradient(lambda leaf: compare(choice, leaf, teacher), student)
    assert torch.allclose(found, gradient(lambda leaf: whole(leaf, teacher), student), rtol=0, atol=1e-14)


@pytest.mark.parametrize("num", [1, 2, 7, VOCAB - 1])
@pytest.mark.parametrize("criterion", ["forward_kl", "reverse_kl"])
def test_a_tail_bucket_loses_divergence_but_never_adds_or_turns_negative(num: int, criterion: str) -> None:
    choice = Choice(name="top_k_tail", options={"num": num})
    for seed in range(5):
        student, teacher = logits(2 * seed + 1, scale=3.0), logits(2 * seed, scale=3.0)
        coarse, fine = compare(choice, student, teacher, criterion), whole(student, teacher, criterion)
        assert bool((coarse >= 0).all())
        assert bool((coarse <= fine + 1e-12).all())
        assert num == VOCAB - 1 or bool((coarse < fine).any())


def test_more_classes_before_the_tail_lose_less() -> None:
    student, teacher = logits(1), logits()
    losses = torch.stack(
        [compare(Choice(name="top_k_tail", options={"num": n}), student, teacher) for n in range(1, VOCAB)]
    )
    assert bool((losses.diff(dim=0) >= -1e-12).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "choice",
    [
        Choice(name="all"),
        Choice(name="top_k", options={"num": 4, "renormalise": False}),
        Choice(name="top_k_tail", options={"num": 4}),
        Choice(name="top_p", options={"mass": 0.6}),
    ],
    ids=describe_classes,
)
def test_equals_lose_exactly_nothing(choice: Choice, dtype: torch.dtype) -> None:
    same = logits(dtype=dtype)
    assert bool((compare(choice, same, same.clone()) == 0).all())


def test_a_tail_leaves_equals_without_gradient_and_plain_truncation_does_not() -> None:
    same = logits()
    for choice, still in [
        (Choice(name="top_k_tail", options={"num": 4}), True),
        (Choice(name="top_k", options={"num": 4, "renormalise": False}), False),
    ]:
        grad = gradient(lambda leaf, choice=choice: compare(choice, leaf, same), same)  # type: ignore[misc]
        assert bool(grad.abs().max() < 1e-15) == still


def test_a_truncated_sum_is_no_divergence() -> None:
    choice = Choice(name="top_k", options={"num": 3, "renormalise": False})
    teacher = logits()
    sharper = teacher * 1.5
    assert bool((compare(choice, sharper, teacher) < 0).any())


def test_renormalised_weights_sum_to_one_and_keep_their_ratios() -> None:
    teacher = log_probs(logits())
    raw, scaled = (
        reduce(Choice(name="top_k", options={"num": 5, "renormalise": flag}), teacher) for flag in (False, True)
    )
    assert torch.allclose(scaled.weight.sum(-1), torch.ones(NUM, dtype=torch.float64))
    assert torch.allclose(scaled.weight, raw.weight / raw.weight.sum(-1, keepdim=True))
    assert torch.equal(scaled.ids, raw.ids)


@pytest.mark.parametrize("mass", [0.01, 0.3, 0.7, 0.99])
def test_top_p_keeps_the_smallest_prefix_that_reaches_the_mass(mass: float) -> None:
    teacher = log_probs(logits())
    target = reduce(Choice(name="top_p", options={"mass": mass}), teacher)
    for row, (weight, ids) in enumerate(zip(target.weight, target.ids, strict=True)):
        kept = weight[weight > 0]
        assert float(kept.sum()) >= mass
        assert float(kept.sum() - kept.min()) < mass
        left_out = torch.ones(VOCAB, dtype=torch.bool).scatter(0, ids[weight > 0], False)
        assert float(teacher[row][left_out].exp().max()) <= float(kept.min())


@pytest.mark.parametrize("mass", [0.05, 0.5, 0.9, 1.0])
def test_top_p_gives_ties_to_the_lowest_class(mass: float) -> None:
    tied = log_probs(logits(num=40).round())
    target = reduce(Choice(name="top_p", options={"mass": mass}), tied)
    for row in range(40):
        order = sorted(range(VOCAB), key=lambda v: (-float(tied[row, v]), v))
        kept, reached = [], 0.0
        for v in order:
            if reached < mass - 1e-12 or mass == 1.0:
                kept.append(v)
            reached += float(tied[row, v].exp())
        assert target.ids[row][target.weight[row] > 0].tolist() == kept


def test_the_rest_of_a_row_is_summed_without_cancellation() -> None:
    row = torch.tensor([[0.0, -60.0, -60.0]], dtype=torch.float64).log_softmax(-1)
    assert float(log_rest(row, torch.tensor([[0]]))) == pytest.approx(math.log(2) - 60, rel=1e-12)
    assert float(log_rest(row, torch.tensor([[0, 1, 2]]))) == -math.inf


# ---- draws


@pytest.mark.parametrize("draws", [1, 2, 12, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_are_of_sorted_distinct_classes_and_sum_to_the_draws(draws: int, dtype: torch.dtype) -> None:
    ids, counts = draw(log_probs(logits(num=200, dtype=dtype)), keys(200), draws=draws)
    assert ids.shape == counts.shape == (200, draws)
    assert bool((counts.sum(-1) == draws).all())
    for row, count in zip(ids, counts, strict=True):
        used = int((count > 0).sum())
        assert bool((count[:used] > 0).all())
        assert bool((row[:used].diff() > 0).all())
        assert not row[used:].any()
    weights = from_counts(ids, counts, draws=draws, dtype=dtype).weight
    assert torch.allclose(weights.sum(-1), torch.ones(200, dtype=dtype))


def test_counts_follow_the_distribution() -> None:
    row, num, draws = log_probs(logits(num=1, scale=1.0)), 4000, 16
    for proposal in (1.0, 0.5, 2.0):
        ids, counts = draw(row.expand(num, -1), keys(num, 1), draws=draws, proposal=proposal)
        seen = torch.zeros(VOCAB, dtype=torch.float64).index_add_(0, ids.flatten(), counts.flatten().double())
        expected = (row[0] * proposal).softmax(-1) * num * draws
        statistic = float(((seen - expected).square() / expected).sum())
        assert statistic < 58.3  # the 99.9th percentile of chi-square with 29 degrees of freedom


def test_a_class_without_mass_is_never_drawn_and_the_last_one_can_be() -> None:
    weights = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0])
    ids, counts = draw(weights.log().expand(500, -1), keys(500), draws=32)
    assert set(ids[counts > 0].tolist()) == {1, 3}
    last = torch.tensor([1e-30, 0.0, 1.0]).log()[None]
    ids, counts = draw(last, keys(1), draws=32)
    assert ids[counts > 0].tolist() == [2]


def test_a_large_exponent_draws_the_likeliest_class() -> None:
    teacher = log_probs(logits(dtype=torch.float32))
    ids, counts = draw(teacher, keys(NUM), draws=4, proposal=1e4)
    assert torch.equal(ids[:, 0], teacher.argmax(-1))
    assert bool((counts[:, 0] == 4).all())


def test_rows_whose_sum_rounds_away_from_one_still_give_every_draw() -> None:
    for off in (-1e-3, 1e-3):
        ids, counts = draw(log_probs(logits(num=300, dtype=torch.float32)) + off, keys(300), draws=64)
        assert bool((counts.sum(-1) == 64).all())
        assert bool((ids < VOCAB).all())


def test_draws_depend_on_place_and_seed_alone_and_more_draws_extend_fewer() -> None:
    teacher = log_probs(logits())
    ids, counts = draw(teacher, keys(NUM), draws=16)
    again, _ = draw(teacher[3:5], keys(NUM)[3:5], draws=16)
    assert torch.equal(again, ids[3:5])
    other, _ = draw(teacher, streams(1, keys(NUM)), draws=16)
    elsewhere, _ = draw(teacher, keys(NUM, 1), draws=16)
    assert not torch.equal(other, ids)
    assert not torch.equal(elsewhere, ids)
    fewer, few = draw(teacher, keys(NUM), draws=6)
    dense, part = torch.zeros(NUM, VOCAB).long(), torch.zeros(NUM, VOCAB).long()
    assert bool((dense.scatter_add_(1, ids, counts) >= part.scatter_add_(1, fewer, few)).all())


def test_keys_of_neighbouring_places_give_unrelated_numbers() -> None:
    places = torch.cartesian_prod(torch.arange(40), torch.arange(40))
    made = cells(places[:, 0], places[:, 1])
    assert len(set(made.tolist())) == 1600
    numbers = uniform(made, 8).double() - 0.5
    assert abs(float((numbers[1:] * numbers[:-1]).mean()) * 12) < 0.03
    assert abs(float((numbers[40:] * numbers[:-40]).mean()) * 12) < 0.03


@pytest.mark.parametrize(("draws", "proposal"), [(0, 1.0), (-3, 1.0), (4, 0.0), (4, -1.0), (4, math.nan)])
def test_impossible_draws_are_refused(draws: int, proposal: float) -> None:
    with pytest.raises(ValueError, match="it is"):
        draw(log_probs(logits()), keys(NUM), draws=draws, proposal=proposal)


def test_ids_of_a_large_vocabulary_survive() -> None:
    size = 151_936
    teacher = torch.full((2, size), -30.0)
    teacher[:, [131_071, 131_072, size - 1]] = 0.0
    teacher = teacher.log_softmax(-1)
    ids, counts = draw(teacher, keys(2), draws=64)
    assert {131_071, 131_072, size - 1} <= set(ids[counts > 0].tolist())
    assert int(reduce(Choice(name="top_k", options={"num": 3, "renormalise": False}), teacher).ids.max()) == size - 1
    flat = torch.full((1, size), -math.log(size))
    ids, counts = draw(flat.expand(64, -1), keys(64), draws=63)
    assert float(ids[counts > 0].double().mean()) == pytest.approx(size / 2, rel=0.03)
    assert int(counts.sum()) == 64 * 63


# ---- rs is an unbiased estimator of the forward KL's gradient


def exact_spread(student: Tensor, teacher: Tensor, proposal: float) -> Tensor:
    """Return the standard deviation of one draw's gradient, class by class: a rare class cannot hide it."""
    p, q = teacher.softmax(-1)[0], student.softmax(-1)[0]
    r = (p.log() * proposal).softmax(-1)
    each = (p / r)[:, None] * (q[None] - torch.eye(VOCAB, dtype=torch.float64))
    return ((r[:, None] * each.square()).sum(0) - (q - p).square()).sqrt()


@pytest.mark.parametrize("proposal", [1.0, 0.5, 2.0])
def test_the_mean_gradient_over_draws_is_the_full_gradient(proposal: float) -> None:
    student, teacher = logits(1, num=1, scale=0.6), logits(num=1, scale=0.6)
    exact = gradient(lambda leaf: whole(leaf, teacher), student)[0]
    spread, draws, errors = exact_spread(student, teacher, proposal), 8, {}
    for repeats in (500, 8000):
        choice = Choice(name="rs", options={"draws": draws, "proposal": proposal})
        grads = gradient(
            lambda leaf, choice=choice, n=repeats: compare(choice, leaf, teacher.expand(n, -1)),  # type: ignore[misc]
            student.expand(repeats, -1),
        )
        z = (grads.mean(dim=0) - exact) / (spread / math.sqrt(repeats * draws))
        # 30 classes: beyond 4.2 with probability 1e-3.
        assert float(z.abs().max()) < 4.2
        assert 0.4 < float(z.square().mean()) < 2.0
        errors[repeats] = float((grads.mean(dim=0) - exact).norm())
    # Sixteen times the draws: a quarter of the error, give or take its own noise.
    assert 0.1 < errors[8000] / errors[500] < 0.6


def test_a_biased_estimator_fails_the_same_test() -> None:
    student, teacher = logits(1, num=1, scale=1.0), logits(num=1, scale=1.0)
    exact = gradient(lambda leaf: whole(leaf, teacher), student)[0]

    def self_normalised(leaf: Tensor) -> Tensor:
        target = reduce(Choice(name="rs", options={"draws": 8, "proposal": 0.5}), log_probs(teacher.expand(8000, -1)))
        scaled = SparseTarget(ids=target.ids, weight=target.weight / target.weight.sum(-1, keepdim=True))
        rows = gather_rows(scaled, log_probs(leaf))
        return CRITERIA["forward_kl"].build(teacher_logprobs=rows.teacher, student_logprobs=rows.student)

    grads = gradient(self_normalised, student.expand(8000, -1))
    z = (grads.mean(dim=0) - exact) / (grads.std(dim=0) / math.sqrt(8000))
    assert float(z.abs().max()) > 6


def test_where_student_and_teacher_are_equal_the_mean_gradient_vanishes() -> None:
    same = logits(num=1, scale=1.0)
    choice = Choice(name="rs", options={"draws": 8})
    grads = gradient(lambda leaf: compare(choice, leaf, same.expand(8000, -1)), same.expand(8000, -1))
    assert float((grads.mean(dim=0) / grads.std(dim=0) * math.sqrt(8000)).abs().max()) < 4.2


# ---- through the core


@pytest.fixture(scope="module")
def pair64(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair(torch.float64)


@pytest.fixture(scope="module")
def batch(make_batch: Callable[..., Batch]) -> Batch:
    return make_batch(6, 13)


CORE_CHOICES = [choice for choice in CHOICES if choice.name != "all"]
every_core_choice = pytest.mark.parametrize("choice", CORE_CHOICES, ids=describe_classes)


@every_core_choice
@pytest.mark.parametrize(("kd_weight", "temperature"), [(1.0, 1.0), (0.5, 2.0)])
def test_loss_and_gradients_equal_the_dense_oracle(
    choice: Choice, kd_weight: float, temperature: float, pair64: Pair, batch: Batch, make_core: Any
) -> None:
    strategy = with_classes(choice, kd_weight=kd_weight, temperature=temperature)
    wanted = oracle(strategy, pair64, batch)
    assert_same(run(make_core(strategy, pair64, chunk=5), [batch]), wanted, 1e-10)
    dense = variant(strategy, flow="dense")
    assert_same(run(make_core(dense, pair64), [batch]), wanted, 1e-10)


@every_core_choice
def test_chunks_splits_and_steps_do_not_matter(choice: Choice, pair64: Pair, batch: Batch, make_core: Any) -> None:
    strategy = with_classes(choice)
    wanted = run(make_core(strategy, pair64, chunk=7), [batch])
    assert wanted.result is not None
    for chunk in (1, 3, 10_000):
        assert_same(run(make_core(strategy, pair64, chunk=chunk), [batch]), wanted, 1e-10)
    for sizes in SPLITS:
        found = run(make_core(strategy, pair64), split_batch(batch, sizes))
        assert_same(found, wanted, 1e-10)
        assert found.result is not None
        assert found.result.tally == wanted.result.tally
    later = run(make_core(strategy, pair64, chunk=7, seed=8), [batch], step=5)
    assert later.loss == wanted.loss


def test_draws_follow_the_sequence_wherever_it_stands_in_a_batch(pair64: Pair, batch: Batch, make_core: Any) -> None:
    strategy = with_classes(Choice(name="rs", options={"draws": 8}), normaliser="sum")
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    shuffled = Batch.of(
        index=batch.index[order],
        input_ids=batch.input_ids[order],
        targets=batch.targets[order],
        valid=batch.valid[order],
    )
    wanted = run(make_core(strategy, pair64), [batch])
    assert_same(run(make_core(strategy, pair64), [shuffled]), wanted, 1e-10)
    renumbered = replace(batch, index=batch.index + 100)
    assert run(make_core(strategy, pair64), [renumbered]).loss != pytest.approx(wanted.loss, rel=1e-6)


@every_core_choice
def test_ready_made_targets_need_no_teacher(choice: Choice, pair64: Pair, batch: Batch, make_core: Any) -> None:
    strategy = with_classes(choice)
    online = make_core(strategy, pair64)
    wanted = run(online, [batch])

    def targets(part: Batch, places: Tensor) -> SparseTarget:
        with torch.no_grad():
            teacher = pair64.teacher(input_ids=part.input_ids, use_cache=False).logits[..., : pair64.vocab_size]
        length = part.valid.shape[1]
        keys = cells(part.index[places // length], places % length)
        return reduce(choice, log_probs(teacher.flatten(0, 1)[places]), keys)

    core = replace(make_core(strategy, pair64, with_teacher=False), targets=targets)
    for sizes in ([6], [4, 2]):
        found = run(core, split_batch(batch, sizes))
        assert_same(found, wanted, 1e-10)
        assert found.result is not None
        assert found.result.tally.teacher_rows == found.result.tally.teacher_passes == 0
        assert wanted.result is not None
        assert found.result.tally.classes == wanted.result.tally.classes


@every_core_choice
def test_no_rows_of_the_teacher_exist_beyond_a_chunk(
    choice: Choice, make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Any
) -> None:
    wide, chunk = make_pair(torch.float32, rows=1000, vocab_size=990), 4
    core = make_core(with_classes(choice), wide, chunk=chunk)
    with Largest() as largest:
        result = run(core, [make_batch(8, 32, vocab_size=990)]).result
    assert result is not None
    heads = 24 * 1000  # the larger head, its rows of padding included
    assert largest.numel <= max(chunk * 990, heads)
    assert result.tally.supervised * 990 > heads


def test_the_tally_counts_distinct_classes(pair64: Pair, batch: Batch, make_core: Any) -> None:
    def tally(strategy: Strategy) -> Any:
        result = run(make_core(strategy, pair64), [batch]).result
        assert result is not None
        return result.tally

    kept = tally(with_classes(Choice(name="top_k_tail", options={"num": 5})))
    assert kept.classes == 5 * kept.supervised
    sampled = tally(with_classes(Choice(name="rs", options={"draws": 64})))
    assert sampled.supervised < sampled.classes < 64 * sampled.supervised
    assert tally(presets()["full_kd"]).classes == 0


def test_selected_positions_meet_the_draws_they_would_meet_under_full_supervision(
    pair64: Pair, batch: Batch, make_core: Any
) -> None:
    strategy = variant("se_kd", classes={"name": "rs", "draws": 8})
    assert_same(run(make_core(strategy, pair64), [batch]), oracle(strategy, pair64, batch), 1e-10)


# ---- what a strategy may say


def test_all_is_what_leaving_classes_out_means() -> None:
    assert with_classes("all").classes is None
    assert with_classes("all").identity() == presets()["full_kd"].identity()
    assert "classes" not in presets()["full_kd"].identity()


def test_the_class_policy_is_part_of_what_a_trial_is() -> None:
    strategy = presets()["rs_kd"]
    assert ("class policy", "rs") in {(part.kind, part.name) for part in components(strategy)}
    assert strategy.identity()["classes"] == {"name": "rs", "options": {"draws": 64}}


LEGAL = [
    ({"name": "rs", "draws": 64}, "forward_kl"),
    ({"name": "top_k", "num": 4, "renormalise": True}, "forward_kl"),
    ({"name": "top_k_tail", "num": 4}, "forward_kl"),
    ({"name": "top_k_tail", "num": 4}, "reverse_kl"),
    ({"name": "top_p", "mass": 1.0}, "forward_kl"),
    *(({"name": "top_k_tail", "num": 4}, name) for name in ("symmetric_kl", "tvd", "todi", "squared_hellinger")),
    ({"name": "top_k_tail", "num": 4}, {"name": "jsd", "beta": 0.5}),
    ({"name": "top_k_tail", "num": 4}, {"name": "skewed_forward_kl", "alpha": 0.1}),
    ({"name": "top_k_tail", "num": 4}, {"name": "skewed_reverse_kl", "alpha": 0.1}),
]


@pytest.mark.parametrize(("classes", "criterion"), LEGAL)
def test_what_means_something_is_allowed(classes: dict[str, Any], criterion: Any) -> None:
    strategy = with_classes(classes, criterion=criterion)
    check_strategy(strategy)
    probe(strategy)


AT_KD = {"name": "at_kd", "hard_fraction": 0.5, "easy_weight": 0.2}
TAIL = {"name": "top_k_tail", "num": 4}
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    ({"name": "rs", "draws": 8}, {"criterion": "reverse_kl"}, "without bias"),
    ({"name": "rs", "draws": 8}, {"temperature": 2.0}, "unbiased only at the temperature it is drawn at"),
    ({"name": "top_k", "num": 4, "renormalise": True}, {"criterion": "reverse_kl"}, "goes unseen"),
    ({"name": "top_p", "mass": 0.5}, {"criterion": "reverse_kl"}, "goes unseen"),
    (TAIL, {"criterion": AT_KD}, "'targets'"),
    (TAIL, {"criterion": "cross_entropy"}, "reads no teacher"),
    (TAIL, {"criterion": {"name": "dkd", "alpha": 1.0, "beta": 8.0}}, "'targets'"),
    (TAIL, {"criterion": {"name": "akl", "head": 0.5}}, "'akl' is about all of them one by one"),
    (TAIL, {"criterion": {"name": "eopd", "threshold": 0.8}}, "'eopd' is about all of them one by one"),
    (
        TAIL,
        {"criterion": {"name": "csd", "first": "student", "second": "student"}},
        "'csd' is about all of them one by one",
    ),
    ({"name": "rs", "draws": 8}, {"criterion": "tvd"}, "without bias"),
    (TAIL, {"kd_weight": 0.0}, "lambda 0"),
    ({"name": "rs", "draws": 0}, {}, "draws must be at least 1, it is 0"),
    ({"name": "top_k_tail", "num": 0}, {}, "num must be at least 1, it is 0"),
    ({"name": "top_p", "mass": 0.0}, {}, r"mass must be in \(0, 1\], it is 0"),
    ({"name": "top_p", "mass": 1.5}, {}, r"mass must be in \(0, 1\], it is 1.5"),
    ({"name": "top_p", "mass": math.nan}, {}, "it is nan"),
    ({"name": "rs"}, {}, "needs the option 'draws'"),
    ({"name": "rs", "draws": 8.0}, {}, "must be int"),
    ({"name": "rs", "drwas": 8}, {}, "Did you mean 'draws'"),
]


@pytest.mark.parametrize(("classes", "changes", "message"), REFUSED)
def test_what_means_nothing_is_refused_with_the_reason(classes: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_strategy(with_classes(classes, **changes))


def test_an_unknown_class_policy_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown class policy 'top_k_tale'\. Did you mean 'top_k_tail'"):
        check_strategy(with_classes("top_k_tale"))


def test_classes_of_a_model_that_is_not_trained_are_refused() -> None:
    with pytest.raises(UserError, match="leave them out"):
        check_strategy(variant("no_kd", classes=TAIL))


def test_a_bad_proposal_fails_the_dry_run() -> None:
    with pytest.raises(UserError, match="class policy 'rs' fails on a trial input: ValueError: proposal must be"):
        probe(with_classes({"name": "rs", "draws": 8, "proposal": -1.0}))


def test_more_classes_than_the_vocabulary_has_are_refused() -> None:
    workload, facts = load_workload("tiny"), Facts(vocab_size=97)
    check(with_classes({"name": "top_k_tail", "num": 97}), workload, facts)
    check(with_classes({"name": "rs", "draws": 640}), workload, facts)
    with pytest.raises(UserError, match="cannot keep 98 of 97"):
        check(with_classes({"name": "top_k_tail", "num": 98}), workload, facts)


def test_names_of_class_policies_with_their_options() -> None:
    named = [describe_classes(choice) for choice in CHOICES[1:]]
    assert named[:3] == ["rs 8", "rs 1 seed 3", "rs 8 proposal 0.5"]
    assert named[4:6] == ["top k 5", "top k 5 renormalise"]
    assert len(set(named)) == len(named)


def test_an_option_of_a_preset_can_be_swept(write_grid: Callable[..., Path]) -> None:
    entry = {"preset": "rs_kd", "label": "{classes}", "sweep": {"classes.draws": [4, 12]}}
    swept = load_grid(write_grid([entry])).strategies
    assert [(each.label, each.classes) for each in swept] == [
        (f"rs {draws}", Choice(name="rs", options={"draws": draws})) for draws in (4, 12)
    ]


def test_a_preset_goes_back_to_whole_rows(write_grid: Callable[..., Path]) -> None:
    for whole_rows in (None, "all"):
        (found,) = load_grid(write_grid([{"preset": "rs_kd", "classes": whole_rows}])).strategies
        assert found.identity() == presets()["full_kd"].identity()
