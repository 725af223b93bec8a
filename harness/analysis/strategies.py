"""What a row's strategy is, read from its record: which axes select, by what, how much, and what is compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Regime = Literal["none", "off_policy", "on_policy"]


@dataclass(frozen=True, kw_only=True)
class Named:
    """A registered component and the options the grid sets on it."""

    name: str
    options: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        """Name and options, e.g. "rs (draws 64)"."""
        told = ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in self.options
        )
        return f"{self.name} ({told})" if told else self.name


@dataclass(frozen=True, kw_only=True)
class RowStrategy:
    """One strategy."""

    model: str  # whose scores these are, student or teacher
    trained: bool  # False for a model as it is
    # on_policy if training text comes from the student (the record's `rollout`), none if nothing is trained
    regime: Regime
    signal: Named | None = None  # what scores a position; None where nothing does
    policy: Named | None = None  # how scores become weights; None if nothing is trained
    budget: float | None = None  # share of positions, in (0, 1]; None for a policy without one
    classes: Named | None = None  # the reduction of the teacher's distribution; None where it is whole
    sample_signal: Named | None = None  # what scores a sequence
    sample_policy: Named | None = None  # how sequences are chosen; None where all are used
    sample_budget: float | None = None  # share of sequences, in (0, 1]
    criterion: Named | None = None  # how rows are compared; None if nothing is trained
    source: str = ""  # the paper it comes from, and what else the grid says of it
    normaliser: str = "sequence_mean"  # what the weighted sum of losses is divided by
    # whether what is neither an axis nor a normaliser is as the paper has it: lambda 1, temperature 1
    plain: bool = True
    flow: str = "chunked"  # chunked or dense
    teacher: str = "cached"  # where the teacher's side comes from

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that select, of position, class and sample."""
        found = {
            "position": self.policy is not None and self.policy.name != "all",
            "class": self.classes is not None,
            "sample": self.sample_policy is not None,
        }
        return tuple(name for name, used in found.items() if used)

    @property
    def reconstructed(self) -> bool:
        """Whether its source says that it was not written from the paper's own equations."""
        return "reconstructed" in self.source


def method(strategy: Mapping[str, Any]) -> RowStrategy:
    """Read a strategy as a record holds it."""
    if not strategy.get("train", True):
        return RowStrategy(
            model=strategy.get("model", "student"), trained=False, regime="none", source=strategy.get("source", "")
        )
    position, samples = strategy.get("position") or {}, strategy.get("samples") or {}
    return RowStrategy(
        model=strategy.get("model", "student"),
        trained=True,
        regime="off_policy" if strategy.get("rollout") is None else "on_policy",
        signal=_component(position.get("signal")),
        policy=_component(position.get("policy")),
        budget=position.get("budget"),
        classes=_component(strategy.get("classes")),
        sample_signal=_component(samples.get("signal")),
        sample_policy=_component(samples.get("policy")),
        sample_budget=samples.get("budget"),
        criterion=_component(strategy.get("criterion")),
        source=strategy.get("source", ""),
        normaliser=strategy.get("normaliser", "sequence_mean"),
        plain=(
            strategy.get("lambda", 1.0) == 1.0
            and _constant_one(strategy.get("temperature", 1.0))
            and not strategy.get("feature")
            and not (position.get("frozen") or samples.get("filtered"))
        ),
        flow=strategy.get("flow", "chunked"),
        teacher=strategy.get("teacher", "cached"),
    )


def _component(value: Mapping[str, Any] | str | None) -> Named | None:
    if value is None:
        return None
    if isinstance(value, str):
        return Named(name=value)
    return Named(name=value["name"], options=tuple(sorted(value.get("options", {}).items())))


def _constant_one(temperature: object) -> bool:
    if isinstance(temperature, Mapping):
        return temperature.get("name") == "constant" and temperature.get("options", {}).get("value", 1.0) == 1.0
    return temperature == 1.0
