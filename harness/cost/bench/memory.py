"""Peak bytes of a step by category, for every variant: counted, not sampled, so that they are the same everywhere."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

import pandas as pd
import torch

from harness.cost.accounting import (
    ACTIVATIONS,
    CATEGORIES,
    GIB,
    Entry,
    Ledger,
    Peak,
    adam8bit_bytes,
    states_of,
    take_step,
)
from harness.cost.rig import Rig, Setting, make_rig
from harness.cost.shapes import shapes_only
from harness.cost.variants import Owner, Variant, variant

Optimizer = Literal["none", "adamw", "adamw_8bit"]
OPTIMIZERS: tuple[Optimizer, ...] = ("none", "adamw", "adamw_8bit")
OWNERS: tuple[Owner, ...] = ("student", "teacher")
# What is not there all the time.
TRACED = tuple(name for name in CATEGORIES if name not in ("parameters", "optimizer"))
SETTING = ["pair", "batch_size", "length", "micro_batches", "checkpointing", "optimizer"]


def _active(entry: Entry) -> bool:
    return entry.category in ACTIVATIONS


def _of(owner: Owner, entry: Entry) -> bool:
    # What derives from neither model (tokens, masks, noise) is on the student's device.
    return (entry.owner or "student") == owner


def _comes_and_goes(owner: Owner, entry: Entry) -> bool:
    return _of(owner, entry) and entry.category in TRACED


# What peaks are taken of: everything that derives from the student, which a GPU of its own would hold; the same for the
# teacher; everything on one GPU for both; trunks, logits and inputs whatever else there is, of both, of each at its own
# peak, and together with the head's gradient; what is between trunks and loss alone.
PEAKS: dict[str, Callable[[Entry], bool]] = {
    "student": lambda entry: _of("student", entry),
    "teacher": lambda entry: _of("teacher", entry),
    "both": lambda entry: not entry.copy,
    "activations": lambda entry: _active(entry) and not entry.copy,
    "student activations": lambda entry: _of("student", entry) and _active(entry),
    "teacher activations": lambda entry: _of("teacher", entry) and _active(entry),
    "with head gradient": lambda entry: (_active(entry) or entry.category == "head gradient") and not entry.copy,
    "logits": lambda entry: entry.category == "logits" and not entry.copy,
}
Account = dict[str, Peak]


def account(variant: Variant, setting: Setting, *, fake: bool = True) -> dict[Optimizer, Account]:
    """Run one step and return the `PEAKS` of its bytes under every optimiser.

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
        ledger = _counted(rig, setting)
        state = {"none": 0, "adamw_8bit": adam8bit_bytes(rig.core.parameters), "adamw": None}
    return {name: _peaks(ledger, state[name]) for name in OPTIMIZERS}


def trace(
    variants: Iterable[Variant],
    setting: Setting,
    *,
    num: int,
    fake: bool = True,
    on_variant: Callable[[int], None] = lambda _: None,
) -> pd.DataFrame:
    """Return what is alive over a step beyond weights and optimiser state, which stay; in GiB.

    One row per variant and part of its step, `num` parts at most (see `Ledger.trace`), each of the student's device and
    the teacher's at its own fullest moment. `on_variant` is called after each with variants done.
    """
    rows = []
    for count, each in enumerate(variants, start=1):
        with shapes_only(fake=fake):
            rig = make_rig(each, setting)  # kept, so that the trace ends with the step
            ledger = _counted(rig, setting)
        traces = {owner: ledger.trace(partial(_comes_and_goes, owner), num=num) for owner in OWNERS}
        for part, alive in enumerate(zip(*traces.values(), strict=True)):
            row = {
                "pair": setting.pair.name,
                "batch_size": setting.batch_size,
                "length": setting.length,
                "micro_batches": setting.micro_batches,
                "variant": each.name,
                "label": each.label,
                "part": part,
            }
            for owner, peak in zip(traces, alive, strict=True):
                row[f"{owner}_gib"] = peak.total() / GIB
                row |= {f"{owner}_{name.replace(' ', '_')}_gib": peak[name] / GIB for name in TRACED}
            rows.append(row)
        on_variant(count)
    return pd.DataFrame(rows)


def _counted(rig: Rig, setting: Setting) -> Ledger:
    """Take one step of a rig with AdamW, whose state is there, and return what was written down of it."""
    ledger = Ledger(head=(setting.pair.vocab_size, int(setting.pair.student.hidden_size)))
    optimiser = adamw(rig.core.parameters)
    ledger.register(states_of(optimiser, rig.core.parameters), "optimizer", "student")
    take_step(rig, optimiser, ledger)
    return ledger


def adamw(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimiser that steps are counted and timed with."""
    return torch.optim.AdamW(parameters, lr=1e-5, fused=True)


def table(
    variants: Iterable[Variant], settings: Iterable[Setting], *, on_setting: Callable[[int], None] = lambda _: None
) -> pd.DataFrame:
    """Return one row per setting, variant and optimiser, in this order of optimisers in each setting; sizes in GiB.

    `on_setting` is called after each with settings done.
    """
    rows, chosen = [], tuple(variants)
    for number, setting in enumerate(settings):
        floor = account(variant("floor"), setting)
        accounts = [(each, floor if each.name == "floor" else account(each, setting)) for each in chosen]
        for name in sorted(OPTIMIZERS):
            rows += [_row(each, setting, name, found[name], floor[name]) for each, found in accounts]
        on_setting(number + 1)
    return pd.DataFrame(rows)


def with_savings(found: pd.DataFrame) -> pd.DataFrame:
    """Put beside each row how much less it takes than the default flow in the same setting."""
    dense = found[found["variant"] == "full_kd_dense"].set_index(SETTING)
    index = pd.MultiIndex.from_frame(found[SETTING])
    for column in ("student", "total"):
        reference = dense[f"{column}_gib"].reindex(index).to_numpy()
        found[f"{column}_saving_percent"] = 100.0 * (1.0 - found[f"{column}_gib"].to_numpy() / reference)
    return found


def _row(
    variant: Variant, setting: Setting, optimizer: Optimizer, found: Account, floor: Account
) -> dict[str, str | int | float]:
    size = {name: found[name].total() / GIB for name in PEAKS}
    beyond = {name: (found[name].total() - floor[name].total()) / GIB for name in PEAKS}
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
        "student_gib": size["student"],
        "teacher_gib": size["teacher"],
        "total_gib": (found["student"].total() + found["teacher"].total()) / GIB,
        "one_device_gib": size["both"],
        "activations_gib": size["activations"],
        "logits_gib": size["logits"],
        "beyond_floor_gib": beyond["activations"],
        "beyond_floor_with_head_gradient_gib": beyond["with head gradient"],
        "student_beyond_floor_gib": beyond["student activations"],
        "teacher_beyond_floor_gib": beyond["teacher activations"],
    }
    for owner in OWNERS:
        row |= {f"{owner}_{name.replace(' ', '_')}_gib": found[owner][name] / GIB for name in CATEGORIES}
    return row


def _peaks(ledger: Ledger, state_bytes: int | None) -> Account:
    """Find the peaks, with an optimiser's state of so many bytes in the place of the one that was there, if given."""

    def peak(wanted: Callable[[Entry], bool]) -> Peak:
        return ledger.peak_of(lambda entry: wanted(entry) and (state_bytes is None or entry.category != "optimizer"))

    found = {name: peak(wanted) for name, wanted in PEAKS.items()}
    state = Peak({"optimizer": state_bytes or 0})
    return found | {name: found[name] + state for name in ("student", "both")}
