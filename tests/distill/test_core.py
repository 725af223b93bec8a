"""The core against a dense oracle: same loss and gradients however the work is cut up."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Pair, caches_in, small_model, split_batch
from oracle import SPLITS, Largest, assert_same, oracle, oracle_loss, run, variant, way
from sampling import cycled, one_of_each, sampled
from torch import Tensor

from harness.config import Choice, Strategy
from harness.config.expand import presets
from harness.data.tokens import Batch, Tokens
from harness.distill import step as step_module
from harness.distill.loss import Compared, weighted_loss
from harness.distill.objective import compile_strategy
from harness.distill.score import Rows, pieces, slices
from harness.evaluate.heldout import measure_heldout
from harness.models import Head, head_of, trunk
from harness.models.devices import chunk_rows
from harness.teacher.interface import Teacher
from harness.teacher.kinds.hidden import HiddenStates
from harness.teacher.kinds.rows import RowTeacher
from harness.teacher.provide import provide
from harness.teacher.source import Source
from strategies.base import Selection
from strategies.registry import SIGNALS, TEACHER_INPUTS, raw_inputs

TRAINED = sorted(name for name, preset in presets().items() if preset.train)
NORMALISERS = ("sequence_mean", "batch_mean", "all_positions", "sum")
# Every preset meets every normaliser and every (loss weight, temperature), paired differently from preset to preset.
HEATED = ((1.0, 1.0), (1.0, 2.0), (0.5, 2.0), (0.0, 1.0))
PAIRED = [
    (name, normaliser, *HEATED[(place + shift) % len(HEATED)])
    for shift, name in enumerate(TRAINED)
    for place, normaliser in enumerate(NORMALISERS)
]
ALTERNATING = [(name, NORMALISERS[place % len(NORMALISERS)]) for place, name in enumerate(TRAINED)]
each_way = pytest.mark.parametrize("name", one_of_each(TRAINED, way))
each_way_alternating = pytest.mark.parametrize(("name", "normaliser"), one_of_each(ALTERNATING, way))
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def top_k(signal: str, budget: float, **changes: Any) -> Strategy:
    position = {"signal": signal, "policy": "top_k", "budget": budget}
    return variant("se_kd", position=position, label=signal, **changes)


# ---- the oracle: every logit at once, plain torch, autograd, no code of the core


@pytest.fixture(scope="module")
def batch(make_batch: Callable[..., Batch]) -> Batch:
    made = make_batch(6, 13)
    assert 0 < int(made.valid.sum()) < made.valid.numel()
    assert len(set(made.valid.sum(-1).tolist())) > 1, "the normalisers must differ"
    return made


@pytest.fixture(scope="module")
def pair64(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair(torch.float64)


@pytest.fixture(scope="module")
def pair32(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair(torch.float32)


# ---- the oracle's loss and gradients


# `make test` takes each preset once: in sixteen of them every normaliser meets every weight and temperature.
@pytest.mark.parametrize(
    ("name", "normaliser", "kd_weight", "temperature"),
    sampled(PAIRED, (4 * place + place // 4 % 4 for place in range(len(TRAINED)))),
)
def test_loss_and_gradients_equal_the_dense_oracle_in_float64(
    name: str, normaliser: str, kd_weight: float, temperature: float, pair64: Pair, batch: Batch, make_core: Any
) -> None:
    strategy = variant(name, normaliser=normaliser, kd_weight=kd_weight, temperature=temperature)
    found = run(make_core(strategy, pair64, chunk=5), [batch])
    assert_same(found, oracle(strategy, pair64, batch), TOLERANCE[torch.float64])


@each_way_alternating
def test_loss_and_gradients_equal_the_dense_oracle_in_float32(
    name: str, normaliser: str, pair32: Pair, batch: Batch, make_core: Any
) -> None:
    strategy = variant(name, normaliser=normaliser, kd_weight=0.5, temperature=2.0)
    found = run(make_core(strategy, pair32, chunk=5), [batch])
    assert_same(found, oracle(strategy, pair32, batch), TOLERANCE[torch.float32])


@pytest.mark.parametrize(("name", "kd_weight"), cycled(TRAINED, [1.0, 0.5], kind=way))
def test_the_dense_flow_equals_the_dense_oracle(
    name: str, kd_weight: float, pair64: Pair, batch: Batch, make_core: Any
) -> None:
    strategy = variant(name, flow="dense", kd_weight=kd_weight)
    assert_same(run(make_core(strategy, pair64), [batch]), oracle(strategy, pair64, batch), 1e-10)


@pytest.mark.parametrize("signal", ["teacher_entropy", "student_ce", "teacher_ce", "kl", "reverse_kl", "random"])
def test_selection_by_any_signal_equals_the_oracle(signal: str, pair64: Pair, batch: Batch, make_core: Any) -> None:
    strategy = top_k(signal, 0.3)
    assert_same(run(make_core(strategy, pair64), [batch]), oracle(strategy, pair64, batch), 1e-10)


def test_the_oracle_can_tell_wrong_masks(pair64: Pair, batch: Batch, make_core: Any) -> None:
    shifted = replace(batch, targets=batch.targets.roll(1, dims=1))
    strategy = variant("sft")
    found = run(make_core(strategy, pair64), [shifted])
    assert found.loss != pytest.approx(oracle(strategy, pair64, batch).loss, rel=1e-3)


# ---- independence of how the work is cut up


@pytest.mark.parametrize(("name", "chunk"), cycled(TRAINED, [1, 10_000], kind=way))
def test_chunk_size_does_not_matter(name: str, chunk: int, pair64: Pair, batch: Batch, make_core: Any) -> None:
    strategy = variant(name, kd_weight=0.5)
    wanted = run(make_core(strategy, pair64, chunk=7), [batch])
    assert_same(run(make_core(strategy, pair64, chunk=chunk), [batch]), wanted, 1e-10)


@each_way_alternating
def test_micro_batches_do_not_matter(name: str, normaliser: str, pair64: Pair, batch: Batch, make_core: Any) -> None:
    core = make_core(variant(name, normaliser=normaliser, kd_weight=0.5), pair64)
    whole, *others = (run(core, split_batch(batch, sizes)) for sizes in SPLITS)
    for found in others:
        assert_same(found, whole, 1e-10)
        assert found.result is not None
        assert whole.result is not None
        assert found.result.tally.supervised == whole.result.tally.supervised
        assert found.result.tally.valid == whole.result.tally.valid


# Policies that no preset uses, or that do something else once they have a state.
STATEFUL: dict[str, tuple[dict[str, Any], Any]] = {
    "gls": ({"name": "gls", "capacity": 50}, {"queue": torch.linspace(0.0, 9.0, 50, dtype=torch.float64)}),
    "batch_top_k": ({"name": "batch_top_k"}, None),
    "latf": (
        {"name": "latf", "decay": 0.5, "tolerance": 0.01, "step": 0.5, "floor": 0.1, "warmup": 0.05},
        {"fraction": 0.6, "progress": 0.2, "average": 3.0, "reference": 3.0},
    ),
}


@pytest.mark.parametrize("name", sorted(STATEFUL))
@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_micro_batches_do_not_matter_to_policies_that_look_beyond_a_sequence(
    name: str, normaliser: str, pair64: Pair, batch: Batch, make_core: Any
) -> None:
    options, state = STATEFUL[name]
    position = {"signal": "student_ce", "policy": options}
    if name != "latf":
        position["budget"] = 0.1
    core = make_core(variant("se_kd", position=position, normaliser=normaliser), pair64)
    whole, *others = (run(core, split_batch(batch, sizes), state=state, last_loss=2.0) for sizes in SPLITS)
    assert whole.result is not None
    share = whole.result.tally.supervised / whole.result.tally.valid
    assert 0 < share < 0.45
    for found in others:
        assert_same(found, whole, 1e-10)
        assert found.result is not None
        assert found.result.tally.supervised == whole.result.tally.supervised
        torch.testing.assert_close(found.result.state, whole.result.state, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("normaliser", "counted"), [("sequence_mean", 1), ("all_positions", 6)])
def test_a_sequence_of_which_nothing_is_selected(
    normaliser: str, counted: int, pair64: Pair, batch: Batch, make_core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It has no mean over its selected positions, but one over its valid ones, and that is zero.
    num_valid = batch.valid.sum(-1)
    assert bool((num_valid > 0).all())
    only_first = torch.zeros_like(batch.valid)
    only_first[0] = batch.valid[0]
    core = make_core(variant("full_kd", normaliser=normaliser), pair64)
    weight = only_first.double()
    monkeypatch.setattr(step_module, "select", lambda *_: (Selection(weight=weight, denom=weight.sum(-1)), None))
    found = run(core, [batch])
    monkeypatch.undo()
    first = run(make_core(variant("full_kd"), pair64), [split_batch(batch, [1, 5])[0]])
    assert found.loss == pytest.approx(first.loss / counted, rel=1e-10)


@each_way_alternating
def test_right_padding_does_not_matter(
    name: str, normaliser: str, pair64: Pair, make_batch: Callable[..., Batch], make_core: Any
) -> None:
    core = make_core(variant(name, normaliser=normaliser, kd_weight=0.5), pair64)
    wanted, found = run(core, [make_batch(6, 13)]), run(core, [make_batch(6, 13, padding=9)])
    assert_same(found, wanted, 1e-10)


@each_way
def test_a_sequence_without_targets_changes_nothing(name: str, pair64: Pair, batch: Batch, make_core: Any) -> None:
    core = make_core(variant(name, kd_weight=0.5), pair64)
    empty = replace(
        batch,
        index=torch.cat([batch.index, batch.index[:1]]),
        input_ids=torch.cat([batch.input_ids, batch.input_ids[:1]]),
        targets=torch.cat([batch.targets, torch.zeros_like(batch.targets[:1])]),
        valid=torch.cat([batch.valid, torch.zeros_like(batch.valid[:1])]),
    )
    assert_same(run(core, [empty]), run(core, [batch]), 1e-10)


@pytest.mark.parametrize(
    "position", [{"policy": "random", "budget": 0.3}, {"signal": "random", "policy": "top_k", "budget": 0.3}]
)
def test_random_selection_is_the_same_whatever_the_split(
    position: dict[str, Any],
    pair64: Pair,
    make_batch: Callable[..., Batch],
    make_core: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = make_core(variant("full_kd", position=position), pair64)
    seen: list[Tensor] = []
    original = step_module.select

    def spy(*args: Any) -> Any:
        selection, state = original(*args)
        seen.append(selection.weight)
        return selection, state

    monkeypatch.setattr(step_module, "select", spy)
    selected = []
    for sizes, padding in itertools.product(SPLITS, (0, 4)):
        seen.clear()
        run(core, split_batch(make_batch(6, 13, padding=padding), sizes))
        selected.append(torch.cat(seen)[:, :13])
    assert all(torch.equal(each, selected[0]) for each in selected)
    seen.clear()
    run(core, [make_batch(6, 13)], step=4)
    assert not torch.equal(seen[0], selected[0]), "every step must draw anew"


# ---- facts that trip implementations


# A cache built from batches of the training's shape is exact; other shapes round matrix products differently.
@pytest.mark.parametrize(
    ("dtype", "batch_size", "tolerance"),
    [(torch.float64, 6, 0.0), (torch.float32, 6, 0.0), (torch.bfloat16, 6, 0.0), (torch.float64, 1, 1e-10),
     (torch.float32, 1, 1e-5), (torch.float32, 4, 1e-5)],
)  # fmt: skip
def test_online_and_cached_teacher_agree(
    dtype: torch.dtype,
    batch_size: int,
    tolerance: float,
    make_pair: Callable[..., Pair],
    batch: Batch,
    make_core: Any,
    tmp_path: Any,
) -> None:
    pair = make_pair(dtype)
    core = make_core(presets()["se_kd"], pair)
    tokens = Tokens(
        ids=batch.input_ids.to(torch.int32).numpy(),
        separator=1,
        cross_document_targets=False,
        tokens_per_byte=1.0,
        key="k",
    )
    assert core.teacher is not None
    source = Source(tokens=tokens, teacher="teacher", tokenizer="tokenizer", dtype=str(dtype).removeprefix("torch."))
    live = RowTeacher(
        trunk=lambda part: trunk(pair.teacher, part.input_ids),
        head=core.teacher.head,
        batch_size=batch_size,
        chunk=1,
    )
    states = provide(HiddenStates(), source, lambda: live, results=caches_in(tmp_path), batch_size=batch_size)
    online = run(core, [batch])
    cached = run(replace(core, teacher=Teacher(hidden=states.read, head=live.head, online=False)), [batch])
    if tolerance:
        assert_same(cached, online, tolerance)
        return
    assert online.loss == cached.loss
    assert all(torch.equal(online.grads[name], cached.grads[name]) for name in online.grads)


@pytest.mark.parametrize("signal", ["student_entropy", "teacher_ce", "random"])
def test_top_k_at_budget_one_is_full_kd(signal: str, pair64: Pair, batch: Batch, make_core: Any) -> None:
    full = run(make_core(presets()["full_kd"], pair64), [batch])
    selected = run(make_core(top_k(signal, 1.0), pair64), [batch])
    assert selected.loss == full.loss
    assert all(torch.equal(selected.grads[name], full.grads[name]) for name in full.grads)


# A sample of the teacher's classes differs from the student even where the teacher does not: see test_classes.py.
DRAWN = {name for name in TRAINED if (classes := presets()[name].classes) is not None and classes.name == "rs"}


# EGAD's projection is random, so that equal states are not equal after it.
SUPERVISED = {
    name
    for name in TRAINED
    if presets()[name].kd_weight < 1.0 or presets()[name].criterion.name == "cross_entropy"  # type: ignore[union-attr]
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    cycled(sorted(set(TRAINED) - {"egad"} - SUPERVISED - DRAWN), [torch.float64, torch.float32]),
)
def test_a_teacher_that_equals_the_student_gives_exactly_zero(
    name: str, dtype: torch.dtype, make_pair: Callable[..., Pair], batch: Batch, make_core: Any
) -> None:
    student = make_pair(dtype).student
    found = run(make_core(presets()[name], Pair(student=student, teacher=copy.deepcopy(student))), [batch])
    assert found.loss == 0.0
    largest = max(float(grad.abs().max()) for grad in found.grads.values())
    assert largest <= 1e3 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("name", "flow"), cycled(["se_kd", "random_pos", "full_kd", "at_kd"], ["chunked", "dense"]))
def test_unselected_positions_get_exactly_zero_gradient(
    name: str, flow: str, pair64: Pair, batch: Batch, make_core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = variant(name, flow=flow)
    _, weights = oracle_loss(strategy, pair64, batch, seed=7, step=3)
    kept: list[Tensor] = []

    def spy(model: Any, input_ids: Tensor) -> Tensor:
        hidden = trunk(model, input_ids)
        if hidden.requires_grad:
            hidden.retain_grad()
            kept.append(hidden)
        return hidden

    monkeypatch.setattr(step_module, "trunk", spy)
    run(make_core(strategy, pair64), [batch])
    (hidden,) = kept
    assert hidden.grad is not None
    norms = hidden.grad.norm(dim=-1)
    assert bool((norms[weights == 0] == 0).all())
    assert bool((norms[weights > 0] > 0).all())


@each_way
def test_padded_vocabulary_columns_take_no_part(
    name: str, make_pair: Callable[..., Pair], batch: Batch, make_core: Any
) -> None:
    plain, loud = make_pair(), make_pair()
    with torch.no_grad():
        for model in (loud.student, loud.teacher):
            weight = model.get_output_embeddings().weight
            assert len(weight) > loud.vocab_size
            weight[loud.vocab_size :] = 1e3
    strategy = variant(name, kd_weight=0.5)
    found, wanted = run(make_core(strategy, loud), [batch]), run(make_core(strategy, plain), [batch])
    assert found.loss == wanted.loss
    embeddings = found.grads["model.embed_tokens.weight"]
    assert not embeddings[loud.vocab_size :].any()
    assert torch.equal(embeddings, wanted.grads["model.embed_tokens.weight"])


def ranks_by_teacher(name: str) -> bool:
    signal = presets()[name].position.signal  # type: ignore[union-attr]
    return signal is not None and bool(raw_inputs(SIGNALS[signal.name]) & TEACHER_INPUTS)


@pytest.mark.parametrize("name", one_of_each([name for name in TRAINED if not ranks_by_teacher(name)], way))
def test_lambda_zero_needs_no_teacher(name: str, pair64: Pair, batch: Batch, make_core: Any) -> None:
    strategy = variant(name, kd_weight=0.0)
    core = make_core(strategy, pair64, with_teacher=False)
    assert not core.objective.reads_teacher
    assert_same(run(core, [batch]), oracle(strategy, pair64, batch), 1e-10)


def test_sft_and_student_signals_leave_the_teachers_head_alone(pair64: Pair, batch: Batch, make_core: Any) -> None:
    sft = run(make_core(presets()["sft"], pair64, with_teacher=False), [batch]).result
    entropy = run(make_core(presets()["se_kd"], pair64), [batch]).result
    assert sft is not None
    assert entropy is not None
    assert sft.tally.teacher_rows == sft.tally.teacher_passes == 0
    assert entropy.tally.teacher_rows == entropy.tally.supervised < entropy.tally.valid


# ---- memory


@pytest.fixture(scope="module")
def wide(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair(torch.float32, rows=1000, vocab_size=990)


@pytest.mark.parametrize("name", one_of_each(sorted(set(TRAINED) - {"full_kd_dense"}), way))
def test_no_logits_of_a_whole_batch_exist(
    name: str, wide: Pair, make_batch: Callable[..., Batch], make_core: Any
) -> None:
    batch, chunk = make_batch(8, 26, vocab_size=990), 16
    preset = presets()[name]
    if preset.position is not None and preset.position.budget is not None:
        # A tenth of so few positions would stay below the heads even with all their logits.
        preset = variant(name, position={**preset.position.model_dump(), "budget": max(preset.position.budget, 0.2)})
    core = make_core(preset, wide, chunk=chunk)
    with Largest() as largest:
        result = run(core, split_batch(batch, [4, 4])).result
    assert result is not None
    heads = 24 * 1000  # the larger head, its rows of padding included
    assert largest.numel <= max(chunk * 990, heads)
    assert result.tally.supervised * 990 > heads, "logits at the supervised positions alone would be noticed"


def test_the_dense_flow_would_be_noticed(wide: Pair, make_batch: Callable[..., Batch], make_core: Any) -> None:
    core = make_core(presets()["full_kd_dense"], wide, chunk=4)
    with Largest() as largest:
        run(core, [make_batch(8, 32, vocab_size=990)])
    assert largest.numel >= 8 * 32 * 990


def test_held_out_text_is_measured_in_chunks_too(wide: Pair, make_batch: Callable[..., Batch], make_core: Any) -> None:
    core = make_core(presets()["full_kd"], wide)
    ids = make_batch(4, 64, vocab_size=990).input_ids.to(torch.int32).numpy()
    tokens = Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=1.0, key="k")
    with Largest() as largest:
        measure_heldout(wide.student, tokens, core.teacher, vocab_size=990, batch_size=2, chunk=4)
    assert largest.numel <= 24 * 1000


def test_chunk_rows_keeps_to_its_budget() -> None:
    assert chunk_rows(1 << 30, 1) == 1
    assert chunk_rows(1000, 64) == pytest.approx(64 * chunk_rows(1000, 1), rel=0.02)
    assert chunk_rows(1000, 64, itemsize=2) > chunk_rows(1000, 64)
    assert [piece.stop - piece.start for piece in pieces(39, 64)] == [4] * 9 + [3]
    assert [(piece.start, piece.stop) for piece in slices(7, 3)] == [(0, 3), (3, 6), (6, 7)]


def test_head_gradient_of_many_chunks_does_not_stagnate_in_bfloat16() -> None:
    # Addends below 1/256 of a bfloat16 sum vanish: summed chunk by chunk in bfloat16, the gradient stops growing.
    num, hidden_size, vocab_size = 2048, 4, 8
    generator = torch.Generator().manual_seed(0)
    hidden = 1.0 + 0.1 * torch.randn((num, hidden_size), generator=generator)
    weight = 0.1 * torch.randn((vocab_size, hidden_size), generator=generator)
    targets = torch.zeros(num, dtype=torch.long)
    objective = compile_strategy(presets()["sft"])

    def gradient(dtype: torch.dtype, chunk: int) -> Tensor:
        head = weight.to(torch.bfloat16).to(dtype).requires_grad_()
        coefficient = torch.ones(num, dtype=torch.promote_types(dtype, torch.float32))
        states = hidden.to(torch.bfloat16).to(dtype)
        rows = Rows(student=states, teacher=None, targets=targets, coefficient=coefficient)
        weighted_loss(
            Compared(objective=objective, rows=rows, student_head=Head(weight=head), teacher_head=None, chunk=chunk)
        ).backward()
        assert head.grad is not None
        return head.grad.double()

    reference = gradient(torch.float64, num)
    error = float((gradient(torch.bfloat16, 2) - reference).norm() / reference.norm())
    assert error < 0.01


# ---- the differentiable form on its own


@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_backward_scales_what_forward_left(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn((9, 4), generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn((11, 4), generator=generator, dtype=torch.float64, requires_grad=True)
    coefficient = torch.rand(9, generator=generator, dtype=torch.float64)
    targets = torch.randint(11, (9,), generator=generator)
    rows = Rows(student=hidden, teacher=None, targets=targets, coefficient=coefficient)
    objective = compile_strategy(presets()["sft"])
    chunked = weighted_loss(
        Compared(objective=objective, rows=rows, student_head=Head(weight=weight), teacher_head=None, chunk=4)
    )
    found = torch.autograd.grad(scale * chunked, (hidden, weight))
    dense = (F.cross_entropy(hidden @ weight.T, targets, reduction="none") * coefficient).sum()
    wanted = torch.autograd.grad(scale * dense, (hidden, weight))
    assert float(chunked.detach()) == pytest.approx(float(dense.detach()), rel=1e-12)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_no_supervised_rows_give_zero(pair64: Pair, batch: Batch, make_core: Any) -> None:
    nothing = replace(batch, valid=torch.zeros_like(batch.valid))
    found = run(make_core(presets()["se_kd"], pair64), [nothing])
    assert found.loss == 0.0
    assert not any(bool(grad.any()) for grad in found.grads.values())


def test_options_on_the_signal_reach_it(pair64: Pair, batch: Batch, make_core: Any) -> None:
    position = {"signal": {"name": "ce_ratio", "eps": 1e9}, "policy": "top_k", "budget": 0.3}
    found = run(make_core(variant("se_kd", position=position), pair64), [batch])
    # With every denominator the same, the ratio ranks like the student's cross-entropy.
    assert found.loss == run(make_core(top_k("student_ce", 0.3), pair64), [batch]).loss
    assert found.loss != run(make_core(top_k("ce_ratio", 0.3), pair64), [batch]).loss


def test_at_kd_options_change_the_loss(pair64: Pair, batch: Batch, make_core: Any) -> None:
    losses = [
        run(
            make_core(variant("at_kd", criterion=Choice(name="at_kd", options=options).model_dump()), pair64), [batch]
        ).loss
        for options in ({"hard_fraction": h, "easy_weight": e} for h, e in ((0.5, 0.2), (0.3, 0.2), (0.5, 0.4)))
    ]
    assert len({round(loss, 9) for loss in losses}) == 3


def test_head_of_leaves_padding_out() -> None:
    model = small_model(16, seed=0, dtype=torch.float32)
    assert head_of(model, 97).weight.shape == (97, 16)
    assert head_of(model, 104).weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
