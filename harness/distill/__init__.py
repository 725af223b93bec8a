"""The shared distillation core: score, select, compare, step. Every strategy runs through the same lines.

`NUMERICS` is part of every trial's identity. Raise it when a change to the core changes any number it produces; the
golden test fails until it is.
"""

NUMERICS = 3
