"""Errors that are the user's to fix: shown as one line on stderr, exit code 2."""

from strategies.names import UnknownNameError, unknown

__all__ = ["UnknownNameError", "UserError", "unknown"]


class UserError(ValueError):
    """Bad input. The message names the thing, the value and what is allowed."""


def one_line(text: str) -> str:
    """Show characters that move a terminal's cursor, or hide what is printed, as escapes: input may hold any."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def first_line(error: BaseException | str, *, empty: str | None = None) -> str:
    """Return the first line of what an error says; `empty` where it says nothing, which is its class if left out."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__ if empty is None else empty
