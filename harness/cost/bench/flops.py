"""Floating-point operations of a step, counted by torch over the real step, beside what the arithmetic says.

A multiply-add counts two; matrix products only. Attention counts whole score matrices, as torch's counter does.
"""

from collections.abc import Callable, Iterable

import pandas as pd
import torch

from harness.cost.rig import Rig, Setting, make_rig
from harness.cost.shapes import shapes_only
from harness.cost.variants import Variant, variant
from harness.distill.score import Rows, score_rows
from harness.models import head_of, trunk
from harness.models.operations import flop_counter, trunk_flops
from strategies.base import budget_size

# What SE-KD 3X keeps of the training sequences.
SHARE = 0.2


def count(variant: Variant, setting: Setting, *, fake: bool = True) -> int:
    """Count a step's operations."""
    return _counted(variant, setting, Rig.gradients, fake=fake)


def count_prepass(setting: Setting, *, fake: bool = True) -> int:
    """Count what scoring a batch by the student's entropy takes: its trunk forward and its head at valid positions."""
    return _counted(variant("se_kd_3x"), setting, _score, fake=fake)


def count_cache(setting: Setting, *, fake: bool = True) -> int:
    """Count what storing the teacher's draws for a batch takes: its trunk forward and its head at valid positions."""
    return _counted(variant("full_kd_chunked"), setting, _teach, fake=fake)


def se_kd_flops(setting: Setting, *, budget: float) -> int:
    """Return what one SE-KD step with an online teacher has to cost.

    Trunk forward and backward, one pass of the student's head to score, head forward and backward on the selected
    positions, the teacher's trunk, and its head on the selected positions.
    """
    pair = setting.pair
    scored = setting.batch_size * (setting.length - 1)
    selected = setting.batch_size * budget_size(setting.length - 1, budget)
    student_head = pair.vocab_size * int(pair.student.hidden_size)
    teacher_head = pair.vocab_size * int(pair.teacher.hidden_size)
    trunks = 3 * trunk_flops(pair.student, length=setting.length) + trunk_flops(pair.teacher, length=setting.length)
    heads = student_head * (2 * scored + 6 * selected) + 2 * teacher_head * selected
    return setting.micro_batches * (setting.batch_size * trunks + heads)


def table(variants: Iterable[Variant], setting: Setting) -> pd.DataFrame:
    """Return operations per token of training data for every variant, SE-KD 3X with what its cache takes.

    The cache holds the draws of the kept sequences; choosing those takes a pass of the student over all.
    """
    tokens = setting.batch_size * setting.length * setting.micro_batches
    counted = [(each.name, each.label, count(each, setting)) for each in variants]
    reference = next(flops for name, _, flops in counted if name == "full_kd_chunked")
    rows: list[tuple[str, str, float, float]] = []
    for name, label, flops in counted:
        rows.append((name, label, SHARE, SHARE * flops) if name == "se_kd_3x" else (name, label, 1.0, flops))
        if name == "se_kd_3x":
            build = (count_prepass(setting) + SHARE * count_cache(setting)) * setting.micro_batches
            rows.append(("se_kd_3x_build", "SE-KD 3X, building its cache first", SHARE, SHARE * flops + build))
    return pd.DataFrame(
        {
            "pair": setting.pair.name,
            "batch_size": setting.batch_size,
            "length": setting.length,
            "variant": name,
            "label": label,
            "share_of_sequences": share,
            "gflops_per_token": flops / tokens / 1e9,
            "fewer_than_full_kd_percent": 100.0 * (1.0 - flops / reference),
        }
        for name, label, share, flops in rows
    )


def _counted(variant: Variant, setting: Setting, run: Callable[[Rig], None], *, fake: bool) -> int:
    with shapes_only(fake=fake):
        rig = make_rig(variant, setting)
        with flop_counter() as counter:
            run(rig)
    return int(counter.get_total_flops())


@torch.no_grad()
def _score(rig: Rig) -> None:
    core, batch = rig.core, rig.batches[0]
    hidden = trunk(rig.student, batch.input_ids).flatten(0, 1)
    rows = Rows(student=hidden, teacher=None, targets=batch.targets.flatten()[batch.places], places=batch.places)
    head = head_of(rig.student, core.vocab_size)
    score_rows(("student_entropy",), core.objective.signal_function, rows, head, None, chunk=core.chunk)


@torch.no_grad()
def _teach(rig: Rig) -> None:
    core, batch = rig.core, rig.batches[0]
    assert core.teacher is not None, "a cache is built by a teacher"
    states = core.teacher.hidden(batch).flatten(0, 1)
    rows = Rows(
        student=states[:, :0], teacher=states, targets=batch.targets.flatten()[batch.places], places=batch.places
    )
    # A chunk's head product is what drawing from it takes, whichever function of the row comes after.
    score_rows(
        ("teacher_entropy",),
        core.objective.signal_function,
        rows,
        core.teacher.head,
        core.teacher.head,
        chunk=core.chunk,
    )
