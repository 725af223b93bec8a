"""Which of a method's readings do nothing or cannot be: a frozen mask, cross-entropy everywhere."""

from harness.config.base import Choice
from harness.config.legality.rule import Rule, enforce
from harness.config.strategy import Method
from strategies.registry import CRITERIA, SIGNALS, STUDENT_INPUTS, order_signals, raw_inputs

_FROZEN: tuple[Rule[Method], ...] = (
    Rule(
        lambda method: not _ranks_by_student(method),
        lambda method: (
            "position.frozen: "
            f"{f'signal {method.position.signal.name!r}' if method.position.signal else 'no signal'} reads no student, "
            "so it would do nothing"
        ),
    ),
    Rule(
        lambda method: _scored_besides(method),
        lambda method: (
            "position.frozen scores by the student before training, and "
            f"{_scored_besides(method)[0]} reads signals of the student in training"
        ),
    ),
)

_CROSS_ENTROPY: tuple[Rule[Method], ...] = (
    Rule(
        lambda method: method.kd_weight in (0, 1),
        lambda method: (
            f"cross_entropy: all says where the rest of the loss is taken, and lambda {method.kd_weight:g} leaves "
            f"{'no rest' if method.kd_weight == 1 else 'nothing else: use criterion cross_entropy and policy all'}"
        ),
    ),
    Rule(
        lambda method: method.normaliser not in ("sequence_mean", "all_positions"),
        lambda method: (
            "cross_entropy: all is a mean of its own over each sequence, so normaliser must be sequence_mean or "
            f"all_positions, not {method.normaliser}"
        ),
    ),
    Rule(
        lambda method: method.flow == "dense",
        "cross_entropy: all is computed beside the selected rows: use flow: chunked",
    ),
)


def check_readings(method: Method, before: str) -> None:
    """Refuse a reading that cannot mean what it says; `before` begins the error.

    Raises:
        UserError: the setting and the reason.
    """
    if method.position.frozen:
        enforce(_FROZEN, method, before)
    if method.cross_entropy is not None:
        enforce(_CROSS_ENTROPY, method, before)


def _ranks_by_student(method: Method) -> bool:
    """Tell whether the position's signal, or one it is made of, reads the student."""
    signal = method.position.signal
    names = order_signals([signal.name]) if signal is not None else ()
    return any(raw_inputs(SIGNALS[name]) & STUDENT_INPUTS for name in names)


def _scored_besides(method: Method) -> list[str]:
    """Name the parts of a method, besides the policy, that read signals."""
    parts = {
        f"criterion {method.criterion.name!r}": any(name in SIGNALS for name in CRITERIA[method.criterion.name].inputs),
        "temperature": isinstance(method.temperature, Choice),
        "feature": method.feature is not None and method.feature.signal is not None,
        "rollout.preference": method.preference is not None,
    }
    return [name for name, reads in parts.items() if reads]
