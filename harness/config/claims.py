"""What a grid asks, as data: claims that a report judges, each against its own margin or factor."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.config.base import Frozen, Slug

# What a claim may be about. A task's own metric is written METRIC/TASK, e.g. accuracy/hellaswag.
QUALITIES = (
    *("accuracy", "adherence", "perplexity", "ece", "token_ece", "heldout_loss", "bits_per_byte", "teacher_kl"),
    "teacher_agreement",
)
COSTS = ("flops", "seconds", "memory", "bytes")

Margin = Annotated[float, Field(gt=0)]
# What each relation needs besides id, says and metric.
_NEEDS = {
    "better": {"row", "against"},
    "worse": {"row", "against"},
    "differs": {"row", "against"},
    "not_worse": {"row", "against", "margin"},
    "order": {"order"},
    "cheaper": {"row", "against", "factor"},
}


class Claim(Frozen):
    """A statement about a grid's rows that its report finds to hold, contradicted or undecided.

    Attributes:
        id: short, unique within the grid.
        says: the claim in a sentence.
        source: paper and section, or "ours".
        metric: one of `QUALITIES` or METRIC/TASK; for `cheaper` one of `COSTS`.
        relation: better, worse, differs (of `row` compared with `against`); not_worse (by less than `margin`, in the
            metric's own unit); order (each of `order` better than the next); cheaper (by `factor` at least).
        published: the figure that the source states, in words; empty if there is none.
    """

    id: Slug
    says: str
    source: str = "ours"
    metric: str
    relation: Literal["better", "worse", "differs", "not_worse", "order", "cheaper"]
    row: str | None = None
    against: str | None = None
    order: tuple[str, ...] = ()
    margin: Margin | None = None
    factor: Annotated[float, Field(gt=1)] | None = None
    published: str = ""

    @model_validator(mode="after")
    def _whole(self) -> "Claim":
        given = {name for name in ("row", "against", "order", "margin", "factor") if getattr(self, name)}
        needed = _NEEDS[self.relation]
        if given != needed:
            raise ValueError(
                f"claim {self.id!r}: relation {self.relation} takes {', '.join(sorted(needed))}; "
                f"given: {', '.join(sorted(given)) or 'nothing'}"
            )
        if self.relation == "order" and len(set(self.order)) < max(2, len(self.order)):
            raise ValueError(f"claim {self.id!r}: order lists at least two different rows, not {list(self.order)}")
        known = COSTS if self.relation == "cheaper" else QUALITIES
        if self.metric.partition("/")[0] not in known:
            raise ValueError(f"claim {self.id!r}: metric {self.metric!r} is none of {', '.join(known)}")
        return self

    @property
    def rows(self) -> tuple[str, ...]:
        """The labels it speaks of."""
        return self.order or tuple(label for label in (self.row, self.against) if label is not None)
