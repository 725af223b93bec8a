"""A step never asks the device for a number, nor hands it one in a way that the host waits for.

The device is torch's `meta`: its tensors are of a device of their own and hold no numbers, so that every question is an
error, and nothing takes them for tensors that are being traced, as it would fake ones.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import VOCAB, Pair, build_pair, split_batch
from oracle import OPTIMISATION, may_ask, way
from sampling import cycled
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from harness.config import Strategy
from harness.config.expand import presets
from harness.config.strategy import read_strategy
from harness.data.tokens import Batch, sent
from harness.distill.objective import compile_strategy
from harness.distill.optimiser import make_optimiser
from harness.distill.shards import clip
from harness.distill.step import Core, StepResult, accumulate
from harness.distill.tally import Underway
from harness.models import Head, head_of, trunk, trunk_layers
from harness.teacher.interface import Teacher

TRAINED = {name: preset for name, preset in presets().items() if preset.train}
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
SILENT = [name for name, preset in TRAINED.items() if not may_ask(preset)]


def waits(error: BaseException) -> bool:
    """Whether it is what a tensor without numbers raises when it is asked for one."""
    return isinstance(error, RuntimeError | NotImplementedError) and "meta" in str(error)


class NoBlockingCopies(TorchDispatchMode):
    """Fails on a copy from the host to the device that the host waits for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[0] if func is torch.ops.aten._to_copy.default else args[1]
            blocking = not ((kwargs or {}).get("non_blocking") or (len(args) > 2 and args[2]))
            if source.device.type == "cpu" and source.dim() and result.device.type == "meta" and blocking:
                raise AssertionError(f"the host waits for the copy of {tuple(source.shape)}")
        return result


class NoQuestions(TorchDispatchMode):
    """Fails on what needs the values of tensors to go on: on a GPU its host would wait for them."""

    ASKING = (
        "_local_scalar_dense",
        "nonzero",
        "equal",
        "is_nonzero",
        "masked_select",
        "unique",
        "_unique2",
        "bincount",
        "repeat_interleave",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        masks = name in ("index", "index_put_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if name in self.ASKING or masks:
            raise AssertionError(f"the host waits for {func.name()}")
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, kw_only=True)
class Models:
    """A student and a teacher, and the device where they are."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    device: str

    def core(self, preset: Strategy) -> Core:
        objective = compile_strategy(preset)
        projection = torch.nn.Linear(16, 24, bias=False, dtype=self.student.dtype, device=self.device)
        teacher = Teacher(
            hidden=lambda batch: trunk(self.teacher, batch.input_ids),
            head=Head(weight=head_of(self.teacher, VOCAB).weight.detach()),
            online=True,
            layers=lambda batch, numbers: trunk_layers(self.teacher, batch.input_ids, numbers),
        )
        return Core(
            student=self.student,
            teacher=teacher,
            objective=objective,
            vocab_size=VOCAB,
            chunk=40,
            seed=7,
            projection=torch.nn.ModuleList([projection]) if objective.feature else None,
        )


@pytest.fixture(scope="module")
def shapes() -> Models:
    pair = build_pair(torch.float32)
    return Models(student=pair.student.to("meta"), teacher=pair.teacher.to("meta"), device="meta")


def step(models: Models, preset: Strategy, batch: Batch) -> StepResult:
    models.student.zero_grad()
    parts = [part.to(models.device) for part in split_batch(batch, [4, 2])]
    last_loss = torch.ones((), dtype=torch.float64, device=models.device)
    with NoBlockingCopies() if models.device == "meta" else nullcontext():
        return accumulate(models.core(preset), parts, None, step=3, num_steps=10, last_loss=last_loss)


@pytest.mark.parametrize("name", SILENT)
def test_a_step_waits_for_nothing(name: str, shapes: Models, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(6, 13)
    assert len(batch.places) == sum(batch.num_valid) == int(batch.valid.sum())
    result = step(shapes, TRAINED[name], batch)
    assert result.loss.shape == ()
    assert result.loss.device.type == "meta"


@pytest.mark.parametrize("name", [name for name, preset in TRAINED.items() if may_ask(preset)])
def test_what_has_to_ask_is_noticed(name: str, shapes: Models, make_batch: Callable[..., Batch]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        step(shapes, TRAINED[name], make_batch(6, 13))
    assert waits(caught.value)


def test_a_trunk_outside_the_core_asks_whether_its_rows_are_packed(shapes: Models) -> None:
    ids = torch.zeros((2, 5), dtype=torch.long, device="meta")
    assert trunk(shapes.student, ids).shape == (2, 5, 16)
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        shapes.student.base_model(input_ids=ids, use_cache=False)
    assert waits(caught.value)


def test_the_trunk_is_transformers_own(make_pair: Callable[..., Pair], make_batch: Callable[..., Batch]) -> None:
    student, ids = make_pair(torch.float32).student, make_batch(6, 13).input_ids
    with torch.no_grad():
        assert torch.equal(trunk(student, ids), student.base_model(input_ids=ids, use_cache=False).last_hidden_state)


@pytest.mark.parametrize(
    ("name", "master_weights"),
    cycled(SILENT, [False, True], kind=lambda name: way(name) if name in presets() else name),
)
def test_gradients_clipping_and_optimiser_ask_for_nothing(
    name: str, master_weights: bool, make_batch: Callable[..., Batch]
) -> None:
    pair = build_pair(torch.bfloat16 if master_weights else torch.float32)
    models = Models(student=pair.student, teacher=pair.teacher, device="cpu")
    core, parts = models.core(TRAINED[name]), split_batch(make_batch(6, 13), [4, 2])
    optimiser = make_optimiser(core.parameters, OPTIMISATION.model_copy(update={"master_weights": master_weights}))
    optimiser.zero_grad()
    before = [each.detach().clone() for each in core.parameters]
    with NoQuestions():
        result = accumulate(core, parts, None, step=0, num_steps=10)
        norm = clip(core.parameters, 1.0, core.group)
        optimiser.step()
        numbers = Underway(result.loss, norm)
    assert numbers.read() == (float(result.loss), float(norm))
    assert any(not torch.equal(old, new) for old, new in zip(before, core.parameters, strict=True))


@pytest.mark.parametrize("question", [torch.Tensor.item, torch.nonzero, lambda x: x[x > 0], bool])
def test_a_question_would_be_noticed(question: Callable[[torch.Tensor], object]) -> None:
    with NoQuestions(), pytest.raises(AssertionError, match="the host waits for"):
        question(torch.ones(1))


def test_a_blocking_copy_would_be_noticed() -> None:
    host = torch.ones(3)
    with NoBlockingCopies():
        assert sent(host, "meta").device.type == "meta"
        assert sent(host, "cpu") is host
        with pytest.raises(AssertionError, match="the host waits for the copy"):
            host.to("meta")
