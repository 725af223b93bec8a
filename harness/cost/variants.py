"""The rows of the paper's efficiency tables, as data."""

from dataclasses import dataclass
from typing import Literal

from harness.config import Method
from harness.config.errors import unknown
from harness.config.expand import method
from harness.cost.outside import installed

Owner = Literal["student", "teacher"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of distilling.

    Attributes:
        name: a slug.
        label: the row's name.
        strategy: what is computed.
        heads: None for the harness's own core. A set names the models whose head is applied to the selected rows only,
            in the straightforward flow that leaves everything else to autograd (`harness.cost.plain`).
        streamed: whether that flow scores in a pass of its own, a chunk at a time and without gradient, though the
            student's logits are there for the loss (the paper's chunked-streaming flow).
        outside: the library whose loss stands in for the core's (`harness.cost.outside`), None for none.
        published: the row of the paper's memory table that it stands beside, if there is one.
    """

    name: str
    label: str
    strategy: Method
    heads: frozenset[Owner] | None = None
    streamed: bool = False
    outside: str | None = None
    published: str | None = None

    @property
    def trunk_only(self) -> bool:
        """Whether nothing but the trunks runs."""
        return self.name == "floor"


def _row(
    name: str,
    label: str,
    preset: str,
    teacher: str,
    published: str | None = None,
    *,
    budget: float | None = None,
    heads: frozenset[Owner] | None = None,
    streamed: bool = False,
    outside: str | None = None,
) -> Variant:
    strategy = method(preset).model_copy(update={"teacher": teacher})
    if budget is not None:
        position = strategy.position.model_copy(update={"budget": budget})
        strategy = strategy.model_copy(update={"position": position})
    return Variant(
        name=name,
        label=label,
        strategy=strategy,
        heads=heads,
        streamed=streamed,
        outside=outside,
        published=published,
    )


_NONE, _STUDENT, _TEACHER = frozenset[Owner](), frozenset[Owner]({"student"}), frozenset[Owner]({"teacher"})
_SELECTIVE = "SE-KD selective heads"
_DENSE, _TEACHER_ALL = "Full KD (default flow)", "Full KD (chunked, teacher selective head)"
_NO_HEAD, _STREAMED = "SE-KD no selective head (default flow)", "SE-KD no selective head (chunked)"
_TEACHER_HEAD, _STUDENT_HEAD = "SE-KD teacher selective head", "SE-KD student selective head"

VARIANTS: tuple[Variant, ...] = (
    _row("floor", "trunks alone, no head and no loss", "full_kd_dense", "online"),
    _row("full_kd_dense", "Full KD, default flow", "full_kd_dense", "online", _DENSE),
    _row("full_kd_chunked", "Full KD, chunked (k = 1)", "full_kd", "online", "Full KD (chunked)"),
    _row("full_kd_teacher_head", "Full KD, selective head on the teacher", "se_kd", "online",
         _TEACHER_ALL, budget=1.0, heads=_TEACHER, streamed=True),
    _row("se_kd_dense", "SE-KD 20%, no selective head", "se_kd", "online", _NO_HEAD, heads=_NONE),
    _row("se_kd_streamed", "SE-KD 20%, no selective head, scores chunked", "se_kd", "online", _STREAMED, heads=_NONE,
         streamed=True),
    _row("se_kd_teacher_head", "SE-KD 20%, selective head on the teacher", "se_kd", "online", _TEACHER_HEAD,
         heads=_TEACHER, streamed=True),
    _row("se_kd_student_head", "SE-KD 20%, selective head on the student", "se_kd", "online", _STUDENT_HEAD,
         heads=_STUDENT, streamed=True),
    _row("se_kd_both_heads", "SE-KD 20%, selective heads on both, not chunked", "se_kd", "online", _SELECTIVE,
         heads=_STUDENT | _TEACHER, streamed=True),
    _row("se_kd", "SE-KD 20%, this core", "se_kd", "online", _SELECTIVE),
    _row("full_kd_dense_cached", "Full KD, default flow, cached teacher", "full_kd_dense", "cached"),
    _row("full_kd_cached", "Full KD, chunked (k = 1), cached teacher", "full_kd", "cached"),
    _row("se_kd_cached", "SE-KD 20%, cached teacher", "se_kd", "cached"),
    _row("se_kd_3x", "SE-KD 3X, reusing its cache", "se_kd_3x", "sampled"),
    _row("trl", "Full KD, TRL's loss", "full_kd_dense", "online", outside="trl"),
    _row("trl_cached", "Full KD, TRL's loss, cached teacher", "full_kd_dense", "cached", outside="trl"),
    _row("liger_cached", "Full KD, Liger's fused loss, cached teacher", "full_kd_dense", "cached", outside="liger"),
)  # fmt: skip


def available(names: tuple[str, ...]) -> tuple[list[Variant], list[str]]:
    """Return the variants of these names that can be run here, and one line for each library that is left out."""
    chosen = [variant(name) for name in names]
    missing = {each.outside: installed(each.outside) for each in chosen if each.outside is not None}
    notes = [note for note in missing.values() if note is not None]
    return [each for each in chosen if each.outside is None or missing[each.outside] is None], notes


def variant(name: str) -> Variant:
    """Return a variant.

    Raises:
        UnknownNameError: there is none of this name; suggests the nearest.
    """
    named = {each.name: each for each in VARIANTS}
    if name not in named:
        raise unknown("variant", name, named)
    return named[name]
