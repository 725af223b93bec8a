"""One step of a variant, ready to run: models, data, teacher and optimiser, real or of shapes alone."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from harness.config import Lora, Method
from harness.config.annotations import PreTrainedModel
from harness.cost.outside import OutsideLoss, outside_loss
from harness.cost.plain import plain_step
from harness.cost.shapes import Pair, build
from harness.cost.variants import Variant
from harness.data.tokens import Batch, with_targets
from harness.distill.feature import make_projection
from harness.distill.objective import Objective, compile_strategy
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
        if self.variant.trunk_only:
            for batch in self.batches:
                hidden = trunk(self.student, batch.input_ids)
                if self.core.teacher is not None:
                    with torch.no_grad():
                        self.core.teacher.hidden(batch)
                hidden.backward(torch.ones_like(hidden))
        elif self.variant.outside is not None:
            for batch in self.batches:
                self._outside(batch, outside_loss(self.variant.outside))
        elif self.variant.heads is not None:
            for batch in self.batches:
                plain_step(self.core, batch, heads=self.variant.heads, num_selected=_num_selected(self.core, batch))
        else:
            accumulate(self.core, self.batches, None, step=0, num_steps=10)

    def _outside(self, batch: Batch, loss: OutsideLoss) -> None:
        teacher = self.core.teacher
        assert teacher is not None, "an outside loss reads a teacher"
        hidden = trunk(self.student, batch.input_ids).flatten(0, 1)
        with torch.no_grad():
            states = teacher.hidden(batch).flatten(0, 1)[batch.places]
        head, targets = head_of(self.student, self.core.vocab_size), batch.targets.flatten()[batch.places]
        # The teacher's part is a constant whatever the library makes of it.
        loss(hidden[batch.places], head, states, teacher.head, targets).backward()


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
        teacher_model = build(pair.teacher, dtype=pair.dtype, device=setting.device, seed=1).requires_grad_(False)
        teacher = _online(teacher_model, pair.vocab_size)
    elif objective.reads_teacher:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            if strategy.teacher == "cached":
                teacher, inputs = _cached(setting, objective.stored_scores)
            elif strategy.teacher == "topk":
                targets, inputs = _largest(setting, strategy)
            else:
                targets, inputs = _stored(setting, draws_of(strategy, pair.vocab_size).draws)
    core = Core(
        student=student,
        teacher=teacher,
        objective=objective,
        vocab_size=pair.vocab_size,
        chunk=setting.chunk,
        seed=SEED,
        targets=targets,
        projection=_projection(objective, setting),
    )
    return Rig(variant=variant, core=core, teacher=teacher_model, batches=batches, inputs=inputs)


def make_batch(setting: Setting, number: int, *, like: PreTrainedModel) -> Batch:
    """Return a micro-batch of random tokens, each position but the last with a target.

    Args:
        setting: its size.
        number: which micro-batch; others hold other tokens.
        like: a model on whose device, and in whose fake mode, the batch is wanted.
    """
    shape = (setting.batch_size, setting.length)
    parameter = next(like.parameters())
    generator = torch.Generator().manual_seed(SEED + number)
    fake = parameter.fake_mode if isinstance(parameter, FakeTensor) else None
    if fake is not None:
        # What is counted of a batch is counted on the real one, as training does before it moves a batch to a GPU.
        with torch.utils._python_dispatch._disable_current_modes():
            real = _tokens(shape, setting.pair.vocab_size, generator)
        return replace(real.mapped(fake.from_tensor), index=fake.from_tensor(real.index))
    return _tokens(shape, setting.pair.vocab_size, generator).to(setting.device)


def _tokens(shape: tuple[int, int], vocab_size: int, generator: torch.Generator) -> Batch:
    ids = torch.randint(vocab_size, shape, generator=generator)
    return with_targets(ids, index=torch.arange(shape[0]), separator=None)


def _num_selected(core: Core, batch: Batch) -> int:
    return sum(budget_size(num, core.objective.strategy.budget) for num in batch.num_valid)


def _online(model: PreTrainedModel, vocab_size: int) -> Teacher:
    return Teacher(
        hidden=lambda batch: trunk(model, batch.input_ids),
        head=Head(weight=head_of(model, vocab_size).weight.detach()),
        online=True,
        layers=lambda batch, layers: trunk_layers(model, batch.input_ids, layers),
    )


def _projection(objective: Objective, setting: Setting) -> torch.nn.ModuleList | None:
    if objective.feature is None:
        return None
    pair = setting.pair
    made = make_projection(objective, int(pair.student.hidden_size), int(pair.teacher.hidden_size), SEED)
    # A module of fake tensors cannot be moved, not even to where it is.
    return made if setting.device == "cpu" else made.to(setting.device)


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
