"""The harness: grids of strategies, run as trials through one shared distillation core."""

import logging
import os

from harness.config import arithmetic

# Libraries read these when they are imported: nothing is ever reported about what runs here.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
arithmetic.begin()
# transformers imports torchao where it is installed, which says at length what it lacks for kernels not used here.
for name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)
