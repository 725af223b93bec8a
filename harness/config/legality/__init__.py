"""What may not be, and why: one table of rules that the planner, a run and the library's own step read.

A combination that cannot mean what it says is refused before anything runs.
"""

from harness.config.legality.components import components, teacher_reader
from harness.config.legality.parts import check_method
from harness.config.legality.resources import check_gpus, check_resources
from harness.config.legality.step import check_single_step
from harness.config.legality.workload import (
    NO_FACTS,
    Facts,
    check,
    check_diagnostics,
    check_workload,
    kept_samples,
    num_sequences,
)
from harness.config.strategy import Method, Strategy

__all__ = [
    "NO_FACTS",
    "Facts",
    "check",
    "check_diagnostics",
    "check_gpus",
    "check_resources",
    "check_single_step",
    "check_strategy",
    "check_workload",
    "components",
    "kept_samples",
    "num_sequences",
    "teacher_reader",
]


def check_strategy(strategy: Strategy, *, where: str = "strategy") -> None:
    """Refuse a strategy, named `where` in an error, that cannot mean what it says, whatever it is applied to.

    Raises:
        UserError: the combination and the reason, or an option out of its range.
        UnknownNameError: a component nobody registered.
    """
    if isinstance(strategy, Method):
        check_method(strategy, where)
