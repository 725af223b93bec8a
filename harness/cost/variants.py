"""The rows of the paper's efficiency tables, as data."""

from dataclasses import dataclass
from typing import Any

from harness.config import Method
from harness.config.errors import unknown
from harness.config.expand import method
from harness.cost.accounting import Owner
from harness.cost.outside import installed


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of distilling.

    Attributes:
        name: a slug.
        label: the row's name.
        strategy: what is computed.
        heads: None for the harness's own core. A set names the models whose head is applied to the selected rows only,
            in the straightforward flow that leaves everything else to autograd (`harness.cost.plain`).
        outside: the library whose loss stands in for the core's (`harness.cost.outside`), None for none.
        published: the row of the paper's memory table that it stands beside, if there is one.
    """

    name: str
    label: str
    strategy: Method
    heads: frozenset[Owner] | None = None
    outside: str | None = None
    published: str | None = None

    @property
    def trunk_only(self) -> bool:
        """Whether nothing but the trunks runs."""
        return self.name == "floor"


def _preset(name: str, **changes: Any) -> Method:
    return method(name).model_copy(update=changes)


_SE_KD_ONLINE = _preset("se_kd", teacher="online")
_SELECTIVE = "SE-KD selective heads"

VARIANTS: tuple[Variant, ...] = (
    Variant(
        name="floor", label="trunks alone, no head and no loss", strategy=_preset("full_kd_dense", teacher="online")
    ),
    Variant(
        name="full_kd_dense",
        label="Full KD, default flow",
        strategy=_preset("full_kd_dense", teacher="online"),
        published="Full KD (default flow)",
    ),
    Variant(
        name="full_kd_chunked",
        label="Full KD, chunked (k = 1)",
        strategy=_preset("full_kd", teacher="online"),
        published="Full KD (chunked)",
    ),
    Variant(
        name="se_kd_dense",
        label="SE-KD 20%, no selective head",
        strategy=_SE_KD_ONLINE,
        heads=frozenset(),
        published="SE-KD no selective head (default flow)",
    ),
    Variant(
        name="se_kd_teacher_head",
        label="SE-KD 20%, selective head on the teacher",
        strategy=_SE_KD_ONLINE,
        heads=frozenset({"teacher"}),
    ),
    Variant(
        name="se_kd_student_head",
        label="SE-KD 20%, selective head on the student",
        strategy=_SE_KD_ONLINE,
        heads=frozenset({"student"}),
    ),
    Variant(
        name="se_kd_both_heads",
        label="SE-KD 20%, selective heads on both, not chunked",
        strategy=_SE_KD_ONLINE,
        heads=frozenset({"student", "teacher"}),
        published=_SELECTIVE,
    ),
    Variant(name="se_kd", label="SE-KD 20%, this core", strategy=_SE_KD_ONLINE, published=_SELECTIVE),
    Variant(
        name="full_kd_dense_cached",
        label="Full KD, default flow, cached teacher",
        strategy=_preset("full_kd_dense", teacher="cached"),
    ),
    Variant(
        name="full_kd_cached",
        label="Full KD, chunked (k = 1), cached teacher",
        strategy=_preset("full_kd", teacher="cached"),
    ),
    Variant(name="se_kd_cached", label="SE-KD 20%, cached teacher", strategy=_preset("se_kd", teacher="cached")),
    Variant(name="se_kd_3x", label="SE-KD 3X, reusing its cache", strategy=_preset("se_kd_3x")),
    Variant(
        name="trl",
        label="Full KD, TRL's loss",
        strategy=_preset("full_kd_dense", teacher="online"),
        outside="trl",
    ),
    Variant(
        name="trl_cached",
        label="Full KD, TRL's loss, cached teacher",
        strategy=_preset("full_kd_dense", teacher="cached"),
        outside="trl",
    ),
    Variant(
        name="liger_cached",
        label="Full KD, Liger's fused loss, cached teacher",
        strategy=_preset("full_kd_dense", teacher="cached"),
        outside="liger",
    ),
)


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
