"""The terminal: how wide it is, and the command line that was typed."""

import os
import shlex
import sys

from rich.console import Console


def console() -> Console:
    """Return a console as wide as the terminal; a pipe or a log file has no width and gets a generous one."""
    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=180)


def command_line() -> str:
    """Return the command as it was typed."""
    return shlex.join(["harness", *sys.argv[1:]])
