"""How a grid's rows are tuned: the same draws, seeds and split for each row that trains, so budgets are equal."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from harness.config.base import Frozen
from harness.config.claims import QUALITIES
from harness.config.overrides import parse_row

Ends = tuple[Annotated[float, Field(gt=0)], float]

_PRIMES = (2, 3, 5, 7, 11, 13)
# Words for what a search is steered by, none of which a grid may have.
_STEERED = ("search", "searcher", "scheduler", "asha", "optuna")


class Space(Frozen):
    """The values of one setting, from one end to the other.

    Attributes:
        log_uniform: ends of a setting whose logarithm is drawn evenly.
        uniform: ends of a setting that is drawn evenly.
    """

    log_uniform: Ends | None = None
    uniform: Ends | None = None

    @model_validator(mode="after")
    def _one(self) -> "Space":
        if (self.log_uniform is None) == (self.uniform is None):
            raise ValueError("a setting has log_uniform or uniform, and its two ends, e.g. {log_uniform: [1e-4, 1e-2]}")
        low, high = self.log_uniform or self.uniform or (0.0, 0.0)
        if low >= high:
            raise ValueError(f"the ends [{low:g}, {high:g}] are not in ascending order")
        return self

    def at(self, share: float) -> float:
        """Return the value at a share of the way between the ends, to three digits."""
        if self.log_uniform is not None:
            low, high = self.log_uniform
            return float(f"{low * (high / low) ** share:.3g}")
        low, high = self.uniform or (0.0, 1.0)
        return float(f"{low + (high - low) * share:.3g}")


class Tune(Frozen):
    """What every row that trains is tuned by before it is reported.

    Attributes:
        over: settings of the workload, by dotted path, in which rows may differ.
        trials: draws for each row; all rows have the same.
        seeds: of the tuning trials, apart from those that are reported.
        choose: the metric by whose mean over these seeds a row's draw is chosen, on the validation split.
    """

    over: dict[str, Space] = Field(min_length=1, max_length=len(_PRIMES))
    trials: Annotated[int, Field(ge=2)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    choose: str = "heldout_loss"

    @model_validator(mode="before")
    @classmethod
    def _not_steered(cls, value: Any) -> Any:
        for word in _STEERED if isinstance(value, dict) else ():
            if word in value:
                raise ValueError(
                    f"{word} is not for numbers that are reported: every row has the same draws, each run to its end, "
                    "because rankings flip before the rate has decayed (arXiv:2509.02046)"
                )
        return value

    @model_validator(mode="after")
    def _sensible(self) -> "Tune":
        if self.choose.partition("/")[0] not in QUALITIES:
            raise ValueError(f"choose is {self.choose!r}, which is none of {', '.join(QUALITIES)}")
        parse_row(dict.fromkeys(self.over), where="tune.over")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds names one twice: {list(self.seeds)}")
        return self

    def draws(self) -> list[dict[str, float]]:
        """Return the settings of each trial: an even grid of one setting, a Halton sequence of several."""
        if len(self.over) == 1:
            ((path, space),) = self.over.items()
            return [{path: space.at(number / (self.trials - 1))} for number in range(self.trials)]
        spaces = list(zip(self.over.items(), _PRIMES, strict=False))
        return [
            {path: space.at(_halton(number, base)) for (path, space), base in spaces}
            for number in range(1, self.trials + 1)
        ]


def _halton(number: int, base: int) -> float:
    """Return the radical inverse: a number's digits in a base, mirrored at the point."""
    share, scale = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        scale /= base
        share += digit * scale
    return share
