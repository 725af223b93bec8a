"""Contract of every criterion: non-negative, exactly zero for equals, gradients as float64 autograd has them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from oracle import OPTIONS, reference
from torch import Tensor

from strategies.base import log_probs
from strategies.criteria._gold_split import gold_split
from strategies.registry import CRITERIA

NAMES = list(CRITERIA)
# At equal rows these are no zero: one has no teacher, the other is a preference between two tokens that are then one.
DIVERGENCES = sorted(set(NAMES) - {"cross_entropy", "dpkd"})
# Weights that no gradient passes through: the gradient is not that of the value.
STOPPED = ["akl", "csd", "todi"]
BOUNDED = {"jsd": math.log(2), "skewed_forward_kl": -math.log(0.1), "skewed_reverse_kl": -math.log(0.1)}
BOUNDED |= {"tvd": 1.0, "squared_hellinger": 1.0}
# Every criterion with the options of its preset, and again with others that take another path.
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    *(("jsd", {"beta": beta}) for beta in (0.0, 0.1, 0.9, 1.0)),
    ("skewed_forward_kl", {"alpha": 0.7}),
    ("skewed_reverse_kl", {"alpha": 0.7}),
    ("dkd", {"alpha": 0.3, "beta": 0.0}),
    ("akl", {"head": 0.05}),
    ("akl", {"head": 1.0}),
    ("eopd", {"threshold": 0.0}),
    ("ab_divergence", {"alpha": 0.5, "beta": 0.5}),
    ("ab_divergence", {"alpha": 1.5, "beta": 0.3}),
    ("amid", {"alpha": -1.0, "divergence": "forward_kl"}),
    ("amid", {"alpha": 0.5, "share": 0.1, "divergence": "forward_kl"}),
    ("amid", {"alpha": -3.0, "share": 0.9}),
    *(("local_reverse_kl", {"support": each, "num": 3}) for each in ("teacher", "student", "intersection", "union")),
    ("local_reverse_kl", {"support": "intersection", "num": 1}),
    ("csd", {"first": "teacher"}),
    ("csd", {"first": "uniform"}),
    ("csd", {"first": "teacher", "second": "teacher"}),
    ("csd", {"first": "uniform", "second": "uniform"}),
]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)
every_divergence = pytest.mark.parametrize(
    ("name", "options"), [case for case in CASES if case[0] in DIVERGENCES], ids=str
)
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


@every_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_equal_rows_cost_exactly_nothing(name: str, options: dict[str, Any], dtype: torch.dtype, scale: float) -> None:
    student, _, targets = rows(scale=scale, dtype=dtype)
    student.requires_grad_()
    losses = compare(name, student, student.detach().clone(), targets, **options)
    assert not losses.detach().any()
    (grad,) = torch.autograd.grad(losses.sum(), student)
    # DKD weighs by 8 what is left of log-probabilities as large as the logits when the target is taken out of them.
    rounding = 8 * scale if name == "dkd" else 1.0
    assert float(grad.abs().max()) <= 8 * rounding * torch.finfo(dtype).eps


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


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(STOPPED)))
def test_gradients_pass_gradcheck(name: str) -> None:
    student, teacher, targets = rows()
    assert torch.autograd.gradcheck(lambda z: compare(name, z, teacher, targets), student.requires_grad_())


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_extreme_logits_stay_finite_in_value_and_gradient(
    name: str, options: dict[str, Any], dtype: torch.dtype, scale: float
) -> None:
    student, teacher, targets = rows(scale=scale, dtype=dtype)
    student.requires_grad_()
    losses = compare(name, student, teacher, targets, **options)
    (grad,) = torch.autograd.grad(losses.sum(), student)
    assert bool(losses.isfinite().all())
    assert bool(grad.isfinite().all())


@every_case
def test_classes_masked_to_minus_infinity_count_for_nothing(name: str, options: dict[str, Any]) -> None:
    student, teacher, targets = rows()
    student.requires_grad_()
    masked = torch.full((NUM, 2), -torch.inf, dtype=torch.float64)
    found = compare(name, torch.cat([student, masked], -1), torch.cat([teacher, masked], -1), targets, **options)
    wanted = compare(name, student, teacher, targets, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    ours, theirs = (torch.autograd.grad(each.sum(), student)[0] for each in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", sorted(BOUNDED))
def test_a_bounded_divergence_stays_within_its_bound_where_the_models_agree_on_nothing(name: str) -> None:
    apart = torch.tensor([[0.0, -torch.inf], [0.0, -1e5], [0.0, -200.0]], dtype=torch.float32)
    student = apart.clone().requires_grad_()
    losses = compare(name, student, apart.flip(-1), torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(losses.detach(), torch.full((3,), BOUNDED[name]), rtol=1e-6, atol=0)
    (grad,) = torch.autograd.grad(losses.sum(), student)
    assert bool(grad.isfinite().all())


# ---- each criterion's own identity: the same numbers class by class, from probabilities


@every_case
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_the_direct_formula(name: str, options: dict[str, Any], seed: int) -> None:
    student, teacher, targets = rows(seed)
    student.requires_grad_()
    coefficient = torch.linspace(0.5, 2, NUM, dtype=torch.float64)
    found = compare(name, student, teacher, targets, **options)
    wanted = reference(name, student, teacher, targets, {**OPTIONS.get(name, {}), **options})
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)
    ours, theirs = (torch.autograd.grad((each * coefficient).sum(), student)[0] for each in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", sorted(set(DIVERGENCES) - {"at_kd"}))
def test_a_step_down_the_gradient_brings_the_student_closer(name: str) -> None:
    # Also where weights are constants in the gradient, which is then not that of the value.
    student, teacher, targets = rows()
    student.requires_grad_()
    loss = compare(name, student, teacher, targets)
    (grad,) = torch.autograd.grad(loss.sum(), student)
    moved = compare(name, student.detach() - 1e-3 * grad, teacher, targets)
    assert float(moved.sum()) < float(loss.sum().detach())


def test_the_alpha_beta_divergence_goes_through_the_ones_it_names() -> None:
    parts = rows()
    hellinger = compare("squared_hellinger", *parts)
    torch.testing.assert_close(compare("ab_divergence", *parts, alpha=0.5, beta=0.5), 4 * hellinger)
    for name, alpha, beta in (("forward_kl", 1 - 1e-7, 1e-7), ("reverse_kl", 1e-7, 1 - 1e-7)):
        limit = compare("ab_divergence", *parts, alpha=alpha, beta=beta)
        torch.testing.assert_close(limit, compare(name, *parts), rtol=1e-5, atol=1e-7)


def test_amids_plain_mixture_is_distillms() -> None:
    parts = rows()
    found = compare("amid", *parts, alpha=-1.0, share=0.3, divergence="forward_kl")
    torch.testing.assert_close(found, compare("skewed_forward_kl", *parts, alpha=0.3), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("support", ["teacher", "student", "intersection", "union"])
def test_a_support_of_every_class_is_the_reverse_kl(support: str) -> None:
    parts = rows()
    found = compare("local_reverse_kl", *parts, support=support, num=100)
    torch.testing.assert_close(found, compare("reverse_kl", *parts), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ab_divergence", {"alpha": 0.0}),
        ("amid", {"alpha": 1.0}),
        ("amid", {"share": 1.0}),
        ("amid", {"divergence": "tvd"}),
        ("local_reverse_kl", {"support": "nobody"}),
        ("local_reverse_kl", {"num": 0}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}.* {next(iter(options.values()))!r:.1}"):
        compare(name, *rows(), **options)


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


# ---- relations between criteria


def gradient(name: str, parts: tuple[Tensor, Tensor, Tensor], **options: Any) -> Tensor:
    student = parts[0].clone().requires_grad_()
    return torch.autograd.grad(compare(name, student, *parts[1:], **options).sum(), student)[0]


@pytest.mark.parametrize("seed", range(3))
def test_dkd_with_the_teachers_own_weight_is_the_forward_kl(seed: int) -> None:
    student, teacher, targets = rows(seed)
    withheld = 1 - teacher.softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    target_part = compare("dkd", student, teacher, targets, alpha=1.0, beta=0.0)
    others_part = compare("dkd", student, teacher, targets, alpha=0.0, beta=1.0)
    whole = compare("forward_kl", student, teacher, targets)
    torch.testing.assert_close(target_part + withheld * others_part, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("beta", "limit"), [(1e-6, "forward_kl"), (1 - 1e-6, "reverse_kl")])
def test_jsd_turns_into_the_kl_of_its_ends_but_for_its_scale(beta: float, limit: str) -> None:
    parts = rows(scale=1.0)
    scale = min(beta, 1 - beta)
    found, wanted = compare("jsd", *parts, beta=beta) / scale, compare(limit, *parts)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient("jsd", parts, beta=beta) / scale, gradient(limit, parts), rtol=1e-3, atol=1e-5)
    ends = gradient("jsd", parts, beta=float(round(beta)))
    assert torch.equal(ends, gradient(limit, parts))


def test_jsd_is_symmetric_with_the_shares_exchanged() -> None:
    student, teacher, targets = rows()
    swapped = compare("jsd", teacher, student, targets, beta=0.7)
    torch.testing.assert_close(compare("jsd", student, teacher, targets, beta=0.3), swapped, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_skewed_kl_goes_to_the_kl_and_never_exceeds_its_share_of_it(direction: str) -> None:
    parts = rows()
    whole = compare(f"{direction}_kl", *parts)
    for alpha in (0.1, 0.5, 0.9):
        # KL is convex in its second argument.
        assert bool((compare(f"skewed_{direction}_kl", *parts, alpha=alpha) <= (1 - alpha) * whole).all())
    near = compare(f"skewed_{direction}_kl", *parts, alpha=1e-7)
    torch.testing.assert_close(near, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["jsd", "skewed_forward_kl", "skewed_reverse_kl"])
def test_mixtures_keep_their_digits_in_float32(name: str) -> None:
    student, teacher, targets = rows(scale=30.0)
    student = teacher + 1e-3 * student
    found = compare(name, student.float(), teacher.float(), targets).double()
    torch.testing.assert_close(found, compare(name, student, teacher, targets), rtol=0.02, atol=1e-7)


def test_todi_has_jeffreys_value_but_not_its_gradient() -> None:
    parts = rows()
    torch.testing.assert_close(compare("todi", *parts), 2 * compare("symmetric_kl", *parts), rtol=1e-11, atol=1e-14)
    assert not torch.allclose(gradient("todi", parts), 2 * gradient("symmetric_kl", parts), rtol=0.1)


def test_eopd_adds_the_forward_kl_where_the_teacher_is_undecided_only() -> None:
    parts = rows()
    entropy = torch.distributions.Categorical(logits=parts[1]).entropy()
    threshold = float(entropy.sort().values[NUM // 2 - 1 : NUM // 2 + 1].mean())
    extra = compare("eopd", *parts, threshold=threshold) - compare("reverse_kl", *parts)
    undecided = entropy > threshold
    assert 0 < int(undecided.sum()) < NUM
    torch.testing.assert_close(extra[undecided], compare("forward_kl", *parts)[undecided], rtol=1e-12, atol=1e-14)
    assert not extra[~undecided].any()


def test_akl_lies_between_the_directions_and_a_head_of_everything_is_the_forward_kl() -> None:
    parts = rows()
    forward, reverse = compare("forward_kl", *parts), compare("reverse_kl", *parts)
    found = compare("akl", *parts)
    assert bool((found >= torch.minimum(forward, reverse)).all())
    assert bool((found <= torch.maximum(forward, reverse)).all())
    assert torch.equal(compare("akl", *parts, head=1.0), forward)


def test_akls_head_holds_all_classes_as_likely_as_its_last() -> None:
    teacher = torch.tensor([[0.3, 0.3, 0.2, 0.1, 0.1]], dtype=torch.float64).log()
    student = torch.tensor([[0.1, 0.4, 0.2, 0.2, 0.1]], dtype=torch.float64).log()
    wanted = (0.2 + 0.1) / (0.2 + 0.1 + 0.1)
    forward, reverse = (
        float(compare(f"{name}_kl", student, teacher, torch.zeros(1).long())) for name in ("forward", "reverse")
    )
    for head in (0.1, 0.3, 0.5, 0.7):
        found = float(compare("akl", student, teacher, torch.zeros(1).long(), head=head))
        assert found == pytest.approx(wanted * forward + (1 - wanted) * reverse, rel=1e-12)


@pytest.mark.parametrize("weights", ["teacher", "student", "uniform"])
def test_csd_ignores_a_constant_added_to_the_logits_and_sees_every_other_difference(weights: str) -> None:
    student, teacher, targets = rows()
    moved = compare("csd", student + 3.0, teacher - 5.0, targets, first=weights, second="student")
    torch.testing.assert_close(
        moved, compare("csd", student, teacher, targets, first=weights, second="student"), rtol=1e-10, atol=0
    )
    assert float(compare("csd", teacher + 3.0, teacher, targets, first=weights, second="student").max()) < 1e-25


@pytest.mark.parametrize("first", ["student", "teacher", "uniform"])
def test_csd_is_the_authors_expression(first: str) -> None:
    student, teacher, targets = rows()
    p, q, d = teacher.softmax(-1), student.softmax(-1), student - teacher
    w = {"teacher": p, "student": q, "uniform": torch.full_like(p, 1 / VOCAB)}[first]
    wanted = ((w * d * d).sum(-1) + (q * d * d).sum(-1)) / 2 - (w * d).sum(-1) * (q * d).sum(-1)
    torch.testing.assert_close(compare("csd", student, teacher, targets, first=first, second="student"), wanted)


def test_dpkd_prefers_the_teachers_token() -> None:
    teacher, student = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]], requires_grad=True)
    loss = compare("dpkd", student, teacher, torch.tensor([0]))
    assert float(loss.detach()) == pytest.approx(math.log1p(math.exp(-0.1 * (-3.0 - 2.0))))
    (grad,) = torch.autograd.grad(loss.sum(), student)
    assert float(grad[0, 0]) < 0 < float(grad[0, 1])
    agreed = compare("dpkd", torch.tensor([[1.0, 0.0, 0.0]]), teacher, torch.tensor([0]))
    assert float(agreed) == pytest.approx(math.log(2))


def test_csd_under_the_teachers_weights_is_twice_the_kl_of_near_rows() -> None:
    student, teacher, targets = rows(scale=1.0)
    near = teacher + 1e-4 * student
    found = compare("csd", near, teacher, targets, first="teacher", second="teacher")
    torch.testing.assert_close(found, 2 * compare("forward_kl", near, teacher, targets), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["jsd", "skewed_forward_kl", "skewed_reverse_kl", "tvd", "squared_hellinger", "todi"])
def test_merging_classes_never_adds_to_an_f_divergence(name: str) -> None:
    student, teacher, targets = rows()
    merged = [
        torch.cat([logits[:, :4], logits[:, 4:].logsumexp(-1, keepdim=True)], -1) for logits in (student, teacher)
    ]
    assert bool((compare(name, *merged, targets) <= compare(name, student, teacher, targets) + 1e-15).all())


WRONG = [
    ("jsd", {"beta": 1.5}, "beta of jsd"),
    ("jsd", {"beta": -0.1}, "beta of jsd"),
    ("skewed_forward_kl", {"alpha": 0.0}, r"must be in \(0, 1\), it is 0"),
    ("skewed_reverse_kl", {"alpha": 1.0}, r"must be in \(0, 1\), it is 1"),
    ("akl", {"head": 0.0}, r"must be in \(0, 1\], it is 0"),
    ("csd", {"first": "both", "second": "student"}, "teacher, student or uniform, not 'both'"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_an_option_out_of_range_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(name, *rows(), **options)
