"""Ways of computing the same step: activations computed anew, kernels compiled."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Pair
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.config.expand import presets
from harness.data.tokens import Batch
from harness.distill.step import Core, accumulate
from harness.models import compute_activations_anew
from harness.models.operations import Shape, count_trunk_flops
from harness.trial.flops import Shapes, Work, price
from harness.trial.meter import LiveBytes


def gradients(core: Core, batch: Batch) -> dict[str, Tensor]:
    core.student.zero_grad(set_to_none=True)
    accumulate(core, [batch], None, step=0, num_steps=1)
    return {name: each.grad for name, each in core.student.named_parameters() if each.grad is not None}


@pytest.fixture
def pair(make_pair: Callable[..., Pair]) -> Pair:
    made = make_pair(torch.float32)
    made.student.set_attn_implementation("eager")
    return Pair(student=copy.deepcopy(made.student), teacher=made.teacher)


def test_activations_computed_anew_give_the_same_gradients_in_less_memory(
    pair: Pair, make_batch: Callable[..., Batch], make_core: Any
) -> None:
    batch, core = make_batch(8, 64), make_core(presets()["se_kd"], pair)
    core.student.train()
    with LiveBytes() as kept:
        wanted = gradients(core, batch)
    compute_activations_anew(core.student)
    with LiveBytes() as anew:
        found = gradients(core, batch)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert anew.peak < 0.8 * kept.peak


def test_a_trunk_run_anew_is_charged(pair: Pair, make_batch: Callable[..., Batch], make_core: Any) -> None:
    batch, core = make_batch(6, 13), make_core(presets()["sft"], pair, with_teacher=False)
    core.student.train()
    compute_activations_anew(core.student)
    with FlopCounterMode(display=False) as counter:
        tally = accumulate(core, [batch], None, step=0, num_steps=1).tally
    student = Shape(trunk_flops=count_trunk_flops(pair.student, 13), hidden_size=16)
    counted = price(Work(tally=tally), Shapes(student=student, vocab_size=97, recomputed=True))
    # The counter knows addmm, but not the in-place form that adds up the head's gradient.
    unseen = 2 * 97 * 16 * tally.student_trained
    # The last product of a layer is not needed again, and torch stops before it.
    last = 2 * (6 * 13) * 32 * 16 * pair.student.config.num_hidden_layers
    assert counter.get_total_flops() == sum(counted.values()) - unseen - last


COMPARE = """
from functools import partial

import torch
from harness.distill.loss import Compared, add_gradients, add_product, compiled_losses
from harness.distill.compare import row_losses
from harness.distill.objective import compile_strategy
from harness.distill.score import Rows
from harness.config.expand import presets
from harness.models import Head

objective, generator = compile_strategy(presets()["rs_kd"]), torch.Generator().manual_seed(0)
hidden, *heads = (torch.randn(shape, generator=generator) for shape in ((40, 8), (97, 8), (97, 8)))
rows = Rows(student=hidden, teacher=hidden, targets=torch.arange(40), keys=torch.arange(40),
            coefficient=torch.ones(40))
found = []
for losses in (row_losses, compiled_losses()):
    grads = torch.zeros_like(hidden), torch.zeros_like(heads[0])
    student, teacher = (Head(weight=head) for head in heads)
    compared = Compared(objective=objective, rows=rows, student_head=student, teacher_head=teacher, chunk=64,
                        losses=losses)
    add_gradients(compared, grad_hidden=grads[0], add_to_head=partial(add_product, grads[1]))
    found.append(grads)
for plain, compiled in zip(*found):
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)
    assert not torch.equal(compiled, torch.zeros_like(compiled))
print("compiled:", len(torch._dynamo.utils.compile_times(repr="csv")[0]) > 0)
"""


@pytest.mark.slow
def test_compiled_kernels_give_the_same_gradients() -> None:
    # In a process of its own: the shape checks of this one cannot be compiled.
    done = subprocess.run([sys.executable, "-c", COMPARE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "compiled: True"
