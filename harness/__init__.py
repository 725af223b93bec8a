"""The harness: grids of strategies, run as trials through one shared distillation core."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import arithmetic

if TYPE_CHECKING:
    from harness.analysis.data import ReportData

# Libraries read these when they are imported: nothing is ever reported about what runs here.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
arithmetic.begin()
# transformers imports torchao where it is installed, which says at length what it lacks for kernels not used here.
for name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)


def load(folder: Path | str) -> "ReportData":
    """Read a report, or a grid's results, as data frames: metrics, items, comparisons, costs, curves; needs no torch.

    Args:
        folder: e.g. reports/position_axis, or results/position_axis.

    Raises:
        UserError: there is no manifest, or a file is unreadable; names it and the reason.
    """
    from harness.analysis.data import read_data

    return read_data(Path(folder))
