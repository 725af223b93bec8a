"""Contract of every criterion: non-negative, exactly zero for equals, gradients as float64 autograd has them."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.grid import presets
from strategies.base import log_probs
from strategies.criteria._gold_split import gold_split
from strategies.registry import CRITERIA

NAMES = list(CRITERIA)
DIVERGENCES = ["forward_kl", "reverse_kl", "at_kd"]
OPTIONS: dict[str, dict[str, Any]] = {
    preset.criterion.name: dict(preset.criterion.options) for preset in presets().values() if preset.criterion
}
NUM, VOCAB = 12, 9


def rows(seed: int = 0, *, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return student logits, teacher logits and targets."""
    draws = np.random.RandomState(seed)
    student, teacher = (torch.from_numpy(scale * draws.standard_normal((NUM, VOCAB))).to(dtype) for _ in range(2))
    return student, teacher, torch.from_numpy(draws.randint(0, VOCAB, NUM))


def compare(name: str, student: Tensor, teacher: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """Apply a criterion to logits."""
    num = len(student)
    given = {
        "student_logprobs": log_probs(student),
        "teacher_logprobs": log_probs(teacher),
        "targets": targets,
        "teacher_uncertainty_rank": torch.arange(num) / num,
    }
    component = CRITERIA[name]
    chosen = {**OPTIONS.get(name, {}), **options}
    missing = [option for option, required in component.options.items() if required and option not in chosen]
    assert not missing, f"no preset sets {missing} of {name}: add them to OPTIONS"
    return component.build(**{key: given[key] for key in component.inputs}, **chosen)


def test_every_criterion_but_cross_entropy_is_held_to_the_contract() -> None:
    assert set(NAMES) == {*DIVERGENCES, "cross_entropy"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_one_non_negative_number_per_row_in_float32_at_least(name: str, dtype: torch.dtype) -> None:
    losses = compare(name, *rows(dtype=dtype))
    assert losses.shape == (NUM,)
    assert losses.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert bool((losses >= 0).all())
    assert bool((losses > 0).any())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num", [0, 1])
def test_few_rows_are_rows_too(name: str, num: int) -> None:
    student, teacher, targets = rows()
    assert compare(name, student[:num], teacher[:num], targets[:num]).shape == (num,)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_equal_rows_cost_exactly_nothing(name: str, dtype: torch.dtype, scale: float) -> None:
    student, _, targets = rows(scale=scale, dtype=dtype)
    student.requires_grad_()
    losses = compare(name, student, student.detach().clone(), targets)
    assert not losses.detach().any()
    (grad,) = torch.autograd.grad(losses.sum(), student)
    assert float(grad.abs().max()) <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_each_other(name: str) -> None:
    student, teacher, targets = rows()
    given = {
        "student_logprobs": log_probs(student),
        "teacher_logprobs": log_probs(teacher),
        "targets": targets,
        "teacher_uncertainty_rank": torch.arange(NUM) / NUM,
    }
    component, options = CRITERIA[name], OPTIONS.get(name, {})
    whole = component.build(**{key: given[key] for key in component.inputs}, **options)
    single = [
        component.build(**{key: given[key][i : i + 1] for key in component.inputs}, **options) for i in range(NUM)
    ]
    torch.testing.assert_close(torch.cat(single), whole, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_vocabulary_does_not_matter(name: str) -> None:
    student, teacher, targets = rows()
    order = torch.from_numpy(np.random.RandomState(0).permutation(VOCAB))
    found = compare(name, student[:, order], teacher[:, order], order.argsort()[targets])
    torch.testing.assert_close(found, compare(name, student, teacher, targets), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_pass_gradcheck(name: str) -> None:
    student, teacher, targets = rows()
    assert torch.autograd.gradcheck(lambda z: compare(name, z, teacher, targets), student.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_extreme_logits_stay_finite_in_value_and_gradient(name: str, dtype: torch.dtype, scale: float) -> None:
    student, teacher, targets = rows(scale=scale, dtype=dtype)
    student.requires_grad_()
    losses = compare(name, student, teacher, targets)
    (grad,) = torch.autograd.grad(losses.sum(), student)
    assert bool(losses.isfinite().all())
    assert bool(grad.isfinite().all())


# ---- each criterion's own identity


def reference(name: str, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    p, q = F.softmax(teacher, dim=-1), F.softmax(student, dim=-1)
    if name == "forward_kl":
        return (p * (p / q).log()).sum(-1)
    if name == "reverse_kl":
        return (q * (q / p).log()).sum(-1)
    if name == "cross_entropy":
        return F.cross_entropy(student, targets, reduction="none")
    return at_kd_reference(p, q, targets, **OPTIONS["at_kd"])


def at_kd_reference(p: Tensor, q: Tensor, targets: Tensor, *, hard_fraction: float, easy_weight: float) -> Tensor:
    """AT-KD from probabilities; the last rows are the hard ones, as `compare` ranks them."""
    losses = []
    for i, y in enumerate(targets.tolist()):
        others = [v for v in range(p.shape[1]) if v != y]
        p_rest, q_rest = p[i, others].sum(), q[i, others].sum()
        tckd = p[i, y] * (p[i, y] / q[i, y]).log() + p_rest * (p_rest / q_rest).log()
        p_others, q_others = p[i, others] / p_rest, q[i, others] / q_rest
        nckd = (p_others * (p_others / q_others).log()).sum()
        hard = i / len(p) >= 1 - hard_fraction
        losses.append((1 - easy_weight) * (tckd + nckd) if hard else easy_weight * nckd)
    return torch.stack(losses)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_the_direct_formula(name: str, seed: int) -> None:
    student, teacher, targets = rows(seed)
    student.requires_grad_()
    coefficient = torch.linspace(0.5, 2, NUM, dtype=torch.float64)
    found, wanted = compare(name, student, teacher, targets), reference(name, student, teacher, targets)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-14)
    ours, theirs = (torch.autograd.grad((each * coefficient).sum(), student)[0] for each in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


def test_forward_kl_has_the_gradient_q_minus_p() -> None:
    student, teacher, targets = rows()
    student.requires_grad_()
    (grad,) = torch.autograd.grad(compare("forward_kl", student, teacher, targets).sum(), student)
    torch.testing.assert_close(grad, student.detach().softmax(-1) - teacher.softmax(-1), rtol=1e-10, atol=1e-14)


def test_the_directions_differ() -> None:
    parts = rows()
    forward, reverse = compare("forward_kl", *parts), compare("reverse_kl", *parts)
    swapped = compare("forward_kl", parts[1], parts[0], parts[2])
    torch.testing.assert_close(reverse, swapped, rtol=1e-12, atol=1e-15)
    assert not torch.allclose(forward, reverse, rtol=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_forward_kl_splits_at_the_gold_token(seed: int) -> None:
    student, teacher, targets = rows(seed)
    parts = gold_split(log_probs(teacher), log_probs(student), targets)
    withheld = 1 - teacher.softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    whole = compare("forward_kl", student, teacher, targets)
    torch.testing.assert_close(parts.tckd + withheld * parts.nckd, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("hard_fraction", "num_hard"), [(0.0, 0), (0.25, 3), (0.5, 6), (1.0, 12)])
def test_at_kd_counts_its_hard_rows(hard_fraction: float, num_hard: int) -> None:
    student, teacher, targets = rows()
    found = compare("at_kd", student, teacher, targets, hard_fraction=hard_fraction, easy_weight=0.0)
    assert int((found > 0).sum()) == num_hard


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [30.0, 200.0, 1e4])
@pytest.mark.parametrize("side", ["teacher", "student", "both"])
def test_at_kd_of_a_certain_model_is_finite_and_right(dtype: torch.dtype, gap: float, side: str) -> None:
    student, teacher, targets = rows(dtype=dtype)
    certain = torch.zeros_like(student).scatter(-1, targets[:, None], gap)
    teacher = teacher + certain if side != "student" else teacher
    student = student + certain if side != "teacher" else student
    student.requires_grad_()
    losses = compare("at_kd", student, teacher, targets)
    (grad,) = torch.autograd.grad(losses.sum(), student)
    assert bool(losses.isfinite().all())
    assert bool(grad.isfinite().all())
    if gap >= 200 and dtype == torch.float32 and side != "student":
        probability = teacher.softmax(-1).gather(-1, targets[:, None])
        assert bool((probability == 1).all()), "p(y) must round to 1, or the test tests nothing"
    # NCKD compares the classes beside the target, where certainty plays no part.
    plain_student, plain_teacher, _ = rows(dtype=torch.float64)
    parts = gold_split(log_probs(plain_teacher), log_probs(plain_student), targets)
    found = gold_split(log_probs(teacher), log_probs(student.detach()), targets)
    # Logits near `gap` carry an absolute rounding error of gap * eps into the other classes.
    torch.testing.assert_close(found.nckd.double(), parts.nckd, rtol=1e-5, atol=50 * gap * torch.finfo(dtype).eps)


def test_teachers_rows_get_no_say_in_the_gradient() -> None:
    student, teacher, targets = rows()
    student.requires_grad_()
    for name in NAMES:
        (grad,) = torch.autograd.grad(compare(name, student, teacher, targets).sum(), student)
        # A gradient through a softmax sums to zero over the vocabulary.
        assert float(grad.sum(-1).abs().max()) < 1e-12
