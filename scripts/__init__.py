"""Scripts that made what ships; they need a checkout."""

import harness as _harness  # noqa: F401 - pins the arithmetic before a script imports torch
