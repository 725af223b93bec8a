"""What the project promises, beside what was measured."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd


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


def saving_percent(value: float, reference: float) -> float:
    """Return by how many percent a value is below a reference."""
    return 100.0 * (1.0 - value / reference)


def memory_targets(found: pd.DataFrame) -> list[Target]:
    """Return the targets of a memory table: the flat logits, and the paper's savings at B=2, L=512."""
    made = []
    for name in ("full_kd_chunked", "se_kd"):
        rows = found[(found["variant"] == name) & (found["optimizer"] == "none")]
        if len(rows):
            worst = rows.sort_values("beyond_floor_gib").iloc[-1]
            made.append(
                Target(
                    what=f"{name}: activations beyond the trunks' floor, GiB, worst of all settings "
                    f"(with the head's gradient: {worst['beyond_floor_with_head_gradient_gib']:.2f})",
                    measured=float(worst["beyond_floor_gib"]),
                    bound=0.3,
                    better="at most",
                )
            )
    keys = ["pair", "batch_size", "length", "micro_batches", "checkpointing", "optimizer"]
    for key, rows in found.groupby(keys, sort=False):
        setting = dict(zip(keys, key, strict=True))
        if (setting["pair"], setting["batch_size"], setting["length"]) != ("qwen3", 2, 512):
            continue
        peak = rows.set_index("variant")
        how = f"optimiser state {setting['optimizer']}, {setting['micro_batches']} micro-batch(es)"
        how += ", checkpointing" if setting["checkpointing"] else ""
        for column, what, bound in (("student_gib", "student", 28.1), ("total_gib", "student and teacher", 18.3)):
            size = peak[column].astype(float)
            dense = float(size["full_kd_dense"])
            most = saving_percent(float(size["floor"]), dense)
            made.append(
                Target(
                    what=f"SE-KD: less peak memory, {what}, % ({how}; with no logits at all: {most:.1f})",
                    measured=saving_percent(float(size["se_kd"]), dense),
                    bound=bound,
                    better="at least",
                )
            )
    return made


def flops_targets(found: pd.DataFrame, *, arithmetic: float) -> list[Target]:
    """Return the targets of an operations table.

    Args:
        found: see `harness.cost.bench.flops.table`.
        arithmetic: what an SE-KD step has to cost, in the table's unit.
    """
    named = found.set_index("variant")
    apart = 100.0 * abs(float(named["gflops_per_token"]["se_kd"]) / arithmetic - 1.0)
    fewer = named["fewer_than_full_kd_percent"]
    return [
        Target(what="SE-KD step: operations away from the arithmetic, %", measured=apart, bound=3.0, better="at most"),
        Target(
            what="SE-KD 3X reusing its cache: fewer operations than Full KD with its teacher, %",
            measured=float(fewer["se_kd_3x"]),
            bound=88.0,
            better="at least",
        ),
        Target(
            what="SE-KD 3X building its cache: fewer operations than Full KD with its teacher, %",
            measured=float(fewer["se_kd_3x_build"]),
            bound=62.0,
            better="at least",
        ),
    ]


def step_targets(found: pd.DataFrame) -> list[Target]:
    """Return the targets of a table of seconds, one pair each; ratios are to the dense flow with a cached teacher."""
    made = []
    for pair, rows in found.groupby("pair", sort=False):
        named = rows.set_index("variant")["speedup_median"]
        for name, what, bound in (
            ("se_kd_cached", "SE-KD 20%, cached teacher", 1.5),
            ("full_kd_cached", "Full KD chunked, cached teacher", 1.0),
        ):
            made.append(
                Target(
                    what=f"{what}: times faster than the default flow ({pair})",
                    measured=float(named[name]),
                    bound=bound,
                    better="at least",
                )
            )
    return made


def grid_targets(found: pd.DataFrame) -> list[Target]:
    """Return the target of every row of a grid table."""
    return [
        Target(
            what=f"{row['strategies']}-strategy grid over the sum of its student-only work, {row['unit']} "
            f"({row['pair']}, {row['seeds']} seed(s); teacher, once: {row['teacher_once_share']:.3f}, "
            f"its head, for every strategy: {row['teacher_head_share']:.3f})",
            measured=float(row["ratio"]),
            bound=1.15,
            better="at most",
        )
        for row in found.to_dict("records")
    ]
