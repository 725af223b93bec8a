"""Temperatures of their own for every position: contract, identities, an oracle through the core, what is refused."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Pair, split_batch
from oracle import SPLITS, assert_same, oracle, run, variant
from torch import Tensor

from harness.config import Choice, Strategy
from harness.config.errors import UserError
from harness.config.expand import load_grid, presets
from harness.config.labels import describe_temperature
from harness.config.legality import check_strategy, components, teacher_reader
from harness.data.tokens import Batch
from harness.distill.objective import compile_strategy
from harness.distill.probe import probe
from strategies.registry import SIGNALS, STEP_INPUTS, TEMPERATURES

CHOICES: list[dict[str, Any]] = [
    {"name": "constant", "value": 1.7},
    {"name": "linear", "start": 4.0, "end": 1.0},
    {"name": "idts", "base": 1.5, "strength": 0.5},
    {"name": "egad", "low": 1.0, "high": 2.0, "hot": "hard"},
    {"name": "egad", "low": 0.8, "high": 2.0, "hot": "easy"},
]
every_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
OWN = [choice for choice in CHOICES if choice["name"] != "constant"]
every_own = pytest.mark.parametrize("choice", OWN, ids=lambda choice: "-".join(map(str, choice.values())))
VALID = torch.tensor([[True, True, True, True, False], [True, True, True, False, False]])


def heat(choice: dict[str, Any], scores: Tensor, valid: Tensor = VALID, progress: float = 0.25) -> Tensor:
    """Apply a temperature; every signal it reads is `scores`."""
    component = TEMPERATURES[choice["name"]]
    given = {"valid": valid, "progress": progress, **dict.fromkeys(SIGNALS, scores)}
    options = {key: value for key, value in choice.items() if key != "name"}
    found = component.build(**{name: given[name] for name in component.inputs}, **options)
    assert isinstance(found, Tensor)
    return found


@pytest.fixture(scope="module")
def pair64(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair(torch.float64)


@pytest.fixture(scope="module")
def batch(make_batch: Callable[..., Batch]) -> Batch:
    return make_batch(6, 13)


# ---- the contract of every temperature


def test_every_temperature_is_held_to_the_contract() -> None:
    assert {choice["name"] for choice in CHOICES} == set(TEMPERATURES)


@pytest.mark.parametrize("name", list(TEMPERATURES))
def test_a_temperature_declares_what_it_reads(name: str) -> None:
    component = TEMPERATURES[name]
    assert set(component.inputs) <= {*SIGNALS, *STEP_INPUTS, "valid"}
    assert component.traits["scope"] in ("row", "batch")
    assert all(option.required for option in component.options.values()), "what science depends on is in the grid"


@every_choice
@pytest.mark.parametrize("scores", [torch.linspace(0, 1, 10).view(2, 5), torch.zeros(2, 5), torch.ones(2, 5)])
def test_temperatures_are_finite_and_above_zero_wherever_scores_are(choice: dict[str, Any], scores: Tensor) -> None:
    for valid in (VALID, torch.zeros_like(VALID), torch.ones_like(VALID)):
        found = heat(choice, scores, valid)
        assert found.shape == VALID.shape
        assert bool(found.isfinite().all())
        assert bool((found > 0).all())


@every_choice
def test_scores_at_invalid_positions_mean_nothing(choice: dict[str, Any]) -> None:
    scores = torch.linspace(0.1, 0.9, 10).view(2, 5)
    loud = scores.masked_fill(~VALID, 0.99)
    assert torch.equal(heat(choice, scores)[VALID], heat(choice, loud)[VALID])


@every_choice
def test_a_temperature_of_row_scope_reads_its_position_alone(choice: dict[str, Any]) -> None:
    scores = torch.linspace(0.1, 0.9, 10).view(2, 5)
    alone = torch.cat([heat(choice, scores[i : i + 1], VALID[i : i + 1]) for i in range(2)])
    same = torch.equal(alone, heat(choice, scores))
    assert same == (TEMPERATURES[choice["name"]].traits["scope"] == "row")


@every_choice
def test_the_dry_run_passes_every_temperature(choice: dict[str, Any]) -> None:
    strategy = variant("full_kd", temperature=choice)
    check_strategy(strategy)
    probe(strategy)


# ---- identities


def test_idts_is_low_where_the_student_is_far_and_the_base_at_the_median() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.4, 0.8, 9.0], [0.3, 0.1, 0.0, 9.0, 9.0]], dtype=torch.float64)
    found = heat({"name": "idts", "base": 2.0, "strength": 0.5}, scores)
    wanted = 2.0 * torch.exp(-0.5 * torch.tanh((scores / 0.2).log()))
    torch.testing.assert_close(found[VALID], wanted[VALID], rtol=1e-12, atol=0)
    assert float(found[0, 1]) == 2.0
    falling = found[VALID][scores[VALID].argsort()]
    assert bool((falling[1:] <= falling[:-1]).all())


def test_idts_of_many_positions_stays_between_its_bounds() -> None:
    scores = 10.0 ** torch.linspace(-7, 0, 10).view(2, 5)
    found = heat({"name": "idts", "base": 1.0, "strength": 0.5}, scores, torch.ones_like(VALID))
    assert [float(found.min()), float(found.max())] == pytest.approx([math.exp(-0.5), math.exp(0.5)], rel=1e-4)


def test_egads_directions_mirror_each_other() -> None:
    rank = torch.tensor([[0.0, 0.25, 1.0]])
    valid = torch.ones((1, 3), dtype=torch.bool)
    hard, easy = (heat({"name": "egad", "low": 1.0, "high": 2.0, "hot": hot}, rank, valid) for hot in ("hard", "easy"))
    assert hard.tolist() == [[1.0, 1.25, 2.0]]
    assert easy.tolist() == [[2.0, 1.75, 1.0]]


def test_linear_moves_with_the_progress() -> None:
    choice = {"name": "linear", "start": 4.0, "end": 1.0}
    assert [float(heat(choice, torch.zeros(2, 5), progress=done)[0, 0]) for done in (0.0, 0.5, 1.0)] == [4.0, 2.5, 1.0]


@pytest.mark.parametrize("value", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("kd_weight", [1.0, 0.5])
@pytest.mark.parametrize(
    "neutral", [{"name": "idts", "strength": 0.0}, {"name": "egad", "hot": "hard"}, {"name": "linear"}]
)
def test_without_its_mechanism_a_temperature_is_the_constant_one_bit_for_bit(
    neutral: dict[str, Any],
    kd_weight: float,
    value: float,
    make_pair: Callable[..., Pair],
    batch: Batch,
    make_core: Any,
) -> None:
    ends = {"idts": {"base": value}, "egad": {"low": value, "high": value}, "linear": {"start": value, "end": value}}
    pair = make_pair(torch.float32)
    wanted = run(make_core(variant("full_kd", temperature=value, kd_weight=kd_weight), pair), [batch])
    own = variant("full_kd", temperature={**neutral, **ends[neutral["name"]]}, kd_weight=kd_weight)
    found = run(make_core(own, pair), [batch])
    assert found.loss == wanted.loss
    if kd_weight == 1.0:
        assert all(torch.equal(found.grads[name], wanted.grads[name]) for name in wanted.grads)
    else:
        # The two losses' gradients meet before the softmax at a constant 1, after it elsewhere.
        assert_same(found, wanted, 1e-6)


def test_a_number_and_the_constant_temperature_are_the_same_trial() -> None:
    written_out = variant("full_kd", temperature={"name": "constant", "value": 2.0})
    assert written_out.temperature == 2.0
    assert written_out.identity() == variant("full_kd", temperature=2.0).identity()
    assert (
        variant("full_kd", temperature={"name": "constant", "value": 1.0}).identity() == presets()["full_kd"].identity()
    )


def test_no_gradient_passes_through_the_temperature() -> None:
    objective = compile_strategy(variant("full_kd", temperature=OWN[1]))
    assert not objective.heat({"hellinger": torch.rand((2, 5), requires_grad=True)}, VALID, 0.0).requires_grad


# ---- through the core


@every_own
@pytest.mark.parametrize("kd_weight", [1.0, 0.5])
@pytest.mark.parametrize("flow", ["chunked", "dense"])
def test_loss_and_gradients_equal_the_dense_oracle(
    choice: dict[str, Any], kd_weight: float, flow: str, pair64: Pair, batch: Batch, make_core: Any
) -> None:
    strategy = variant("se_kd", temperature=choice, kd_weight=kd_weight, flow=flow)
    assert_same(run(make_core(strategy, pair64, chunk=5), [batch]), oracle(strategy, pair64, batch), 1e-9)


@every_own
@pytest.mark.parametrize("name", ["reverse_kl", "dkd", "csd"])
def test_any_criterion_is_compared_at_the_rows_own_temperature(
    choice: dict[str, Any], name: str, pair64: Pair, batch: Batch, make_core: Any
) -> None:
    criterion = {
        "dkd": {"name": "dkd", "alpha": 1.0, "beta": 2.0},
        "csd": {"name": "csd", "first": "teacher", "second": "student"},
    }
    strategy = variant("full_kd", temperature=choice, criterion=criterion.get(name, name))
    if name == "reverse_kl":
        # The oracle's own formula of the reverse direction, not the component's.
        strategy = variant(strategy, normaliser="all_positions")
    assert_same(run(make_core(strategy, pair64), [batch]), oracle(strategy, pair64, batch), 1e-9)


@every_own
def test_splits_chunks_and_padding_do_not_matter(
    choice: dict[str, Any], pair64: Pair, make_batch: Callable[..., Batch], make_core: Any
) -> None:
    strategy = variant("se_kd", temperature=choice)
    wanted = run(make_core(strategy, pair64), [make_batch(6, 13)])
    for sizes, chunk, padding in itertools.product(SPLITS, (1, 7), (0, 4)):
        found = run(make_core(strategy, pair64, chunk=chunk), split_batch(make_batch(6, 13, padding=padding), sizes))
        assert_same(found, wanted, 1e-10)


def test_reduced_rows_are_softened_too(pair64: Pair, batch: Batch, make_core: Any) -> None:
    classes = {"name": "top_k", "num": 12, "renormalise": True}
    strategy = variant("full_kd", temperature=OWN[2], classes=classes)
    assert_same(run(make_core(strategy, pair64), [batch]), oracle(strategy, pair64, batch), 1e-9)


def test_with_lambda_zero_nothing_is_scored_for_a_temperature(make_core: Any, pair64: Pair) -> None:
    core = make_core(variant("full_kd", temperature=OWN[1], kd_weight=0.0), pair64, with_teacher=False)
    assert core.objective.temperature is None
    assert core.objective.scored == ()


# ---- what a strategy may say


def test_a_temperature_is_part_of_what_a_trial_is() -> None:
    adakd = presets()["adakd"]
    used = {(part.kind, part.name) for part in components(adakd)}
    assert {("temperature", "idts"), ("signal", "hellinger")} <= used
    assert variant("full_kd", temperature=OWN[1]).identity() != presets()["full_kd"].identity()
    assert teacher_reader(variant("sft", temperature=OWN[1])) == "signal 'hellinger'"


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("full_kd", {"temperature": "idst"}, r"unknown temperature 'idst'\. Did you mean 'idts'"),
    ("full_kd", {"temperature": {"name": "idts", "base": 1.0}}, "needs the option 'strength'"),
    ("full_kd", {"temperature": OWN[1], "kd_weight": 0.0}, "lambda 0 compares none"),
    (
        "rs_kd",
        {"temperature": OWN[1]},
        "unbiased only at the temperature it is drawn at, which is 1; temperature is idts",
    ),
    (
        "full_kd",
        {"temperature": OWN[1], "teacher": "topk", "classes": {"name": "top_k_tail", "num": 4}},
        "targets made at one temperature",
    ),
    ("no_kd", {"temperature": OWN[1]}, "temperature would do nothing"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_means_nothing_is_refused_with_the_reason(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_strategy(variant(name, **changes))


OUT_OF_RANGE = [
    ({"name": "idts", "base": 0.0, "strength": 0.5}, "base above 0"),
    ({"name": "idts", "base": 1.0, "strength": -0.5}, "strength of at least 0"),
    ({"name": "egad", "low": 2.0, "high": 1.0, "hot": "hard"}, "0 < low <= high"),
    ({"name": "egad", "low": 1.0, "high": 2.0, "hot": "both"}, "hard or easy, not 'both'"),
    ({"name": "linear", "start": 0.0, "end": 1.0}, "must be above 0"),
]


@pytest.mark.parametrize(("choice", "message"), OUT_OF_RANGE)
def test_an_option_out_of_range_fails_the_dry_run(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"temperature '{choice['name']}'.*{message}"):
        probe(variant("full_kd", temperature=choice))


def test_a_temperature_below_zero_fails_the_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    known = TEMPERATURES["linear"]
    broken = replace(known, build=lambda *, valid, progress, start, end: -torch.ones(valid.shape))
    monkeypatch.setitem(TEMPERATURES._components, "linear", broken)
    with pytest.raises(UserError, match="must be finite, above 0"):
        probe(variant("full_kd", temperature=OWN[0]))


def test_labels_and_sweeps_know_temperatures(write_grid: Callable[..., Path]) -> None:
    assert describe_temperature(2.0) == "2"
    assert describe_temperature(Choice(name="linear", options={"start": 4.0, "end": 1.0})) == "linear 4 1"
    sweep = {"temperature": [2.0, {"name": "egad", "low": 1.0, "high": 2.0, "hot": "hard"}]}
    strategies: tuple[Strategy, ...] = load_grid(
        write_grid([{"preset": "full_kd", "label": "T {temperature}", "sweep": sweep}])
    ).strategies
    assert [each.label for each in strategies] == ["T 2", "T egad 1 2 hard"]
