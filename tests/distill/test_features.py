"""The branch on hidden states: distances, an oracle through the core, whom its gradient reaches, what is refused."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Pair, split_batch
from oracle import SPLITS, assert_same, oracle, run, variant
from sampling import covering, cycled
from torch import Tensor

from harness.config import Strategy
from harness.config.errors import UserError
from harness.config.expand import load_grid, presets
from harness.config.legality import Facts, check, check_strategy, components, teacher_reader
from harness.config.workloads import load_workload
from harness.data.tokens import Batch, Tokens
from harness.distill.feature import make_projection
from harness.distill.objective import compile_strategy
from harness.distill.probe import probe
from harness.distill.step import Core
from harness.distill.train import train
from harness.models import trunk, trunk_layers
from strategies.registry import FEATURES

NAMES = list(FEATURES)
HARD = {"signal": "teacher_entropy_rank", "above": 0.5}
LAST = {"distance": "cosine", "weight": 0.7}
MATCHED = {**LAST, "layers": [[0, 0], [1, 2]]}
EGAD_GRID = Path(__file__).parents[2] / "grids" / "egad.yaml"


def states(seed: int, num: int = 7, size: int = 5) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((num, size)))


def distance(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    found = FEATURES[name].build(student_states=student, teacher_states=teacher)
    assert isinstance(found, Tensor)
    return found


def with_feature(base: str = "full_kd", feature: dict[str, Any] | None = None, **changes: Any) -> Strategy:
    return variant(base, feature=feature or LAST, **changes)


@pytest.fixture(scope="module")
def pair64(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair(torch.float64)


@pytest.fixture(scope="module")
def batch(make_batch: Callable[..., Batch]) -> Batch:
    return make_batch(6, 13)


# ---- distances


@pytest.mark.parametrize("name", NAMES)
def test_a_distance_declares_what_it_reads(name: str) -> None:
    assert set(FEATURES[name].inputs) == {"student_states", "teacher_states"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num", [0, 1, 7])
def test_one_non_negative_number_per_row_that_depends_on_it_alone(name: str, num: int) -> None:
    found = distance(name, states(0, num), states(1, num))
    assert found.shape == (num,)
    assert bool((found > 0).all())
    single = [distance(name, states(0, num)[i : i + 1], states(1, num)[i : i + 1]) for i in range(num)]
    assert torch.allclose(torch.cat([found[:0], *single]), found, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_states_cost_exactly_nothing_and_pull_nowhere(name: str, dtype: torch.dtype) -> None:
    student = states(0).to(dtype).requires_grad_()
    found = distance(name, student, student.detach().clone())
    assert not found.detach().any()
    assert not torch.autograd.grad(found.sum(), student)[0].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_distance_ignores_the_length_of_a_state(name: str) -> None:
    found, wanted = (distance(name, scale * states(0), 100.0 * states(1)) for scale in (300.0, 100.0))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_values_and_gradients_are_finite(name: str, scale: float) -> None:
    student = (scale * states(0)).float().requires_grad_()
    student.data[0] = 0.0
    found = distance(name, student, scale * states(1).float())
    (grad,) = torch.autograd.grad(found.sum(), student)
    assert bool(found.isfinite().all())
    assert bool(grad.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_pass_gradcheck(name: str) -> None:
    student = states(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: distance(name, each, states(1)), student)


def test_cosine_and_layernorm_mse_equal_their_formulas() -> None:
    ours, theirs = states(0), states(1)
    cosine = 1 - (ours * theirs).sum(-1) / (ours.norm(dim=-1) * theirs.norm(dim=-1))
    torch.testing.assert_close(distance("cosine", ours, theirs), cosine, rtol=1e-12, atol=0)
    normed = [(each - each.mean(-1, keepdim=True)) / each.var(-1, keepdim=True, correction=0).add(1e-5).sqrt()
              for each in (ours, theirs)]  # fmt: skip
    mse = (normed[0] - normed[1]).square().mean(-1)
    torch.testing.assert_close(distance("layernorm_mse", ours, theirs), mse, rtol=1e-12, atol=0)


# ---- the projection


def test_projections_come_from_the_trials_seed_and_keep_a_states_length() -> None:
    objective = compile_strategy(with_feature(feature=MATCHED, teacher="online"))
    made = [make_projection(objective, 400, 300, seed) for seed in (1, 1, 2)]
    weights = [[each.weight for each in maps] for maps in made]
    assert [tuple(each.shape) for each in weights[0]] == [(300, 400)] * 2
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not torch.equal(weights[0][0], weights[2][0])
    assert not torch.equal(weights[0][0], weights[0][1])
    assert float(weights[0][0].detach().std()) == pytest.approx(0.05, rel=0.02)
    assert all(each.bias is None for each in made[0])


# ---- through the core


@pytest.mark.parametrize(
    ("name", "hard", "flow", "base"), covering(NAMES, [{}, HARD], ["chunked", "dense"], ["full_kd", "se_kd"])
)
def test_loss_and_gradients_equal_the_dense_oracle(
    name: str, hard: dict[str, Any], flow: str, base: str, pair64: Pair, batch: Batch, make_core: Any
) -> None:
    strategy = with_feature(base, {"distance": name, "weight": 0.7, **hard}, flow=flow)
    assert_same(run(make_core(strategy, pair64), [batch]), oracle(strategy, pair64, batch), 1e-9)


@pytest.mark.parametrize(
    ("normaliser", "kd_weight"), cycled(["sequence_mean", "batch_mean", "all_positions", "sum"], [1.0, 0.5, 0.0])
)
def test_egad_equals_the_dense_oracle(
    normaliser: str, kd_weight: float, pair64: Pair, batch: Batch, make_core: Any
) -> None:
    strategy = variant("egad", normaliser=normaliser, kd_weight=kd_weight)
    assert_same(run(make_core(strategy, pair64), [batch]), oracle(strategy, pair64, batch), 1e-9)


@pytest.mark.parametrize("feature", [{**LAST, **HARD}, MATCHED])
def test_splits_chunks_and_padding_do_not_matter(
    feature: dict[str, Any], pair64: Pair, make_batch: Callable[..., Batch], make_core: Any
) -> None:
    strategy = with_feature("se_kd", feature, teacher="online")
    wanted_core = make_core(strategy, pair64)
    wanted = run(wanted_core, [make_batch(6, 13)])
    for sizes, padding in itertools.product(SPLITS, (0, 4)):
        core = make_core(strategy, pair64, chunk=7)
        assert_same(run(core, split_batch(make_batch(6, 13, padding=padding), sizes)), wanted, 1e-10)
        for ours, theirs in zip(core.projection.parameters(), wanted_core.projection.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)


def only_feature(core: Core, batch: Batch) -> Tensor:
    """Return the branch's own gradient of the projection and leave that of the models on them."""
    with_branch = run(core, [batch])
    assert with_branch.result is not None
    assert core.projection is not None
    (weight,) = core.projection.parameters()
    assert weight.grad is not None
    return weight.grad


def test_its_gradient_reaches_the_student_and_the_projection_only(
    make_pair: Callable[..., Pair], batch: Batch, make_core: Any
) -> None:
    pair = make_pair(torch.float64)
    plain = run(make_core(presets()["full_kd"], pair), [batch])
    found = run(make_core(with_feature(), pair), [batch])
    assert found.loss > plain.loss
    changed = {name for name in plain.grads if not torch.equal(found.grads[name], plain.grads[name])}
    assert changed == set(plain.grads), "the head is the embeddings, which the trunk reads"
    assert all(parameter.grad is None for parameter in pair.teacher.parameters())
    assert bool(only_feature(make_core(with_feature(), pair), batch).any())


def test_states_that_are_aligned_cost_nothing_and_pull_nowhere(
    make_pair: Callable[..., Pair], batch: Batch, make_core: Any
) -> None:
    student = make_pair(torch.float64).student
    pair = Pair(student=student, teacher=copy.deepcopy(student))
    core = make_core(with_feature(), pair)
    (weight,) = core.projection.parameters()
    with torch.no_grad():
        weight.copy_(torch.eye(len(weight)))
    found = run(core, [batch])
    assert found.loss == 0.0
    assert float(weight.grad.abs().max()) < 1e-14
    assert max(float(grad.abs().max()) for grad in found.grads.values()) < 1e-10


def test_easy_positions_pull_nowhere(pair64: Pair, batch: Batch, make_core: Any) -> None:
    never = with_feature(feature={**LAST, "signal": "teacher_entropy_rank", "above": 1.0})
    core = make_core(never, pair64)
    assert not only_feature(core, batch).any()
    assert run(core, [batch]).loss == run(make_core(presets()["full_kd"], pair64), [batch]).loss
    always = make_core(with_feature(feature={**LAST, "signal": "teacher_entropy_rank", "above": -1.0}), pair64)
    assert run(always, [batch]).loss == run(make_core(with_feature(), pair64), [batch]).loss


def test_matched_layers_are_compared_pair_by_pair(pair64: Pair, batch: Batch, make_core: Any) -> None:
    core = make_core(with_feature(feature=MATCHED, teacher="online"), pair64)
    plain = run(make_core(presets()["full_kd"], pair64), [batch])
    found = run(core, [batch])
    with torch.no_grad():
        ours = trunk_layers(pair64.student, batch.input_ids, [0, 1]).layers
        theirs = trunk_layers(pair64.teacher, batch.input_ids, [0, 2]).layers
        wanted = 0.0
        for each, mine, yours in zip(core.projection, ours, theirs, strict=True):
            projected = mine @ each.weight.double().T
            rows = 1 - torch.nn.functional.cosine_similarity(projected, yours, dim=-1)
            per_sequence = (rows * batch.valid).sum(-1) / batch.valid.sum(-1)
            wanted += 0.7 * float(per_sequence.mean()) / 2
    assert found.loss == pytest.approx(plain.loss + wanted, rel=1e-9)
    assert torch.equal(ours[0], pair64.student.get_input_embeddings()(batch.input_ids))
    assert torch.equal(theirs[1], trunk(pair64.teacher, batch.input_ids))


def test_training_moves_the_projection_and_brings_the_states_closer(
    make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Any
) -> None:
    from oracle import OPTIMISATION

    ids = make_batch(8, 12, seed=3).input_ids.to(torch.int32).numpy()
    tokens = Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=1.0, key="feature")
    # A weight that drowns the rest of the loss.
    pair = make_pair(torch.float32)
    core = make_core(with_feature(feature={**LAST, "weight": 100.0}), pair)
    (weight,) = core.projection.parameters()
    before = weight.detach().clone()
    optimisation = OPTIMISATION.model_copy(update={"epochs": 20, "schedule": "constant"})
    curve = train(core, tokens, optimisation).curve["loss_nats"]
    assert not torch.equal(weight, before)
    assert float(curve.iloc[-1]) < 0.6 * float(curve.iloc[0])
    assert weight.requires_grad
    assert len(core.parameters) == len(list(pair.student.parameters())) + 1


# ---- EGAD


def test_egad_without_its_mechanisms_is_full_kd() -> None:
    position = {"policy": "all", "signal": None}
    off = variant("egad", position=position, temperature=1.0, feature=None)
    assert off.identity() == presets()["full_kd"].identity()
    assert {part.name for part in components(off)} == {"all", "forward_kl"}


def test_egads_mechanisms_at_their_neutral_settings_are_full_kd_bit_for_bit(
    make_pair: Callable[..., Pair], batch: Batch, make_core: Any
) -> None:
    pair = make_pair(torch.float32)
    neutral = variant(
        "egad",
        temperature={"name": "egad", "low": 1.0, "high": 1.0, "hot": "hard"},
        feature={**LAST, "signal": "teacher_entropy_rank", "above": 1.0},
    )
    # Half-way the curriculum weighs all alike.
    found = run(make_core(neutral, pair), [batch], step=5)
    wanted = run(make_core(presets()["full_kd"], pair), [batch], step=5)
    assert found.loss == wanted.loss
    assert all(torch.equal(found.grads[name], wanted.grads[name]) for name in wanted.grads)


def test_the_grid_switches_each_of_egads_mechanisms_alone() -> None:
    rows = [each for each in load_grid(EGAD_GRID).strategies if each.label != "Full KD"]
    assert all("reconstructed from the abstract" in each.source for each in rows)
    on = {
        (
            each.position.policy.name == "tilt",
            None if isinstance(each.temperature, float) else str(each.temperature.options["hot"]),
            each.feature is not None,
        )
        for each in rows
    }
    assert on == set(itertools.product((False, True), (None, "hard", "easy"), (False, True)))
    assert len(rows) == len(on)


# ---- what a strategy may say


def test_the_branch_is_part_of_what_a_trial_is() -> None:
    used = {(part.kind, part.name) for part in components(presets()["egad"])}
    assert {("feature distance", "cosine"), ("signal", "teacher_entropy")} <= used
    assert "feature" not in presets()["full_kd"].identity()
    assert teacher_reader(with_feature("sft")) == "feature 'cosine'"
    probe(with_feature("sft"))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("rs_kd", {"feature": LAST, "teacher": "sampled"}, "compares hidden states, and teacher: sampled holds a few"),
    ("full_kd", {"feature": MATCHED}, r"compares layers \[\[0, 0\], \[1, 2\]\], and the cache holds"),
    (
        "full_kd",
        {"feature": {**LAST, "distance": "cosin"}},
        r"unknown feature distance 'cosin'\. Did you mean 'cosine'",
    ),
    ("full_kd", {"feature": {**LAST, "signal": "entropy", "above": 0.5}}, "unknown signal 'entropy'"),
    ("full_kd", {"feature": {**LAST, "signal": "kl"}}, "give both of signal and above"),
    ("full_kd", {"feature": {**LAST, "weight": 0.0}}, "greater than 0"),
    ("no_kd", {"feature": LAST}, "feature would do nothing"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_means_nothing_is_refused_with_the_reason(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_strategy(variant(name, **changes))


def test_layers_that_there_are_not_are_refused() -> None:
    strategy = with_feature(feature=MATCHED, teacher="online")
    check_strategy(strategy)
    workload = load_workload("tiny")
    check(strategy, workload, Facts(layers={"student": 1, "teacher": 2}))
    with pytest.raises(UserError, match="names the teacher's layer 2, and it has 1"):
        check(strategy, workload, Facts(layers={"student": 1, "teacher": 1}))


def test_a_distance_of_the_wrong_shape_fails_the_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(FEATURES["cosine"], build=lambda *, student_states, teacher_states: student_states)
    monkeypatch.setitem(FEATURES._components, "cosine", broken)
    with pytest.raises((UserError, TypeError), match="feature distance 'cosine'"):
        probe(with_feature())
