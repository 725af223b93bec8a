"""A teacher distilled into itself: it has nothing to learn, so any loss is an error of models, head or core."""

from dataclasses import dataclass

import torch

from harness import models
from harness.config import Workload
from harness.config.errors import UserError
from harness.config.expand import method
from harness.data.tokens import with_targets
from harness.distill.objective import compile_strategy
from harness.distill.step import Core, accumulate
from harness.models.devices import chunk_of, device_of
from harness.teacher.live import online_teacher

# Every position, and a selective row; both by forward KL alone.
_METHODS = ("full_kd", "se_kd")
_SEQUENCES, _LENGTH = 2, 128


@dataclass(frozen=True, kw_only=True)
class SelfDistilled:
    """One step of a teacher into itself.

    Attributes:
        label: of the method.
        loss_nats: the objective's value; 0 but for rounding.
        tolerance: what rounding may make of it, nats.
        gradient: the largest absolute entry of any gradient.
    """

    label: str
    loss_nats: float
    tolerance: float
    gradient: float

    @property
    def holds(self) -> bool:
        """Whether the loss is 0 but for rounding; nan is not."""
        return abs(self.loss_nats) <= self.tolerance


def distil_into_itself(workload: Workload) -> tuple[SelfDistilled, ...]:
    """Take one step with each method on random tokens, the teacher's weights in both places.

    The step is that of a trial: student in training mode, teacher run beside it, scores, selection, loss, gradients.

    Raises:
        UserError: the workload has no teacher, or it cannot be loaded.
    """
    if workload.teacher is None:
        raise UserError(f"workload {workload.name!r} has no teacher: there is nothing to distil into itself")
    device, dtype = device_of(workload), models.DTYPES[workload.resources.dtype]
    vocab_size = len(models.load_tokenizer(workload.student, workload.folder))
    student = models.load_model(workload.teacher, workload.folder, dtype=dtype, device=device)
    # As training does: dropout, which would make two models of one, is then seen.
    student.train()
    teacher = online_teacher(workload, vocab_size, device)
    length = min(_LENGTH, workload.data.sequence_length)
    ids = torch.randint(vocab_size, (_SEQUENCES, length), generator=torch.Generator().manual_seed(0))
    batch = with_targets(ids, index=torch.arange(_SEQUENCES), separator=None).to(device)
    steps = []
    for name in _METHODS:
        strategy = method(name)
        core = Core(
            student=student,
            teacher=teacher,
            objective=compile_strategy(strategy),
            vocab_size=vocab_size,
            chunk=chunk_of(workload, vocab_size),
            seed=0,
        )
        student.zero_grad(set_to_none=True)
        loss = float(accumulate(core, [batch], None, step=0, num_steps=1).loss)
        gradients = [parameter.grad for parameter in core.parameters if parameter.grad is not None]
        steps.append(
            SelfDistilled(
                label=strategy.label,
                loss_nats=loss,
                tolerance=1e-5 if torch.finfo(dtype).bits >= 32 else 1e-2,
                gradient=max(float(gradient.abs().max()) for gradient in gradients),
            )
        )
    return tuple(steps)
