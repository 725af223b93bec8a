"""What the project promises, beside what was measured."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from harness.cost.bench.memory import SETTING


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bound and the figure that it is set for.

    Attributes:
        what: the figure, with its unit.
        measured: its value.
        bound: what it has to reach.
        better: whether it has to be at most or at least the bound.
    """

    what: str
    measured: float
    bound: float
    better: Literal["at most", "at least"]

    @property
    def met(self) -> bool:
        """Whether the bound is reached."""
        return self.measured <= self.bound if self.better == "at most" else self.measured >= self.bound


def _most(what: str, measured: float, bound: float) -> Target:
    return Target(what=what, measured=float(measured), bound=bound, better="at most")


def _least(what: str, measured: float, bound: float) -> Target:
    return Target(what=what, measured=float(measured), bound=bound, better="at least")


def memory_targets(found: pd.DataFrame) -> list[Target]:
    """Return the targets of a memory table: the flat logits, and the paper's savings at B=2, L=512."""
    made = []
    for name in ("full_kd_chunked", "se_kd"):
        rows = found[(found["variant"] == name) & (found["optimizer"] == "none")].sort_values("beyond_floor_gib")
        if len(rows):
            worst, with_head = rows.iloc[-1][["beyond_floor_gib", "beyond_floor_with_head_gradient_gib"]]
            what = f"{name}: activations beyond the trunks' floor, GiB, worst of all settings"
            made.append(_most(f"{what} (with the head's gradient: {with_head:.2f})", worst, 0.3))
    for key, rows in found.groupby(SETTING, sort=False):
        pair, batch_size, length, micro_batches, checkpointing, optimizer = key
        if (pair, batch_size, length) != ("qwen3", 2, 512):
            continue
        how = f"optimiser state {optimizer}, {micro_batches} micro-batch(es)"
        how += ", checkpointing" if checkpointing else ""
        for column, what, bound in (("student_gib", "student", 28.1), ("total_gib", "student and teacher", 18.3)):
            size = rows.set_index("variant")[column]
            saving = 100.0 * (1.0 - size / size["full_kd_dense"])
            what = f"SE-KD: less peak memory, {what}, % ({how}; with no logits at all: {saving['floor']:.1f})"
            made.append(_least(what, saving["se_kd"], bound))
    return made


def flops_targets(found: pd.DataFrame, *, arithmetic: float) -> list[Target]:
    """Return the targets of an operations table; `arithmetic`: what an SE-KD step has to cost, in its unit."""
    named = found.set_index("variant")
    fewer, full = named["fewer_than_full_kd_percent"], "fewer operations than Full KD with its teacher, %"
    apart = 100.0 * abs(named["gflops_per_token"]["se_kd"] / arithmetic - 1.0)
    return [
        _most("SE-KD step: operations away from the arithmetic, %", apart, 3.0),
        _least(f"SE-KD 3X reusing its cache: {full}", fewer["se_kd_3x"], 88.0),
        _least(f"SE-KD 3X building its cache: {full}", fewer["se_kd_3x_build"], 62.0),
    ]


def step_targets(found: pd.DataFrame) -> list[Target]:
    """Return the targets of a table of seconds, two for each pair."""
    made = []
    for pair, rows in found.groupby("pair", sort=False):
        speedup, than = rows.set_index("variant")["speedup_median"], f"times faster than the default flow ({pair})"
        made.append(_least(f"SE-KD 20%, cached teacher: {than}", speedup["se_kd_cached"], 1.5))
        made.append(_least(f"Full KD chunked, cached teacher: {than}", speedup["full_kd_cached"], 1.0))
    return made


def grid_targets(found: pd.DataFrame) -> list[Target]:
    """Return the target of every row of a grid table."""
    return [
        _most(
            f"{row['strategies']}-strategy grid over the sum of its student-only work, {row['unit']} "
            f"({row['pair']}, {row['seeds']} seed(s); teacher, once: {row['teacher_once_share']:.3f}, "
            f"its head, for every strategy: {row['teacher_head_share']:.3f})",
            row["ratio"],
            1.15,
        )
        for row in found.to_dict("records")
    ]
