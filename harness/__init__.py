"""The harness: grids of strategies, run as trials through one shared distillation core."""

import os

from harness.config import arithmetic

# Libraries read these when they are imported: nothing is ever reported about what runs here.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
arithmetic.begin()
