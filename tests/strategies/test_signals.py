"""Contract of every signal, and each against a plain float64 reference."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.distill.score import Rows, score_batch, score_rows
from harness.models import Head
from strategies.base import log_probs
from strategies.registry import SIGNALS, TEACHER_INPUTS, Option, order_signals, raw_inputs

NAMES = list(SIGNALS)
ROW_NAMES = [name for name in NAMES if SIGNALS[name].traits["scope"] == "row"]
BATCH_NAMES = [name for name in NAMES if SIGNALS[name].traits["scope"] == "batch"]
# Batch signals that compare the positions of a sequence, and not those of the whole batch.
OF_A_SEQUENCE = ["fire", "kl_plus_student_entropy_z"]
# Those that rank: among positions that are alike, the order is theirs.
RANKED = {"entropy_ier_or"}
NUM, VOCAB, LENGTH = 24, 61, 6  # more classes than the likeliest ones of both models


def function(name: str) -> Any:
    return SIGNALS[name].build


def logits(seed: int, *, dtype: torch.dtype = torch.float64, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return student rows, teacher rows and targets."""
    draws = np.random.RandomState(seed)
    student, teacher = (torch.from_numpy(scale * draws.standard_normal((NUM, VOCAB))).to(dtype) for _ in range(2))
    return student, teacher, torch.from_numpy(draws.randint(0, VOCAB, NUM))


def score(name: str, student: Tensor, teacher: Tensor, targets: Tensor, *, chunk: int = 1000) -> Tensor:
    """Score rows of logits through the core's own path; the last dim is one sequence of LENGTH positions."""
    noise = torch.linspace(0, 0.99, len(student))
    ordered = order_signals([name])
    identity = Head(weight=torch.eye(VOCAB, dtype=student.dtype))
    rows = Rows(student=student, teacher=teacher, targets=targets, noise=noise)
    row_names = tuple(each for each in ordered if SIGNALS[each].traits["scope"] == "row")
    scored = score_rows(row_names, function, rows, identity, identity, chunk=chunk)
    if SIGNALS[name].traits["scope"] == "row":
        return scored[name]
    valid = torch.ones((len(student) // LENGTH, LENGTH), dtype=torch.bool)
    return score_batch(ordered, function, scored, valid, torch.arange(len(student)))[name].flatten()


# ---- plain references: loops over float64 numbers


def _softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def _entropy(p: np.ndarray) -> float:
    return -sum(x * np.log(x) for x in p)


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    return sum(x * np.log(x / y) for x, y in zip(p, q, strict=True))


def _ier(p: np.ndarray, q: np.ndarray, y: int, num: int) -> float:
    candidates = sorted({*np.argsort(-p)[:num].tolist(), *np.argsort(-q)[:num].tolist(), y})
    p, q = p[candidates] / p[candidates].sum(), q[candidates] / q[candidates].sum()
    r, leverage = np.clip(np.log(q / p), -30, 30), 1 / np.maximum(q, 1e-8) - 1
    mean, spread = (q * r).sum(), (q * leverage).sum()
    baseline = (q * r * leverage).sum() / spread if abs(spread) > 1e-8 else mean
    variance = (q * (r - mean) ** 2).sum()
    return float(variance / max((q * (r - baseline) ** 2 * leverage).sum() - variance, 1e-8))


REFERENCES: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "student_entropy": lambda p, q, y: _entropy(q),
    "teacher_entropy": lambda p, q, y: _entropy(p),
    "student_ce": lambda p, q, y: -np.log(q[y]),
    "teacher_ce": lambda p, q, y: -np.log(p[y]),
    "kl": lambda p, q, y: _kl(p, q),
    "reverse_kl": lambda p, q, y: _kl(q, p),
    "ce_ratio": lambda p, q, y: np.log(q[y]) / np.log(p[y]),
    "kl_plus_student_entropy": lambda p, q, y: _kl(p, q) + _entropy(q),
    "ce_ratio_plus_student_entropy": lambda p, q, y: np.log(q[y]) / np.log(p[y]) + _entropy(q),
    "teacher_uncertainty": lambda p, q, y: 1 - p[y],
    "student_uncertainty": lambda p, q, y: 1 - max(q),
    "student_margin": lambda p, q, y: sorted(q)[-2] - sorted(q)[-1],
    "hellinger": lambda p, q, y: np.sqrt(sum((np.sqrt(a) - np.sqrt(b)) ** 2 for a, b in zip(p, q, strict=True)) / 2),
    "jsd": lambda p, q, y: (_kl(p, (p + q) / 2) + _kl(q, (p + q) / 2)) / 2,
    "excess_loss": lambda p, q, y: np.log(p[y]) - np.log(q[y]),
    "trust": lambda p, q, y: min(p[y] / q[y], 1.0),
    "dial": lambda p, q, y: abs(p[y] - q[y]),
    "ier": lambda p, q, y: _ier(p, q, y, 16),
    "ea_kd": lambda p, q, y: (_entropy(p) + _entropy(p) * _entropy(q) / np.log(VOCAB)) / 2,
    "accepted": lambda p, q, y: float(np.argmax(q) in np.argsort(-p)[:5]),
    "entropy_times_jsd": lambda p, q, y: (
        max(_entropy(q) / np.log(VOCAB), 1e-8) * max(REFERENCES["jsd"](p, q, y) / np.log(2), 1e-8)
    ),
    "student_entropy_normalised": lambda p, q, y: _entropy(q) / np.log(VOCAB),
    "ce_ratio_plus_student_entropy_normalised": lambda p, q, y: (
        np.log(q[y]) / np.log(p[y]) + _entropy(q) / np.log(VOCAB)
    ),
    "teacher_mass_on_student_top": lambda p, q, y: sum(p[v] for v in sorted(range(VOCAB), key=lambda v: -q[v])[:16]),
}


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    least, most = np.quantile(values, low), np.quantile(values, high)
    return (np.clip(values, least, most) - least) / (most - least)


def _either(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 1 - (1 - a) * (1 - b)


def _soft_or(parts: dict[str, np.ndarray]) -> np.ndarray:
    h, d = (_scaled(parts[name], 0, 0.98) for name in ("student_entropy_normalised", "reverse_kl"))
    return _either(h, d)


def _ranked(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable")) / (len(values) - 1)


def _fire(parts: dict[str, np.ndarray]) -> np.ndarray:
    sure = 1 - parts["teacher_entropy"] / parts["teacher_entropy"].max()
    weight = (1 + sure) * (1 + parts["student_entropy"] / parts["student_entropy"].max())
    likely = -parts["teacher_ce"].reshape(-1, LENGTH).mean(-1)
    kept = np.repeat(likely >= np.quantile(likely, 0.2), LENGTH)
    return np.where(kept, weight / weight.mean(), 0.0)


def _standardised_sum(parts: dict[str, np.ndarray], *, prefilter: float = 1.0) -> np.ndarray:
    """Sum of standard scores over the `prefilter` share of each sequence's positions that has the highest entropy."""
    found = np.zeros(NUM)
    for start in range(0, NUM, LENGTH):
        places = sorted(range(start, start + LENGTH), key=lambda t: -parts["student_entropy"][t])
        inside, outside = np.split(np.array(places), [int(np.ceil(prefilter * LENGTH - 1e-6))])
        for name in ("student_entropy", "kl"):
            known = parts[name][inside]
            found[inside] += (known - known.mean()) / known.std()
        found[outside] = found[inside].min() - 1
    return found


BATCH_REFERENCES: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
    "tip_soft_or": _soft_or,
    "kl_plus_student_entropy_z": _standardised_sum,
    "fire": _fire,
    "ca_soft_or": lambda parts: _either(
        _scaled(parts["student_entropy_normalised"], 0.05, 0.95),
        _scaled(parts["kl"] * parts["teacher_mass_on_student_top"], 0.05, 0.95),
    ),
    "entropy_ier_or": lambda parts: _either(
        _scaled(parts["student_entropy_normalised"], 0.05, 0.95), _ranked(parts["ier"])
    ),
    "entropy_ier_and": lambda parts: _scaled(parts["student_entropy_normalised"], 0.05, 0.95) * _ranked(parts["ier"]),
    "tip_q3": lambda parts: parts["kl"] * (1 - _scaled(parts["student_entropy_normalised"], 0, 0.98)),
    "teachability": lambda parts: (
        _scaled(parts["kl"], 0.05, 0.95) * _scaled(parts["teacher_mass_on_student_top"], 0.05, 0.95)
    ),
}


@pytest.mark.parametrize("options", [{}, {"prefilter": 0.6}, {"prefilter": 0.5}])
def test_a_standardised_sum_equals_its_reference(options: dict[str, float]) -> None:
    student, teacher, targets = logits(2)
    parts = {name: score(name, student, teacher, targets) for name in ("student_entropy", "kl")}
    laid = {name: each.view(-1, LENGTH) for name, each in parts.items()}
    valid = torch.ones((NUM // LENGTH, LENGTH), dtype=torch.bool)
    found = function("kl_plus_student_entropy_z")(**laid, valid=valid, **options).flatten().numpy()
    wanted = _standardised_sum({name: each.numpy() for name, each in parts.items()}, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_a_flat_part_of_a_standardised_sum_counts_for_nothing() -> None:
    valid = torch.tensor([[True, True, True, False]])
    rising, flat = torch.tensor([[1.0, 2.0, 3.0, torch.nan]]), torch.full((1, 4), 2.0)
    found = function("kl_plus_student_entropy_z")(kl=rising, student_entropy=flat, valid=valid)
    torch.testing.assert_close(found, torch.tensor([[-(1.5**0.5), 0.0, 1.5**0.5, 0.0]]))


def test_every_row_signal_has_a_reference() -> None:
    assert set(ROW_NAMES) == set(REFERENCES) | {"random"}
    assert set(BATCH_NAMES) == set(BATCH_REFERENCES) | {"teacher_uncertainty_rank", "teacher_entropy_rank"}


@pytest.mark.parametrize("name", sorted(REFERENCES))
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_a_row_signal_equals_its_reference(name: str, scale: float) -> None:
    student, teacher, targets = logits(1, scale=scale)
    found = score(name, student, teacher, targets).numpy()
    q, p = ([_softmax(row) for row in rows.numpy()] for rows in (student, teacher))
    wanted = np.array([REFERENCES[name](p[i], q[i], int(targets[i])) for i in range(NUM)])
    if "ce_ratio" in name:
        certain = np.array([-np.log(p[i][int(targets[i])]) < 1e-6 for i in range(NUM)])
        found, wanted = found[~certain], wanted[~certain]
        assert len(wanted) > NUM // 2
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(BATCH_REFERENCES))
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_a_batch_signal_equals_its_reference(name: str, scale: float) -> None:
    student, teacher, targets = logits(1, scale=scale)
    q, p = ([_softmax(row) for row in rows.numpy()] for rows in (student, teacher))
    parts = {
        part: np.array([REFERENCES[part](p[i], q[i], int(targets[i])) for i in range(NUM)])
        for part in SIGNALS[name].inputs
        if part != "valid"
    }
    found = score(name, student, teacher, targets)
    np.testing.assert_allclose(found.numpy(), BATCH_REFERENCES[name](parts), rtol=1e-9, atol=1e-12)


def test_the_rank_signal_equals_its_reference() -> None:
    student, teacher, targets = logits(2)
    found = score("teacher_uncertainty_rank", student, teacher, targets)
    withheld = [1 - _softmax(row)[y] for row, y in zip(teacher.numpy(), targets.tolist(), strict=True)]
    wanted = [sorted(withheld).index(each) / NUM for each in withheld]
    torch.testing.assert_close(found.double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_rank_of_the_teachers_entropy_runs_from_0_to_1() -> None:
    student, teacher, targets = logits(2)
    found = score("teacher_entropy_rank", student, teacher, targets)
    entropies = [_entropy(_softmax(row)) for row in teacher.numpy()]
    wanted = [sorted(entropies).index(each) / (NUM - 1) for each in entropies]
    torch.testing.assert_close(found.double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=0)
    valid = torch.tensor([[True, True, False], [True, False, True]])
    entropy = torch.tensor([[0.9, 0.1, 9.0], [0.4, 0.0, 0.1]])
    ranks = function("teacher_entropy_rank")(teacher_entropy=entropy, valid=valid)
    assert torch.equal(ranks, torch.tensor([[1.0, 0.0, 0.0], [2 / 3, 0.0, 1 / 3]]))
    assert not function("teacher_entropy_rank")(teacher_entropy=entropy, valid=torch.zeros_like(valid)).any()


def test_the_rank_signal_leaves_invalid_positions_out() -> None:
    uncertainty = torch.tensor([[0.9, 0.1, 0.0], [0.4, 0.0, 0.2]])
    valid = torch.tensor([[True, True, False], [True, False, True]])
    found = function("teacher_uncertainty_rank")(teacher_uncertainty=uncertainty, valid=valid)
    assert found[valid].tolist() == [0.75, 0.0, 0.5, 0.25]


# ---- contract


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_are_one_finite_float32_number_per_position(name: str, dtype: torch.dtype) -> None:
    found = score(name, *_typed(logits(3), dtype))
    assert found.shape == (NUM,)
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert not found.requires_grad


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_float64_stays_float64(name: str) -> None:
    assert score(name, *logits(3)).dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-6, 100.0, 1e4])
def test_scores_stay_finite_on_extreme_logits(name: str, scale: float) -> None:
    assert bool(score(name, *_typed(logits(4, scale=scale), torch.float32)).isfinite().all())


def _typed(parts: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return parts[0].to(dtype), parts[1].to(dtype), parts[2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk", [1, 5])
def test_chunks_do_not_matter(name: str, chunk: int) -> None:
    parts = logits(5)
    torch.testing.assert_close(score(name, *parts, chunk=chunk), score(name, *parts), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_vocabulary_does_not_matter(name: str) -> None:
    student, teacher, targets = logits(6)
    order = torch.from_numpy(np.random.RandomState(0).permutation(VOCAB))
    renamed = order.argsort()[targets]
    assert torch.equal(teacher[:, order].gather(1, renamed[:, None]), teacher.gather(1, targets[:, None]))
    found = score(name, student[:, order], teacher[:, order], renamed)
    torch.testing.assert_close(found, score(name, student, teacher, targets), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"random"}))
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    student, teacher, targets = logits(7)
    order = torch.from_numpy(np.random.RandomState(1).permutation(NUM))
    if name in OF_A_SEQUENCE:  # whole sequences change places
        order = torch.arange(NUM).view(-1, LENGTH).flip(0).flatten()
    found = score(name, student[order], teacher[order], targets[order])
    torch.testing.assert_close(found, score(name, student, teacher, targets)[order], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_added_to_the_logits_does_not_matter(name: str) -> None:
    student, teacher, targets = logits(8)
    found = score(name, student + 7.5, teacher - 3.25, targets)
    torch.testing.assert_close(found, score(name, student, teacher, targets), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_signal_does_not_declare_does_not_reach_it(name: str) -> None:
    student, teacher, targets = logits(9)
    other_student, other_teacher, other_targets = logits(10)
    needed, wanted = raw_inputs(SIGNALS[name]), score(name, student, teacher, targets)
    reads_student = any(key.startswith("student") for key in needed)
    found = score(
        name,
        student if reads_student else other_student,
        teacher if needed & TEACHER_INPUTS else other_teacher,
        targets if "targets" in needed else other_targets,
    )
    assert torch.equal(found, wanted)
    if reads_student:
        assert not torch.equal(score(name, other_student, teacher, targets), wanted)
    if needed & TEACHER_INPUTS:
        assert not torch.equal(score(name, student, other_teacher, targets), wanted)
    if "targets" in needed:
        assert not torch.equal(score(name, student, teacher, (targets + 1) % VOCAB), wanted)


# ---- known values


@pytest.mark.parametrize("name", ["student_entropy", "teacher_entropy"])
def test_entropy_of_the_uniform_and_of_the_certain(name: str) -> None:
    uniform, certain = torch.zeros((NUM, VOCAB)), torch.zeros((NUM, VOCAB))
    certain[:, 3] = 1e4
    targets = torch.zeros(NUM, dtype=torch.long)
    torch.testing.assert_close(score(name, uniform, uniform, targets), torch.full((NUM,), float(np.log(VOCAB))))
    assert not score(name, certain, certain, targets).any()


@pytest.mark.parametrize("name", ["student_entropy", "teacher_entropy", "kl", "reverse_kl", "jsd", "hellinger"])
def test_classes_masked_to_minus_infinity_count_for_nothing(name: str) -> None:
    student, teacher, _ = logits(11)
    key = function(name)
    given = {"student_logprobs": student, "teacher_logprobs": teacher}
    masked = {k: log_probs(torch.cat([v, torch.full((NUM, 2), -torch.inf)], dim=1)) for k, v in given.items()}
    plain = {k: log_probs(v) for k, v in given.items()}
    inputs = SIGNALS[name].inputs
    found, wanted = key(**{k: masked[k] for k in inputs}), key(**{k: plain[k] for k in inputs})
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "hellinger", "excess_loss"])
def test_divergence_of_equals_is_exactly_zero(name: str) -> None:
    student, _, targets = logits(12, dtype=torch.float32)
    assert not score(name, student, student.clone(), targets).any()


def test_jsd_is_symmetric_and_bounded_by_the_disjoint_case() -> None:
    student, teacher, targets = logits(12)
    torch.testing.assert_close(score("jsd", student, teacher, targets), score("jsd", teacher, student, targets))
    apart = torch.tensor([[0.0, -1e4], [-1e4, 0.0]], dtype=torch.float64).log_softmax(-1)
    found = function("jsd")(teacher_logprobs=apart, student_logprobs=apart.flip(-1))
    assert found.tolist() == pytest.approx([np.log(2)] * 2, rel=1e-12)
    assert float(score("jsd", student, student, targets).max()) < 1e-15


@pytest.mark.parametrize("name", sorted(set(BATCH_REFERENCES) - {"fire"} - RANKED))
def test_a_batch_in_which_all_positions_are_alike_or_none_is_valid_scores_zero(name: str) -> None:
    inputs = [key for key in SIGNALS[name].inputs if key != "valid"]
    alike = dict.fromkeys(inputs, torch.zeros((2, 3)))
    for valid in (torch.ones((2, 3), dtype=torch.bool), torch.zeros((2, 3), dtype=torch.bool)):
        assert not function(name)(**alike, valid=valid).any()


@pytest.mark.parametrize("drop", [0.0, 0.2, 0.6])
def test_fire_equals_its_reference(drop: float) -> None:
    draws = np.random.RandomState(0)
    hs, ht, ce = (torch.from_numpy(draws.exponential(size=(5, 7))) for _ in range(3))
    valid = torch.from_numpy(draws.random_sample((5, 7)) < 0.7)
    valid[4] = False
    options = {"drop": drop, "teacher_gain": 0.5, "student_gain": 2.0}
    found = function("fire")(student_entropy=hs, teacher_entropy=ht, teacher_ce=ce, valid=valid, **options)
    likely = [-float(ce[row][valid[row]].mean()) for row in range(4)]
    weight = (1 + 0.5 * (1 - ht / ht[valid].max())) * (1 + 2 * hs / hs[valid].max())
    wanted = torch.where(valid, weight / weight[valid].mean(), 0.0)
    for row in range(4):
        if likely[row] < np.quantile(likely, drop):
            wanted[row] = 0.0
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_ier_is_what_the_official_test_expects() -> None:
    # The rows of IER-OPD's tests/test_selectors.py: three candidates, whose log-ratios are 0, 1 and 2.
    student = torch.tensor([[1 / 2, 1 / 3, 1 / 6]], dtype=torch.float64).log()
    teacher = (student - torch.tensor([0.0, 1.0, 2.0])).log_softmax(-1)
    found = function("ier")(teacher_logprobs=teacher, student_logprobs=student, targets=torch.tensor([0]))
    assert float(found) == pytest.approx(10 / 13, rel=1e-12)


def test_ier_counts_its_candidates_only() -> None:
    student, teacher, targets = logits(13)
    q, p = ([_softmax(row) for row in rows.numpy()] for rows in (student, teacher))
    given = {"teacher_logprobs": log_probs(teacher), "student_logprobs": log_probs(student), "targets": targets}
    for num in (1, 3, 100):
        wanted = [_ier(p[i], q[i], int(targets[i]), num) for i in range(NUM)]
        np.testing.assert_allclose(function("ier")(**given, num=num).numpy(), wanted, rtol=1e-9)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_dial_is_a_log_ratio_times_a_power_of_the_logarithmic_mean(power: float) -> None:
    p, q = np.array([0.5, 0.3, 0.9, 0.2]), np.array([0.1, 0.4, 1e-12, 0.2])
    given = {"student_ce": torch.from_numpy(-np.log(q)), "teacher_ce": torch.from_numpy(-np.log(p))}
    gap = np.log(p / q)
    mean = np.array([(a - b) / g if g else a for a, b, g in zip(p, q, gap, strict=True)])
    found = function("dial")(**given, power=power).numpy()
    np.testing.assert_allclose(found, np.abs(gap) * mean**power, rtol=1e-12)


def test_acceptance_and_powers_are_options() -> None:
    student = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]).log()
    teacher = torch.tensor([[0.3, 0.6, 0.1], [0.3, 0.6, 0.1]]).log()
    given = {"teacher_logprobs": teacher, "student_logprobs": student}
    assert function("accepted")(**given, num=2).tolist() == [1.0, 0.0]
    assert function("accepted")(**given, num=2, rejected=0.25).tolist() == [1.0, 0.25]
    parts = {"student_entropy_normalised": torch.tensor([0.5, 0.0]), "jsd": torch.tensor([0.25, 0.0]) * np.log(2)}
    weigh = function("entropy_times_jsd")
    assert weigh(**parts, entropy_power=2.0, jsd_power=0.0).tolist() == pytest.approx([0.25, 1e-16])
    assert weigh(**parts, entropy_power=0.0, jsd_power=0.5).tolist() == pytest.approx([0.5, 1e-4])


def test_clipping_percentiles_are_options_and_take_outliers_off() -> None:
    valid = torch.ones((1, 101), dtype=torch.bool)
    ramp = torch.arange(101.0)[None]
    spiked = ramp.clone()
    spiked[0, -1] = 1e9
    given = {"student_entropy_normalised": torch.zeros_like(ramp), "valid": valid}
    tip = function("tip_soft_or")
    assert torch.equal(tip(**given, reverse_kl=spiked), tip(**given, reverse_kl=ramp))
    assert tip(**given, reverse_kl=ramp)[0, [0, 49, 98, 100]].tolist() == [0.0, 0.5, 1.0, 1.0]
    assert float(tip(**given, reverse_kl=spiked, clip=1.0)[0, 50]) < 1e-6
    parts = {"kl": ramp, "teacher_mass_on_student_top": ramp, "valid": valid}
    assert function("teachability")(**parts)[0, [5, 50, 95]].tolist() == pytest.approx([0.0, 0.25, 1.0], abs=1e-6)
    assert SIGNALS["teachability"].options.keys() == {"low", "high"}


def test_teacher_mass_reads_as_many_of_the_students_tokens_as_asked() -> None:
    student = torch.tensor([[0.5, 0.3, 0.2]]).log()
    teacher = torch.tensor([[0.1, 0.2, 0.7]]).log()
    mass = function("teacher_mass_on_student_top")
    sums = [float(mass(teacher_logprobs=teacher, student_logprobs=student, num=num)) for num in (1, 2, 3, 16)]
    assert sums == pytest.approx([0.1, 0.3, 1.0, 1.0])


def test_kl_is_the_forward_direction() -> None:
    half, tilted = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    forward = function("kl")(teacher_logprobs=half[None], student_logprobs=tilted[None])
    reverse = function("reverse_kl")(teacher_logprobs=half[None], student_logprobs=tilted[None])
    assert float(forward) == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1), rel=1e-6)
    assert float(reverse) == pytest.approx(0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5), rel=1e-6)


def test_ce_ratio_of_a_certain_teacher_is_bounded_by_eps() -> None:
    given = {"student_ce": torch.tensor([2.0, 2.0, 0.0]), "teacher_ce": torch.tensor([0.0, 4.0, 0.0])}
    assert function("ce_ratio")(**given).tolist() == pytest.approx([2e6, 0.5, 0.0])
    assert function("ce_ratio")(**given, eps=1e-3).tolist() == pytest.approx([2e3, 0.5, 0.0])
    assert SIGNALS["ce_ratio"].options == {"eps": Option(type=float, default=1e-6)}


def test_random_is_the_noise_it_is_given() -> None:
    noise = torch.rand(5)
    assert torch.equal(function("random")(noise=noise), noise)


@pytest.mark.parametrize("name", BATCH_NAMES)
def test_batch_signals_do_not_see_padding(name: str) -> None:
    draws = np.random.RandomState(3)
    scores = torch.from_numpy(draws.standard_normal((3, 5))).abs()
    valid = torch.from_numpy(draws.random_sample((3, 5)) < 0.7)
    inputs = [key for key in SIGNALS[name].inputs if key != "valid"]
    short = function(name)(**dict.fromkeys(inputs, scores), valid=valid)
    wide = torch.cat([scores, torch.full((3, 4), 99.0)], dim=1)
    longer = function(name)(
        **dict.fromkeys(inputs, wide), valid=torch.cat([valid, torch.zeros((3, 4), dtype=torch.bool)], dim=1)
    )
    assert torch.equal(longer[:, :5][valid], short[valid])


def test_scores_are_laid_out_on_their_positions() -> None:
    valid = torch.tensor([[True, False, True], [False, True, True]])
    scores = {"kl": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    laid = score_batch(("kl",), function, scores, valid, torch.tensor([0, 2, 4, 5]))
    assert laid["kl"].tolist() == [[1.0, 0.0, 2.0], [0.0, 3.0, 4.0]]


def test_no_rows_give_no_scores() -> None:
    rows = Rows(student=torch.zeros((0, VOCAB)), teacher=None, targets=torch.zeros(0, dtype=torch.long))
    scores = score_rows(("student_ce",), function, rows, Head(weight=torch.eye(VOCAB)), None, chunk=3)
    assert scores["student_ce"].shape == (0,)
