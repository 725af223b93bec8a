"""Seconds of a step of every variant: real models, one process, all variants in every round, in turn."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pandas as pd
import torch

from harness.cost.rig import Rig, Setting, make_rig
from harness.cost.variants import Variant

# Ratios are to this variant, in the same round.
REFERENCE = "full_kd_dense_cached"


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A variant on the clock.

    Attributes:
        rig: its step.
        optimiser: the student's.
        seconds: one number per round.
    """

    rig: Rig
    optimiser: torch.optim.Optimizer
    seconds: list[float] = field(default_factory=list)

    def run(self) -> float:
        """Take one whole training step, gradient clipping and optimiser included; return its seconds."""
        parameters = list(self.rig.student.parameters())
        _wait(self.rig)
        started = time.perf_counter()
        self.optimiser.zero_grad(set_to_none=True)
        self.rig.gradients()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimiser.step()
        _wait(self.rig)
        return time.perf_counter() - started


def measure(
    variants: Iterable[Variant],
    setting: Setting,
    *,
    rounds: int,
    on_round: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Time variants side by side.

    Every round runs every variant once, beginning with another one each time, so that what the machine does besides
    meets all of them. One round before the first warms up.

    Args:
        variants: what to time, `REFERENCE` among them.
        setting: what to time it on.
        rounds: rounds that count.
        on_round: called after each with rounds done and in all.

    Returns:
        One row per variant: median, least and most seconds; how many times faster than the reference, the median, least
        and most over rounds.
    """
    timed = [_timed(each, setting) for each in variants]
    for each in timed:
        each.run()
    for number in range(rounds):
        first = number % len(timed)
        for each in timed[first:] + timed[:first]:
            each.seconds.append(each.run())
        if on_round is not None:
            on_round(number + 1, rounds)
    return summary(
        {each.rig.variant.name: (each.rig.variant.label, each.seconds) for each in timed},
        setting,
        threads=torch.get_num_threads(),
    )


def summary(seconds: dict[str, tuple[str, list[float]]], setting: Setting, *, threads: int) -> pd.DataFrame:
    """Turn seconds by round into the table, ratios taken within rounds."""
    reference = seconds[REFERENCE][1]
    rows = []
    for name, (label, taken) in seconds.items():
        speedup = [theirs / ours for theirs, ours in zip(reference, taken, strict=True)]
        rows.append(
            {
                "pair": setting.pair.name,
                "batch_size": setting.batch_size,
                "length": setting.length,
                "threads": threads,
                "rounds": len(taken),
                "variant": name,
                "label": label,
                "seconds_median": statistics.median(taken),
                "seconds_min": min(taken),
                "seconds_max": max(taken),
                "speedup_median": statistics.median(speedup),
                "speedup_min": min(speedup),
                "speedup_max": max(speedup),
            }
        )
    return pd.DataFrame(rows)


def _timed(variant: Variant, setting: Setting) -> Timed:
    rig = make_rig(variant, setting)
    return Timed(rig=rig, optimiser=torch.optim.AdamW(rig.student.parameters(), lr=1e-5, fused=True))


def _wait(rig: Rig) -> None:
    if rig.student.device.type == "cuda":
        torch.cuda.synchronize(rig.student.device)
