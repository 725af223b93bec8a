"""Seconds of a step of every variant: real models, one process, all variants in every round, in turn."""

from collections.abc import Callable, Iterable

import pandas as pd
import torch

from harness.cost.bench.memory import adamw
from harness.cost.rig import Setting, make_rig
from harness.cost.variants import Variant

# Ratios are to this variant, in the same round.
REFERENCE = "full_kd_dense_cached"


def measure(
    variants: Iterable[Variant], setting: Setting, *, rounds: int, on_round: Callable[[int], None] = lambda _: None
) -> pd.DataFrame:
    """Time variants side by side.

    Every round runs every variant once, beginning with another one each time, so that what the machine does besides
    meets all of them. One round before the first warms up.

    Args:
        variants: what to time, `REFERENCE` among them.
        setting: what to time it on.
        rounds: rounds that count.
        on_round: called after each with rounds done.

    Returns:
        One row per variant: median, least and most seconds; how many times faster than the reference, the median, least
        and most over rounds.
    """
    rigs = [make_rig(each, setting) for each in variants]
    timed = [(rig, adamw(rig.core.parameters), list[float]()) for rig in rigs]
    for rig, optimiser, _ in timed:
        rig.step(optimiser)
    for number in range(rounds):
        first = number % len(timed)
        for rig, optimiser, seconds in timed[first:] + timed[:first]:
            seconds.append(rig.step(optimiser))
        on_round(number + 1)
    taken = {rig.variant.name: (rig.variant.label, seconds) for rig, _, seconds in timed}
    return summary(taken, setting, threads=torch.get_num_threads())


def summary(seconds: dict[str, tuple[str, list[float]]], setting: Setting, *, threads: int) -> pd.DataFrame:
    """Turn seconds by round into the table, ratios taken within rounds."""
    reference = pd.Series(seconds[REFERENCE][1])
    return pd.DataFrame(
        {
            "pair": setting.pair.name,
            "batch_size": setting.batch_size,
            "length": setting.length,
            "threads": threads,
            "rounds": len(taken),
            "variant": name,
            "label": label,
            **spread("seconds", pd.Series(taken)),
            **spread("speedup", reference / pd.Series(taken)),
        }
        for name, (label, taken) in seconds.items()
    )


def spread(name: str, values: "pd.Series[float]") -> dict[str, float]:
    """Return the columns that say how a measured figure varies over rounds."""
    return {f"{name}_median": values.median(), f"{name}_min": values.min(), f"{name}_max": values.max()}
