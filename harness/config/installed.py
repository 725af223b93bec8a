"""What is installed here, where a setting leaves the choice to that."""

import importlib

# Module and class of 8-bit AdamW, in the order they are looked for.
_EIGHT_BIT = (("torchao.optim", "AdamW8bit"), ("bitsandbytes.optim", "AdamW8bit"))


def eight_bit() -> tuple[str, str] | None:
    """Return module and class of the 8-bit AdamW that is installed, None if there is none."""
    for module, name in _EIGHT_BIT:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        return module, name
    return None
