"""What one step on ready-made tensors, in a training loop of one's own, cannot serve."""

from harness.config.legality.rule import Rule, enforce
from harness.config.strategy import Method

_SINGLE_STEP: tuple[Rule[Method], ...] = (
    Rule(
        lambda method: method.samples is not None,
        "chooses training sequences, which is done before training: choose your data set's",
    ),
    Rule(
        lambda method: method.position.frozen,
        "scores by the student before training (position.frozen): leave it out",
    ),
    Rule(
        lambda method: method.feature is not None,
        "has a branch on hidden states, whose projection is trained along",
    ),
    Rule(
        lambda method: method.stored,
        lambda method: f"reads stored targets (teacher: {method.teacher}): leave teacher out",
    ),
    Rule(
        lambda method: method.preference is not None,
        "sets sequences against each other in pairs that a training loop has to make",
    ),
    Rule(
        lambda method: method.flow == "dense",
        "is the memory baseline flow: dense: leave flow out",
    ),
)


def check_single_step(method: Method) -> None:
    """Refuse a method that one step on ready-made tensors cannot serve.

    Raises:
        UserError: what it does besides.
    """
    enforce(_SINGLE_STEP, method, f"strategy {method.label!r} ")
