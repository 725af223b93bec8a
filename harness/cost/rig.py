"""One step of a variant, ready to run: models, data, teacher and optimiser, real or of shapes alone."""

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from harness.config import Lora, Method
from harness.config.annotations import PreTrainedModel
from harness.cost.outside import OutsideLoss, outside_loss
from harness.cost.plain import plain_step
from harness.cost.shapes import Pair, build
from harness.cost.variants import Variant
from harness.data.tokens import Batch, with_targets
from harness.distill.feature import make_projection
from harness.distill.objective import compile_strategy
from harness.distill.optimiser import MasterWeights
from harness.distill.shards import ShardedOptimiser
from harness.distill.step import Core, accumulate
from harness.models import Head, compute_activations_anew, head_of, trunk, trunk_layers
from harness.models.devices import chunk_rows
from harness.teacher.interface import Targets, Teacher
from harness.teacher.kinds.draws import SampledTarget
from harness.teacher.kinds.top_classes import TopClassesTarget
from harness.teacher.targets import draws_of, largest_of
from strategies.base import budget_size

# B = sequences, L = positions, D = the teacher's hidden size, U = draws

SEED = 1337


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a step is measured on.

    Attributes:
        pair: teacher and student.
        batch_size: sequences of a micro-batch.
        length: tokens of a sequence.
        micro_batches: micro-batches of a step; from the second one on, gradients are there from the start.
        logit_memory_mib: what a chunk may occupy.
        checkpointing: whether the student's layers are computed anew in the backward pass rather than kept.
        lora: the student's adapters, None where all its weights are trained.
        device: where everything is.
    """

    pair: Pair
    batch_size: int
    length: int
    logit_memory_mib: int
    micro_batches: int = 1
    checkpointing: bool = False
    lora: Lora | None = None
    device: str = "cpu"

    @property
    def chunk(self) -> int:
        """Rows of logits at a time."""
        return chunk_rows(self.pair.vocab_size, self.logit_memory_mib, self.pair.dtype.itemsize)


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A step that can be run over and over.

    Attributes:
        variant: what is run.
        core: models and objective.
        teacher: the teacher, None where it is not loaded.
        batches: the micro-batches.
        inputs: tensors read from a cache, apart from tokens.
    """

    variant: Variant
    core: Core
    teacher: PreTrainedModel | None
    batches: tuple[Batch, ...]
    inputs: tuple[Tensor, ...]

    @property
    def student(self) -> PreTrainedModel:
        """The model in training."""
        return self.core.student

    @property
    def teacher_parameters(self) -> tuple[Tensor, ...]:
        """The teacher's weights that are in memory: all, its head, or none."""
        if self.teacher is not None:
            return tuple(self.teacher.parameters())
        return () if self.core.teacher is None else (self.core.teacher.head.weight,)

    @property
    def student_parameters(self) -> tuple[Tensor, ...]:
        """The student's weights, frozen ones too, and what the objective adds to them."""
        found = [*self.student.parameters(), *self.core.parameters]
        return tuple({id(each): each for each in found}.values())

    def gradients(self) -> None:
        """Compute the step's loss and add its gradients to the student's."""
        variant = self.variant
        if not variant.trunk_only and variant.outside is None and variant.heads is None:
            accumulate(self.core, self.batches, None, step=0, num_steps=10)
            return
        for batch in self.batches:
            if variant.trunk_only:
                self._trunks(batch)
            elif variant.outside is not None:
                self._outside(batch, outside_loss(variant.outside))
            elif variant.heads is not None:
                selected = sum(budget_size(num, self.core.objective.strategy.budget) for num in batch.num_valid)
                plain_step(self.core, batch, heads=variant.heads, streamed=variant.streamed, num_selected=selected)

    def step(
        self, optimiser: torch.optim.Optimizer | MasterWeights | ShardedOptimiser | None, *, max_grad_norm: float = 1.0
    ) -> float:
        """Take one whole training step, gradient clipping and optimiser (if any) included; return its seconds."""
        wait(self.student.device.type)
        started = time.perf_counter()
        for parameter in self.core.parameters:
            parameter.grad = None
        self.gradients()
        torch.nn.utils.clip_grad_norm_(self.core.parameters, max_grad_norm)
        if optimiser is not None:
            optimiser.step()
        wait(self.student.device.type)
        return time.perf_counter() - started

    def _trunks(self, batch: Batch) -> None:
        hidden = trunk(self.student, batch.input_ids)
        if self.core.teacher is not None:
            with torch.no_grad():
                self.core.teacher.hidden(batch)
        hidden.backward(torch.ones_like(hidden))

    def _outside(self, batch: Batch, loss: OutsideLoss) -> None:
        teacher = self.core.teacher
        assert teacher is not None, "an outside loss reads a teacher"
        hidden = trunk(self.student, batch.input_ids).flatten(0, 1)
        with torch.no_grad():
            states = teacher.hidden(batch).flatten(0, 1)[batch.places]
        head, targets = head_of(self.student, self.core.vocab_size), batch.targets.flatten()[batch.places]
        # The teacher's part is a constant whatever the library makes of it.
        loss(hidden[batch.places], head, states, teacher.head, targets).backward()


def wait(device: str) -> None:
    """Wait until a GPU has done what it was asked to; a CPU has when it returns."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def make_rig(variant: Variant, setting: Setting) -> Rig:
    """Build a variant's step; inside `shapes_only` nothing has storage."""
    pair, strategy = setting.pair, variant.strategy
    student = build(pair.student, dtype=pair.dtype, device=setting.device, lora=setting.lora)
    if setting.checkpointing:
        compute_activations_anew(student)
    student.train()
    batches = tuple(make_batch(setting, number, like=student) for number in range(setting.micro_batches))
    teacher_model, teacher, targets = None, None, None
    inputs: tuple[Tensor, ...] = ()
    objective = compile_strategy(strategy)
    if strategy.teacher == "online" and objective.reads_teacher:
        loaded = build(pair.teacher, dtype=pair.dtype, device=setting.device, seed=1).requires_grad_(False)
        teacher_model = loaded
        teacher = Teacher(
            hidden=lambda batch: trunk(loaded, batch.input_ids),
            head=Head(weight=head_of(loaded, pair.vocab_size).weight.detach()),
            online=True,
            layers=lambda batch, layers: trunk_layers(loaded, batch.input_ids, layers),
        )
    elif objective.reads_teacher:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            if strategy.teacher == "cached":
                teacher, inputs = _cached(setting, objective.stored_scores)
            elif strategy.teacher == "topk":
                targets, inputs = _largest(setting, strategy)
            else:
                targets, inputs = _stored(setting, draws_of(strategy, pair.vocab_size).draws)
    projection = None
    if objective.feature is not None:
        projection = make_projection(objective, int(pair.student.hidden_size), int(pair.teacher.hidden_size), SEED)
        # A module of fake tensors cannot be moved, not even to where it is.
        projection = projection if setting.device == "cpu" else projection.to(setting.device)
    core = Core(
        student=student,
        teacher=teacher,
        objective=objective,
        vocab_size=pair.vocab_size,
        chunk=setting.chunk,
        seed=SEED,
        targets=targets,
        projection=projection,
    )
    return Rig(variant=variant, core=core, teacher=teacher_model, batches=batches, inputs=inputs)


def make_batch(setting: Setting, number: int, *, like: PreTrainedModel) -> Batch:
    """Return a micro-batch of random tokens, each position but the last with a target.

    Args:
        setting: its size.
        number: which micro-batch; others hold other tokens.
        like: a model on whose device, and in whose fake mode, the batch is wanted.
    """
    # What is counted of a batch is counted on the real one, as training does before it moves a batch to a GPU.
    with _disable_current_modes():
        generator = torch.Generator().manual_seed(SEED + number)
        ids = torch.randint(setting.pair.vocab_size, (setting.batch_size, setting.length), generator=generator)
        real = with_targets(ids, index=torch.arange(setting.batch_size), separator=None)
    parameter = next(like.parameters())
    if not isinstance(parameter, FakeTensor):
        return real.to(setting.device)
    fake = parameter.fake_mode
    return replace(real.mapped(fake.from_tensor), index=fake.from_tensor(real.index))


def _cached(setting: Setting, signals: tuple[str, ...]) -> tuple[Teacher, tuple[Tensor, ...]]:
    """Return a teacher whose states and scores are at hand, as read from their caches."""
    pair, width = setting.pair, int(setting.pair.teacher.hidden_size)
    # Of the size that a final norm gives.
    states = torch.randn((setting.batch_size, setting.length, width), dtype=pair.dtype, device=setting.device)
    weight = torch.randn((pair.vocab_size, width), dtype=pair.dtype, device=setting.device) * width**-0.5
    head = Head(weight=weight)
    if not signals:
        return Teacher(hidden=lambda _: states, head=head, online=False), (states,)
    dtype = torch.promote_types(pair.dtype, torch.float32)
    laid = torch.rand((len(signals), setting.batch_size * setting.length), dtype=dtype, device=setting.device)

    def scores(batch: Batch) -> dict[str, Tensor]:
        return {name: each[batch.places] for name, each in zip(signals, laid, strict=True)}

    return Teacher(hidden=lambda _: states, head=head, online=False, scores=scores), (states, laid)


def _stored(setting: Setting, draws: int) -> tuple[Targets, tuple[Tensor, ...]]:
    """Return targets that are at hand, as read from a `sampled` cache: about a quarter of the draws are distinct."""
    shape = (setting.batch_size, setting.length, draws)
    step = setting.pair.vocab_size // draws
    spread = torch.arange(draws, device=setting.device) * step + torch.randint(step, shape, device=setting.device)
    distinct = torch.arange(draws, device=setting.device) < draws // 4
    ids = spread.masked_fill(~distinct, 0)
    counts = distinct.long().expand(shape) * 4
    target = SampledTarget(ids=ids, counts=counts, log_weight=None, draws=draws, dtype=torch.float32)
    return lambda _, places: target.sparse(places), (ids, counts)


def _largest(setting: Setting, strategy: Method) -> tuple[Targets, tuple[Tensor, ...]]:
    """Return targets that are at hand, as read from a `topk` cache."""
    kept = largest_of(strategy, setting.pair.vocab_size)
    shape = (setting.batch_size, setting.length, kept.k)
    ids = torch.arange(kept.k, device=setting.device).expand(shape).contiguous()
    logprobs = torch.randn(shape, device=setting.device).log_softmax(dim=-1) - 1.0
    target = TopClassesTarget(ids=ids, logprobs=logprobs, log_tail=torch.full(shape[:2], -1.0, device=setting.device))
    return (
        lambda _, places: target.sparse(places, tail=kept.tail, renormalise=kept.renormalise),
        (ids, logprobs, target.log_tail),
    )
