"""What a chunk of logits and everything computed from it occupies, against the budget it is made for."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from conftest import VOCAB, Pair, small_model
from oracle import OPTIONS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from harness.config import Choice, Strategy
from harness.config.expand import presets
from harness.config.strategy import read_strategy
from harness.data.tokens import Batch
from harness.distill.loss import Compared, HeadGradient, add_gradients, add_product, dense_loss
from harness.distill.objective import compile_strategy
from harness.distill.score import Rows, score_rows
from harness.distill.step import Core, accumulate
from harness.models import Head
from harness.models.devices import PIECES, chunk_rows
from harness.trial.meter import LiveBytes
from strategies.registry import CRITERIA, SIGNALS, order_signals

VOCABULARY, HIDDEN, BUDGET_MIB = 8192, 4, 8
ROW_SIGNALS = [name for name in SIGNALS if SIGNALS[name].traits["scope"] == "row"]


def make_rows(num: int, dtype: torch.dtype, **more: Any) -> tuple[Rows, Head, Head]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    rows = Rows(
        student=draw(num, HIDDEN),
        teacher=draw(num, HIDDEN),
        targets=torch.randint(VOCABULARY, (num,), generator=generator),
        noise=torch.rand(num, generator=generator),
        keys=torch.arange(num),
        **more,
    )
    return rows, Head(weight=draw(VOCABULARY, HIDDEN)), Head(weight=draw(VOCABULARY, HIDDEN))


def live_mib(strategy: Strategy, dtype: torch.dtype) -> float:
    chunk = chunk_rows(VOCABULARY, BUDGET_MIB, itemsize=dtype.itemsize)
    rows, student, teacher = make_rows(2 * chunk + 3, dtype, temperature=1.0 + torch.rand(2 * chunk + 3))
    objective = compile_strategy(strategy)
    signals = {name: torch.rand(len(rows)) for name in objective.criterion_signals}
    rows = replace(rows, signals=signals, coefficient=torch.ones(len(rows)))
    buffers = torch.zeros_like(rows.student), torch.zeros_like(student.weight)
    with LiveBytes() as live:
        compared = Compared(objective=objective, rows=rows, student_head=student, teacher_head=teacher, chunk=chunk)
        add_gradients(compared, grad_hidden=buffers[0], add_to_head=partial(add_product, buffers[1]))
    assert bool(buffers[1].any())
    assert chunk > 16, "the budget must not be met by a chunk of one row"
    return live.peak / 2**20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(CRITERIA))
def test_a_chunk_of_any_criterion_keeps_to_its_budget(name: str, dtype: torch.dtype) -> None:
    changes = {"criterion": Choice(name=name, options=OPTIONS.get(name, {})).model_dump(), "kd_weight": 0.5}
    strategy = read_strategy({**presets()["full_kd"].model_dump(), **changes})
    assert live_mib(strategy, dtype) <= BUDGET_MIB


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_chunk_in_which_every_row_has_its_temperature_keeps_to_its_budget(dtype: torch.dtype) -> None:
    strategy = read_strategy({**presets()["egad"].model_dump(), "feature": None, "kd_weight": 0.5})
    assert live_mib(strategy, dtype) <= BUDGET_MIB


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_chunk_of_reduced_rows_keeps_to_its_budget(dtype: torch.dtype) -> None:
    assert live_mib(presets()["rs_kd"], dtype) <= BUDGET_MIB


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ROW_SIGNALS)
def test_a_chunk_of_any_signal_keeps_to_its_budget(name: str, dtype: torch.dtype) -> None:
    chunk = chunk_rows(VOCABULARY, BUDGET_MIB, itemsize=dtype.itemsize)
    rows, student, teacher = make_rows(2 * chunk + 3, dtype)
    with LiveBytes() as live:
        score_rows(order_signals([name]), lambda each: SIGNALS[each].build, rows, student, teacher, chunk=chunk)
    assert live.peak / 2**20 <= BUDGET_MIB


class LargestRows(TorchDispatchMode):
    """Record the most numbers that any operation returns in a dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.numel: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.numel[leaf.dtype] = max(self.numel[leaf.dtype], leaf.numel())
        return out


def test_what_is_wider_than_the_model_exists_for_a_piece_only() -> None:
    chunk, objective = 64, compile_strategy(presets()["full_kd"])
    rows, student, teacher = make_rows(3 * chunk, torch.bfloat16, coefficient=torch.ones(3 * chunk))
    compared = Compared(objective=objective, rows=rows, student_head=student, teacher_head=teacher, chunk=chunk)
    with LargestRows() as largest:
        add_gradients(compared, grad_hidden=torch.zeros_like(rows.student), add_to_head=None)
    assert largest.numel[torch.bfloat16] == chunk * VOCABULARY
    assert largest.numel[torch.float32] == chunk // PIECES * VOCABULARY


# ---- the head's gradient


def trained_model(dtype: torch.dtype) -> PreTrainedModel:
    return small_model(16, seed=0, dtype=dtype)


def test_the_heads_gradient_is_added_up_in_its_parameters_own() -> None:
    model = trained_model(torch.bfloat16)
    parameter = model.get_output_embeddings().weight
    factors = torch.ones(2, VOCAB, dtype=torch.bfloat16), torch.ones(2, parameter.shape[1], dtype=torch.bfloat16)
    several = HeadGradient(model, VOCAB, single=False)
    for _ in range(3):
        several.add(*factors)
    assert not bool(parameter.grad.any()), "until it is narrowed, the sum is wide"
    several.narrow()
    several.finish()
    assert bool((parameter.grad[:VOCAB] == 6).all())
    one = HeadGradient(model, VOCAB, single=True)
    one.add(*factors)
    one.narrow()
    assert bool((parameter.grad[:VOCAB] == 6).all()), "the product waits for the trunk"
    one.finish()
    assert bool((parameter.grad[:VOCAB] == 8).all())
    assert not bool(parameter.grad[VOCAB:].any())


def test_a_wide_gradient_needs_no_second_matrix() -> None:
    model = trained_model(torch.float32)
    parameter = model.get_output_embeddings().weight
    grad = HeadGradient(model, VOCAB, single=False)
    grad.add(torch.ones(2, VOCAB), torch.ones(2, parameter.shape[1]))
    assert bool((parameter.grad[:VOCAB] == 2).all())


def test_the_head_gradient_and_the_activations_do_not_exist_at_once(
    make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Callable[..., Core]
) -> None:
    """With one chunk of rows, the head's gradient first exists when the trunk has gone back."""
    seen: list[bool] = []
    pair = make_pair(torch.float32)
    core = make_core(presets()["se_kd"], pair, chunk=64)
    core.student.lm_head.weight = torch.nn.Parameter(core.student.lm_head.weight.detach().clone())  # untied
    first = core.student.model.layers[0].self_attn.q_proj.weight
    first.register_post_accumulate_grad_hook(lambda _: seen.append(core.student.lm_head.weight.grad is None))
    accumulate(core, [make_batch(2, 9)], None, step=0, num_steps=1)
    assert seen == [True]
    assert bool(core.student.lm_head.weight.grad.any())


@pytest.mark.parametrize("name", ["full_kd", "se_kd", "rs_kd"])
def test_a_second_micro_batch_needs_no_more_memory_than_the_first(
    name: str, make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Callable[..., Core]
) -> None:
    core, batch = make_core(presets()[name], make_pair(torch.float32), chunk=8), make_batch(4, 64)
    hidden = batch.valid.numel() * core.student.config.hidden_size * 4
    peaks = []
    for num in (1, 1, 2):  # the first one makes the gradients
        with LiveBytes() as live:
            accumulate(core, [batch] * num, None, step=0, num_steps=1)
        peaks.append(live.peak)
    assert peaks[2] - peaks[1] < hidden / 2, peaks


def test_a_head_of_no_rows_has_a_gradient_of_zeros_and_a_frozen_one_has_none() -> None:
    model = trained_model(torch.float32)
    weight = model.get_output_embeddings().weight
    HeadGradient(model, VOCAB, single=True).finish()
    assert not bool(weight.grad.any())
    weight.grad = None
    weight.requires_grad_(False)
    frozen = HeadGradient(model, VOCAB, single=False)
    assert not frozen.wanted
    frozen.finish()
    assert weight.grad is None


@pytest.mark.parametrize("name", ["full_kd", "at_kd", "sft"])
@pytest.mark.parametrize("num", [40, 600])
def test_bfloat16_gradients_are_no_worse_than_those_of_the_dense_flow(name: str, num: int) -> None:
    """The reference is float64 on the same rounded states and heads."""
    objective = compile_strategy(presets()[name])
    rows, student, teacher = make_rows(num, torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    signals = {each: torch.rand(num, generator=generator) for each in objective.criterion_signals}
    rows = replace(rows, signals=signals, coefficient=torch.rand(num, generator=generator) / num)

    def compared(rows: Rows, student: Head, teacher: Head) -> Compared:
        return Compared(objective=objective, rows=rows, student_head=student, teacher_head=teacher, chunk=64)

    def chunked(rows: Rows, student: Head, teacher: Head) -> tuple[Tensor, Tensor]:
        model = trained_model(student.weight.dtype)
        model.set_output_embeddings(torch.nn.Linear(HIDDEN, VOCABULARY, bias=False, dtype=student.weight.dtype))
        grad_hidden = torch.zeros_like(rows.student)
        grad_head = HeadGradient(model, VOCABULARY, single=num <= 64)
        add_gradients(compared(rows, student, teacher), grad_hidden=grad_hidden, add_to_head=grad_head.add)
        grad_head.narrow()
        grad_head.finish()
        return grad_hidden, model.get_output_embeddings().weight.grad

    def dense(rows: Rows, student: Head, teacher: Head) -> tuple[Tensor, Tensor]:
        hidden, weight = rows.student.requires_grad_(), student.weight.requires_grad_()
        loss = dense_loss(compared(rows, Head(weight=weight), teacher))
        hidden_grad, weight_grad = torch.autograd.grad(loss, (hidden, weight))
        return hidden_grad, weight_grad

    wide = replace(rows, student=rows.student.double(), teacher=rows.teacher.double())
    heads = Head(weight=student.weight.double()), Head(weight=teacher.weight.double())
    wanted = dense(wide, *heads)
    found, usual = chunked(rows, student, teacher), dense(rows, student, teacher)
    for ours, theirs, exact in zip(found, usual, wanted, strict=True):
        errors = [float((each.double() - exact).norm() / exact.norm()) for each in (ours, theirs)]
        assert 0 < errors[0] <= 1.001 * errors[1] < 0.02, errors
