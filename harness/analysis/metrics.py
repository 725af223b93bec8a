"""What is known about each measured number: its name, its unit, which way is better, how it is printed."""

import math
from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower"]

# better, worse: the corrected paired interval excludes zero. different: it does, but neither way is better. untested:
# fewer than two pairs, or a value that is not finite.
Verdict = Literal["better", "worse", "different", "not distinguishable", "untested"]


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """How one number is read and printed."""

    key: str  # its name in a record or in the trial frame
    title: str  # its name in tables and figures
    unit: str = ""  # printed after the title, empty for a pure number
    direction: Direction | None = None  # which way is better, None where neither is
    scale: float = 1.0  # factor from the stored value to the printed one (100 for shares shown in percent)
    decimals: int | None = None  # decimals of a printed value; None prints three significant digits
    spread_decimals: int | None = None  # decimals of a printed standard deviation or difference
    cost: bool = False  # True for what a trial cost; costs are reported but never tested

    @property
    def heading(self) -> str:
        """Title with unit, e.g. "Accuracy (%)"."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def better(self) -> str:
        """Which way is better in words, empty where neither is."""
        return f"{self.direction} is better" if self.direction else ""

    def show(self, value: float) -> str:
        """Print a value in the printed unit; a value that is not finite is printed as inf, -inf or nan."""
        return _fixed(value * self.scale, self.decimals)

    def show_spread(self, value: float) -> str:
        """Print a standard deviation in the printed unit."""
        return _fixed(value * self.scale, self.spread_decimals)

    def show_difference(self, value: float) -> str:
        """Print a difference in the printed unit, always with its sign."""
        text = _fixed(value * self.scale, self.spread_decimals)
        return text if text.startswith("-") or not math.isfinite(value) else f"+{text}"


def _fixed(value: float, decimals: int | None) -> str:
    if not math.isfinite(value):
        return str(value)
    if decimals is None:
        return f"{value:.3g}"
    text = f"{value:.{decimals}f}"
    # -0.00001 rounds to "-0.000": a sign without a digit behind it.
    return text.removeprefix("-") if float(text) == 0 else text


def _share(key: str, title: str, direction: Direction) -> MetricInfo:
    # The paper prints shares with one decimal and their standard deviation with two.
    return MetricInfo(key=key, title=title, unit="%", direction=direction, scale=100.0, decimals=1, spread_decimals=2)


def _nats(key: str, title: str, unit: str) -> MetricInfo:
    return MetricInfo(key=key, title=title, unit=unit, direction="lower", decimals=4, spread_decimals=4)


def _cost(key: str, title: str, unit: str, decimals: int | None, *, scale: float = 1.0) -> MetricInfo:
    return MetricInfo(
        key=key, title=title, unit=unit, scale=scale, decimals=decimals, spread_decimals=decimals, cost=True
    )


QUALITY: tuple[MetricInfo, ...] = (
    _share("accuracy", "Accuracy", "higher"),
    _share("adherence", "Adherence", "higher"),
    MetricInfo(key="perplexity", title="Perplexity", direction="lower", decimals=2, spread_decimals=2),
    _share("ece", "ECE", "lower"),
    _share("token_ece", "Token ECE", "lower"),
    _nats("heldout_loss", "Held-out loss", "nats/token"),
    _nats("bits_per_byte", "Bits per byte", "bits"),
    _nats("teacher_kl", "KL to teacher", "nats"),
    _share("teacher_agreement", "Teacher agreement", "higher"),
)

COSTS: tuple[MetricInfo, ...] = (
    _cost("realised_fraction", "Realised", "%", 1, scale=100.0),
    _cost("classes_per_position", "Classes", "per position", 1),
    _cost("wall_train_s", "Train", "s", 1),
    _cost("wall_total_s", "Total", "s", 1),
    _cost("peak_gib", "Peak memory", "MiB", 1, scale=1024.0),
    _cost("flops_total", "FLOPs", "", None),
)

# Families of shares: the part before the slash, its title and which way is better. What follows the slash is a task,
# but for adherence: there it is how prompts or instructions are judged.
_FAMILIES: dict[str, tuple[str, Direction]] = {
    "accuracy": ("Accuracy", "higher"),
    "accuracy_norm": ("Accuracy by length", "higher"),
    "accuracy_flexible": ("Accuracy, any last number", "higher"),
    "adherence": ("Adherence", "higher"),
    "ece": ("ECE", "lower"),
}

_KNOWN = {info.key: info for info in QUALITY + COSTS}


def describe(key: str) -> MetricInfo:
    """Return what is known about a metric.

    A member of a family, e.g. `accuracy/<task>`, is a share like the family itself. Any other unknown key stands for
    itself: no unit, no better direction, three significant digits.
    """
    if key in _KNOWN:
        return _KNOWN[key]
    family, _, member = key.partition("/")
    if member and family in _FAMILIES:
        title, direction = _FAMILIES[family]
        return _share(key, f"{title}, {member.replace('_', ' ') if family == 'adherence' else member}", direction)
    return MetricInfo(key=key, title=key)
