"""Peak bytes of a step by category, for every variant: counted, not sampled, so that they are the same everywhere."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from harness.cost.accounting import ACTIVATIONS, CATEGORIES, Entry, Ledger, Owner, Peak
from harness.cost.rig import Rig, Setting, make_rig
from harness.cost.shapes import shapes_only
from harness.cost.variants import Variant
from harness.distill.optimiser import MasterWeights

Optimizer = Literal["none", "adamw", "adamw_8bit"]
OPTIMIZERS: tuple[Optimizer, ...] = ("none", "adamw", "adamw_8bit")

GIB = 1 << 30

# bitsandbytes: two states of one byte per number, a float32 scale for every 256 of each; parameters of fewer than 4096
# numbers keep float32 states.
_BLOCK = 256
_SMALL = 4096


@dataclass(frozen=True, kw_only=True)
class Account:
    """The bytes of one step.

    Attributes:
        student: the peak of everything that derives from the student: what a GPU of its own would hold.
        teacher: the same for the teacher.
        both: the peak of everything together: one GPU for both.
        activations: the peak of trunk, logits and inputs of both, whatever else there is.
        student_activations: the student's part, at its own peak.
        teacher_activations: the teacher's.
        with_head_gradient: the peak of the activations and the head's gradient together.
        logits: the peak of what is between trunks and loss alone.
    """

    student: Peak
    teacher: Peak
    both: Peak
    activations: Peak
    student_activations: Peak
    teacher_activations: Peak
    with_head_gradient: Peak
    logits: Peak


def account(variant: Variant, setting: Setting, *, fake: bool = True) -> dict[Optimizer, Account]:
    """Run one step and account for its bytes under every optimiser.

    AdamW (fused, two states in the parameters' dtype) has taken a step before, so that its state exists, and takes
    another one at the end. The other optimisers differ from it by a number of bytes that stay: `adamw_8bit` exists on a
    GPU only, so its state is entered by its size.

    Args:
        variant: what to run.
        setting: what to run it on.
        fake: shapes without storage, at any scale; otherwise the step is really computed.
    """
    with shapes_only(fake=fake):
        rig = make_rig(variant, setting)
        ledger = Ledger(head=(setting.pair.vocab_size, int(setting.pair.student.hidden_size)))
        take_step(rig, _adamw(rig, ledger), ledger)
        state_bytes = {"none": 0, "adamw_8bit": adam8bit_bytes(rig.core.parameters), "adamw": None}
    return {name: _read(ledger, state_bytes[name]) for name in OPTIMIZERS}


def take_step(rig: Rig, optimiser: torch.optim.Optimizer | MasterWeights, ledger: Ledger) -> None:
    """Take one step of a rig, and tell the ledger whose every tensor is; it knows the optimiser's state already."""
    ledger.register(rig.student_parameters, "parameters", "student")
    ledger.register(rig.teacher_parameters, "parameters", "teacher")
    ledger.register(rig.inputs, "inputs", "teacher")
    ledger.register((batch.input_ids for batch in rig.batches), "inputs", None)
    with ExitStack() as stack:
        stack.enter_context(ledger.watch(rig.student))
        if rig.teacher is not None:
            stack.enter_context(ledger.watch(rig.teacher))
        stack.enter_context(ledger)
        rig.gradients()
        ledger.mark_gradients(rig.student)
        with ledger.region("optimizer"):
            torch.nn.utils.clip_grad_norm_(rig.core.parameters, 1.0)
            optimiser.step()


def adam8bit_bytes(parameters: Iterable[Tensor]) -> int:
    """Return the size of an 8-bit Adam's state of some weights, as bitsandbytes lays it out."""
    return sum(
        2 * parameter.numel() + 2 * 4 * -(-parameter.numel() // _BLOCK)
        if parameter.numel() >= _SMALL
        else 8 * parameter.numel()
        for parameter in parameters
    )


def table(variants: Iterable[Variant], floor: Variant, settings: Iterable[Setting]) -> pd.DataFrame:
    """Return one row per setting, variant and optimiser; sizes in GiB."""
    rows, variants = [], tuple(variants)
    for setting in settings:
        lowest = account(floor, setting)
        for each in variants:
            found = lowest if each == floor else account(each, setting)
            rows += [_row(each, setting, name, found[name], lowest[name]) for name in OPTIMIZERS]
    return pd.DataFrame(rows).sort_values(["optimizer"], kind="stable", ignore_index=True)


def with_savings(found: pd.DataFrame) -> pd.DataFrame:
    """Put beside each row how much less it takes than the default flow in the same setting."""
    keys = ["pair", "batch_size", "length", "micro_batches", "checkpointing", "optimizer"]
    dense = found[found["variant"] == "full_kd_dense"].set_index(keys)
    index = pd.MultiIndex.from_frame(found[keys])
    for column in ("student", "total"):
        reference = dense[f"{column}_gib"].reindex(index).to_numpy()
        found[f"{column}_saving_percent"] = 100.0 * (1.0 - found[f"{column}_gib"].to_numpy() / reference)
    return found


def _row(
    variant: Variant, setting: Setting, optimizer: Optimizer, found: Account, floor: Account
) -> dict[str, str | int | float]:
    row: dict[str, str | int | float] = {
        "pair": setting.pair.name,
        "batch_size": setting.batch_size,
        "length": setting.length,
        "micro_batches": setting.micro_batches,
        "checkpointing": setting.checkpointing,
        "optimizer": optimizer,
        "chunk_rows": setting.chunk,
        "variant": variant.name,
        "label": variant.label,
        "student_gib": found.student.num_bytes / GIB,
        "teacher_gib": found.teacher.num_bytes / GIB,
        "total_gib": (found.student.num_bytes + found.teacher.num_bytes) / GIB,
        "one_device_gib": found.both.num_bytes / GIB,
        "activations_gib": found.activations.num_bytes / GIB,
        "logits_gib": found.logits.num_bytes / GIB,
        "beyond_floor_gib": (found.activations.num_bytes - floor.activations.num_bytes) / GIB,
        "beyond_floor_with_head_gradient_gib": (found.with_head_gradient.num_bytes - floor.with_head_gradient.num_bytes)
        / GIB,
        "student_beyond_floor_gib": (found.student_activations.num_bytes - floor.student_activations.num_bytes) / GIB,
        "teacher_beyond_floor_gib": (found.teacher_activations.num_bytes - floor.teacher_activations.num_bytes) / GIB,
    }
    for owner, peak in (("student", found.student), ("teacher", found.teacher)):
        row |= {f"{owner}_{name.replace(' ', '_')}_gib": peak.by_category[name] / GIB for name in CATEGORIES}
    return row


def _adamw(rig: Rig, ledger: Ledger) -> torch.optim.Optimizer:
    made = torch.optim.AdamW(rig.student.parameters(), lr=1e-5, fused=True)
    for parameter in rig.student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    made.zero_grad(set_to_none=True)
    states = (value for state in made.state.values() for value in state.values() if isinstance(value, torch.Tensor))
    ledger.register(states, "optimizer", "student")
    return made


def _read(ledger: Ledger, state_bytes: int | None) -> Account:
    """Find the peaks, with an optimiser's state of so many bytes in the place of the one that was there, if given."""

    def counted(entry: Entry) -> bool:
        return state_bytes is None or entry.category != "optimizer"

    def of(owner: Owner, entry: Entry) -> bool:
        # What derives from neither model (tokens, masks, noise) is on the student's device.
        return (entry.owner or "student") == owner and counted(entry)

    def active(entry: Entry) -> bool:
        return entry.category in ACTIVATIONS

    return Account(
        student=ledger.peak_of(lambda entry: of("student", entry)).plus(state_bytes or 0),
        teacher=ledger.peak_of(lambda entry: of("teacher", entry)),
        both=ledger.peak_of(lambda entry: counted(entry) and not entry.copy).plus(state_bytes or 0),
        activations=ledger.peak_of(lambda entry: active(entry) and not entry.copy),
        student_activations=ledger.peak_of(lambda entry: of("student", entry) and active(entry)),
        teacher_activations=ledger.peak_of(lambda entry: of("teacher", entry) and active(entry)),
        with_head_gradient=ledger.peak_of(
            lambda entry: (active(entry) or entry.category == "head gradient") and not entry.copy
        ),
        logits=ledger.peak_of(lambda entry: entry.category == "logits" and not entry.copy),
    )
