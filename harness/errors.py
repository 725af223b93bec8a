"""Errors that are the user's to fix: shown as one line on stderr, exit code 2."""

from strategies.registry import UnknownNameError, unknown

__all__ = ["UnknownNameError", "UserError", "unknown"]


class UserError(ValueError):
    """Bad input. The message names the thing, the value and what is allowed."""
