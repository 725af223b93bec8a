"""The terminal: how wide it is, and the command line that was typed."""

import os
import shlex
import sys
from collections.abc import Mapping

from rich.console import Console


def console() -> Console:
    """Return a console as wide as the terminal; a pipe or a log file has no width and gets a generous one."""
    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=180)


def command_line(*, without: Mapping[str, bool] | None = None) -> str:
    """Return the command as it was typed.

    Args:
        without: options to leave out, with whether a value follows them.
    """
    left, kept = list(sys.argv[1:]), ["harness"]
    while left:
        name, equals, _ = (word := left.pop(0)).partition("=")
        if name not in (without or {}):
            kept.append(word)
        elif (without or {})[name] and not equals:
            left = left[1:]
    return shlex.join(kept)
