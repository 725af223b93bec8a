"""A step never asks the device for a number: run on tensors that hold none, every question is an error."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import VOCAB, Pair
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from transformers import PreTrainedModel, Qwen3ForCausalLM

from harness.config import Strategy
from harness.config.expand import presets
from harness.config.strategy import read_strategy
from harness.data.tokens import Batch
from harness.distill.objective import compile_strategy
from harness.distill.step import Core, StepResult, accumulate
from harness.models import Head, head_of, trunk
from harness.teacher.interface import Teacher
from strategies.registry import POLICIES

TRAINED = {name: preset for name, preset in presets().items() if preset.train}
# Signals that are scaled by quantiles of the valid positions, whose number only the device knows.
QUANTILES = {"tip_soft_or", "tip_q3", "teachability"}
FULL_KD = presets()["full_kd"].model_dump()
for choice in (
    {"name": "idts", "base": 1.0, "strength": 0.5},
    {"name": "linear", "start": 2.0, "end": 1.0},
    {"name": "egad", "low": 1.0, "high": 2.0, "hot": "easy"},
):
    TRAINED[f"temperature {choice['name']}"] = read_strategy({**FULL_KD, "temperature": choice})
TRAINED["tilt"] = read_strategy({**FULL_KD, "position": {"signal": "teacher_entropy_rank", "policy": "tilt"}})
TRAINED["feature"] = read_strategy(
    {**FULL_KD, "feature": {"distance": "cosine", "weight": 1.0, "signal": "teacher_entropy_rank", "above": 0.5}}
)


def may_ask(preset: Strategy) -> bool:
    """Whether a policy or a signal declares that its outcome has to be read: an unknown number of rows, quantiles."""
    asked = QUANTILES & set(compile_strategy(preset).scored)
    return POLICIES[preset.position.policy.name].traits["keeps"] == "varies" or bool(asked)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """A student and a teacher that hold no numbers, made once for all tests."""

    mode: FakeTensorMode
    student: PreTrainedModel
    teacher: PreTrainedModel


@pytest.fixture(scope="module")
def shapes(make_pair: Callable[..., Pair]) -> Shapes:
    pair, mode = make_pair(torch.float32), FakeTensorMode()
    with mode:
        student, teacher = (Qwen3ForCausalLM(model.config).eval() for model in (pair.student, pair.teacher))
    return Shapes(mode=mode, student=student, teacher=teacher)


def step_without_numbers(preset: Strategy, shapes: Shapes, batch: Batch) -> StepResult:
    mode, student, teacher = shapes.mode, shapes.student, shapes.teacher
    student.zero_grad()
    # Counted out here, where there are numbers.
    fake = replace(batch, index=mode.from_tensor(batch.index)).mapped(mode.from_tensor)
    with mode:
        objective = compile_strategy(preset)
        core = Core(
            student=student,
            teacher=Teacher(hidden=teacher_states(teacher), head=head(teacher), online=True),
            objective=objective,
            vocab_size=VOCAB,
            chunk=40,
            seed=7,
            projection=torch.nn.ModuleList([torch.nn.Linear(16, 24, bias=False)]) if objective.feature else None,
        )
        # Where micro-batches wait for each other, there are two.
        batches = [fake, fake] if objective.batch_scope else [fake]
        return accumulate(core, batches, None, step=3, num_steps=10)


def teacher_states(model: PreTrainedModel) -> Callable[[Batch], torch.Tensor]:
    return lambda batch: trunk(model, batch.input_ids)


def head(model: PreTrainedModel) -> Head:
    return Head(weight=head_of(model, VOCAB).weight.detach())


@pytest.mark.parametrize("name", [name for name, preset in TRAINED.items() if not may_ask(preset)])
def test_a_step_waits_for_nothing(name: str, shapes: Shapes, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(6, 13)
    assert len(batch.places) == sum(batch.num_valid) == int(batch.valid.sum())
    result = step_without_numbers(TRAINED[name], shapes, batch)
    assert result.loss.shape == ()


@pytest.mark.parametrize("name", ["gls_ce", "pos_rs"])
def test_a_number_of_rows_that_only_the_device_knows_would_be_noticed(
    name: str, shapes: Shapes, make_batch: Callable[..., Batch]
) -> None:
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        step_without_numbers(TRAINED[name], shapes, make_batch(6, 13))
