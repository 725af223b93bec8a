"""How the memory of a step grows with the positions of a batch: counted on fake tensors, at any size."""

from collections.abc import Callable, Sequence

import pandas as pd

from harness.cost.bench.memory import table
from harness.cost.rig import Setting
from harness.cost.variants import variant

VARIANTS = ("floor", "full_kd_dense", "full_kd_chunked", "se_kd")

# (sequences, tokens of each): up to 65536 positions, by more sequences and by longer ones.
SIZES = ((1, 512), (2, 512), (4, 512), (8, 512), (16, 512), (4, 2048), (16, 2048), (16, 4096))


def measure(settings: Sequence[Setting], *, on_setting: Callable[[int, int], None] | None = None) -> pd.DataFrame:
    """Return the memory table of some sizes, with the number of positions in a column of its own."""
    tables = []
    for number, setting in enumerate(settings):
        tables.append(table([variant(name) for name in VARIANTS], variant("floor"), [setting]))
        if on_setting is not None:
            on_setting(number + 1, len(settings))
    found = pd.concat(tables, ignore_index=True)
    found = found[found["optimizer"] == "none"].reset_index(drop=True)
    found.insert(3, "positions", found["batch_size"] * found["length"])
    return found
