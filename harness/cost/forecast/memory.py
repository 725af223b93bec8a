"""Peak bytes of one step of a trial, counted on tensors that hold no numbers, at any scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.config import Choice, Method, Optimisation, Position, Workload
from harness.cost.accounting import ACTIVATIONS, Entry, Ledger, adam8bit_bytes, bytes_of, states_of, take_step
from harness.cost.rig import Setting, make_rig
from harness.cost.shapes import Pair, build, shapes_only
from harness.cost.variants import Variant
from harness.distill.optimiser import MasterWeights, make_optimiser
from harness.distill.shards import ShardedOptimiser
from harness.models import DTYPES, layers_of, trunk
from harness.models.shapes import configuration
from harness.models.vocabulary import num_tokens
from strategies.registry import POLICIES, SIGNALS


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The bytes of one step, at the moment when most are alive on the one device that holds everything.

    Of a sharded student it is the share of one of its processes, and two layers that are whole for a moment.

    Attributes:
        total: all of them.
        teacher: the teacher's weights that are in memory: all, its head, or none.
        parameters: the student's weights.
        optimiser: the optimiser's state, float32 copies of the weights included.
        gradients: gradients of the student's weights.
        activations: everything else: trunks, logits, inputs.
        step: the most that the loss and its gradients bring to life, whatever was there before: what a trial's record
            calls `peak_gib.step`.
        checkpoint: what a checkpoint of the unfinished trial takes on the disk.
    """

    total: int
    teacher: int
    parameters: int
    optimiser: int
    gradients: int
    activations: int
    step: int
    checkpoint: int


def footprint(strategy: Method, workload: Workload, *, fake: bool = True) -> Footprint:
    """Run one step of a strategy and account for its bytes.

    Models are built from their configurations. Micro-batches beyond the second repeat its peak, so two stand for any
    number. The optimiser has taken a step before, so that its state exists, and takes another one at the end.

    Args:
        strategy: a strategy that trains.
        workload: what it is applied to.
        fake: shapes without storage, at any scale; otherwise the step is really computed.
    """
    setting = setting_of(workload)
    variant = Variant(name="planned", label=strategy.label, strategy=countable(strategy))
    with shapes_only(fake=fake):
        rig = make_rig(variant, setting)
        ledger = Ledger(head=(setting.pair.vocab_size, int(setting.pair.student.hidden_size)))
        # States of 8 bits are entered by their size: they may not be installed here, and what they take is known.
        optimiser = _stand_in(rig.core.parameters, workload)
        states = states_of(optimiser, rig.core.parameters)
        over, layers = 1, list[torch.nn.Module]()
        if workload.resources.shard_student:
            over, layers = workload.resources.data_parallel, layers_of(rig.student)
        sharded = [parameter for layer in layers for parameter in layer.parameters()]
        ledger.register(states, "optimizer", "student", over=over)
        ledger.register(sharded, "parameters", "student", over=over)
        take_step(rig, optimiser, ledger)
        state = _state_bytes(states, rig.core.parameters, workload.optimisation)
        shared_out = bytes_of(*sharded)
        return _read(
            ledger,
            state=-(-state // over),
            teacher=bytes_of(*rig.teacher_parameters),
            parameters=bytes_of(*rig.student_parameters) - shared_out + -(-shared_out // over),
            # A checkpoint leaves out what is frozen, and holds all that is shared out.
            checkpoint=state + bytes_of(*rig.core.parameters),
            fetched=_fetched(layers),
        )


def checkpoint_size(workload: Workload) -> int:
    """Return the bytes of an unfinished trial's checkpoint, but for a projection of features, without taking a step."""
    pair = setting_of(workload).pair
    with shapes_only(fake=True):
        student = build(pair.student, dtype=pair.dtype, lora=workload.lora)
        parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        states = states_of(_stand_in(parameters, workload), parameters)
        return _state_bytes(states, parameters, workload.optimisation) + bytes_of(*parameters)


def _stand_in(parameters: Sequence[torch.nn.Parameter], workload: Workload) -> torch.optim.Optimizer | MasterWeights:
    optimiser = make_optimiser(parameters, workload.optimisation.model_copy(update={"optimiser": "adamw"}))
    assert not isinstance(optimiser, ShardedOptimiser), "one process counts for all"
    return optimiser


def _fetched(layers: Sequence[torch.nn.Module]) -> int:
    """Return what is whole for a moment: the layer that computes, its gradient and the sum's buffer, the next layer.

    An upper bound: nothing is fetched while the loss is computed, where most other bytes may be alive.
    """
    weights = max((bytes_of(*layer.parameters()) for layer in layers), default=0)
    wide = max((sum(4 * parameter.numel() for parameter in layer.parameters()) for layer in layers), default=0)
    return 3 * weights + max(weights, wide)


def fullest(memory: Footprint, strategy: Method, workload: Workload) -> int:
    """Return the bytes on the fullest GPU: all of them, unless a teacher that runs has some of its own.

    Its head is on the student's then too. What its layers compute is counted with the student's.
    """
    num = workload.resources.teacher_gpus
    if num == 0 or strategy.teacher != "online" or workload.teacher is None:
        return memory.total
    width = int(configuration(workload.teacher, workload.folder).hidden_size)
    head = num_tokens(workload.student, workload.folder) * width * DTYPES[workload.resources.dtype].itemsize
    return max(memory.total - memory.teacher + head, -(-memory.teacher // num))


def countable(strategy: Method) -> Method:
    """Return a strategy whose shapes are known beforehand, and that takes as much as this one.

    Where a policy's number of positions depends on the scores, it is `top_k` at its budget, or all positions if it
    has none: a step in which the policy strays above its budget takes more. A signal that normalises over the batch is
    `kl`, which reads both models as well: what normalising takes is a few numbers per position.
    """
    position = strategy.position
    if position.signal is not None and SIGNALS[position.signal.name].traits["scope"] == "batch":
        position = position.model_copy(update={"signal": Choice(name="kl")})
    if POLICIES[position.policy.name].traits["keeps"] == "varies":
        if position.signal is None or position.budget is None:
            position = Position(policy=Choice(name="all"))
        else:
            position = position.model_copy(update={"policy": Choice(name="top_k")})
    return strategy.model_copy(update={"position": position})


def cache_footprint(workload: Workload) -> int:
    """Return the peak of building the teacher's cache: its weights and one micro-batch forward, without gradients."""
    setting = setting_of(workload)
    with shapes_only(fake=True), torch.no_grad():
        model = build(setting.pair.teacher, dtype=setting.pair.dtype)
        ledger = Ledger(head=(setting.pair.vocab_size, int(setting.pair.teacher.hidden_size)))
        ledger.register(model.parameters(), "parameters", "teacher")
        ids = torch.zeros((setting.batch_size, setting.length), dtype=torch.long)
        with ledger:
            trunk(model, ids)
    return ledger.peak_of().total()


def setting_of(workload: Workload, *, device: str = "cpu", whole: bool = False) -> Setting:
    """Return what a step of a workload is measured on.

    Args:
        workload: the workload.
        device: where everything is.
        whole: all micro-batches of a step, rather than the two that memory depends on.
    """
    settings, folder = workload.optimisation, workload.folder
    student = configuration(workload.student, folder)
    pair = Pair(
        name=workload.name,
        student=student,
        teacher=student if workload.teacher is None else configuration(workload.teacher, folder),
        dtype=DTYPES[workload.resources.dtype],
        num_tokens=num_tokens(workload.student, folder),
    )
    micro_batches = math.ceil(settings.batch_size / settings.micro_batch_size)
    return Setting(
        pair=pair,
        batch_size=settings.micro_batch_size,
        length=workload.data.sequence_length,
        logit_memory_mib=workload.resources.logit_memory_mib,
        micro_batches=micro_batches if whole else min(micro_batches, 2),
        checkpointing=workload.resources.checkpoint_activations,
        lora=workload.lora,
        device=device,
    )


def _state_bytes(states: Sequence[Tensor], parameters: Sequence[torch.nn.Parameter], optimisation: Optimisation) -> int:
    """Return what the optimiser really keeps, 8-bit states in the place of those that stood for them."""
    if optimisation.optimiser == "adamw":
        return bytes_of(*states)
    masters = 4 * sum(each.numel() for each in parameters) if optimisation.master_weights else 0
    return masters + adam8bit_bytes(parameters)


def _read(ledger: Ledger, *, state: int, teacher: int, parameters: int, checkpoint: int, fetched: int) -> Footprint:
    def made(entry: Entry) -> bool:
        there = entry.category in ("parameters", "optimizer") or (entry.category == "inputs" and entry.before)
        return not entry.copy and not there

    peak = ledger.peak_of(lambda entry: not entry.copy)
    stand_in = ledger.peak_of(lambda entry: entry.category == "optimizer" and entry.before).total()
    return Footprint(
        total=peak.total() - stand_in + state + fetched,
        teacher=teacher,
        parameters=parameters,
        optimiser=state,
        gradients=peak["gradients"] + peak["head gradient"],
        activations=sum(peak[name] for name in ACTIVATIONS) + peak["optimizer"] - stand_in + fetched,
        step=ledger.peak_of(made).total(),
        checkpoint=checkpoint,
    )


def changed(workload: Workload, **changes: object) -> Workload:
    """Return a workload with settings of its sections changed, given as section__key=value."""
    sections: dict[str, dict[str, object]] = {}
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        sections.setdefault(section, {})[key] = value
    return workload.model_copy(
        update={name: getattr(workload, name).model_copy(update=fields) for name, fields in sections.items()}
    )
