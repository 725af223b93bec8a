"""Names that nobody registered, and the nearest that somebody did."""

import difflib
from collections.abc import Iterable


class UnknownNameError(ValueError):
    """A name nobody registered."""


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown name, with the nearest known one.

    Args:
        kind: what was looked up, e.g. "signal".
        name: what was asked for.
        allowed: every known name.
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownNameError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")
