"""A rule: what must not be, and the reason that is shown."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from harness.config.errors import UserError

S = TypeVar("S")


@dataclass(frozen=True)
class Rule(Generic[S]):
    """One row of a table of rules.

    Attributes:
        broken: tells of what the table is about whether it breaks the rule.
        reason: says why that cannot be, and what to do.
    """

    broken: Callable[[S], object]
    reason: Callable[[S], str] | str


def enforce(rules: Iterable[Rule[S]], subject: S, before: str) -> None:
    """Refuse the first rule that is broken; `before`, where to look, stands before its reason.

    Raises:
        UserError: the reason.
    """
    for rule in rules:
        if rule.broken(subject):
            raise UserError(before + (rule.reason if isinstance(rule.reason, str) else rule.reason(subject)))
