"""What a grid claims, judged by its records: holds, contradicted or undecided."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import pandas as pd

from harness.analysis.document import Table
from harness.analysis.hypotheses import Advantage, Side, advantages, decided
from harness.analysis.read import Run
from harness.analysis.tables.build import build, words
from harness.analysis.tables.reads import alone_seconds, flops
from harness.config.claims import Claim
from harness.records.record import Record

ClaimVerdict = Literal["holds", "contradicted", "undecided", "not measured"]

_TITLES = {"flops": "FLOPs", "seconds": "seconds", "memory": "peak memory", "bytes": "bytes on disk"}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the records say of a claim.

    Attributes:
        claim: the claim.
        verdict: on it; of several comparisons all must hold, and one that is contradicted contradicts it.
        evidence: the differences with their 95% intervals, or the ratio.
        decider: what would decide it; empty if it is decided.
    """

    claim: Claim
    verdict: ClaimVerdict
    evidence: str
    decider: str = ""

    @property
    def sentence(self) -> str:
        """The claim, its verdict and why."""
        claim = self.claim
        where = f"{claim.source}; published: {claim.published}" if claim.published else claim.source
        rest = f" {self.decider}." if self.decider else ""
        return f"{self.verdict.capitalize()}: {claim.says} ({where}). {self.evidence}.{rest}"


@dataclass(frozen=True)
class _Part:
    """One comparison of a claim: on which side of what the difference must lie to show it; the other contradicts it."""

    name: str
    advantage: Advantage
    shows: Side
    beyond: float

    def keys(self) -> tuple[float, float]:
        """Return the p-values against whichever side the difference falls on."""
        return self.advantage.keys(self.side, self.beyond)

    @property
    def side(self) -> Side:
        if self.shows == "apart":
            return "apart"
        return "above" if self.advantage.value > self.beyond else "below"

    def verdict(self, found: bool) -> ClaimVerdict:
        if not found:
            return "undecided"
        return "holds" if self.side == self.shows else "contradicted"

    def evidence(self) -> str:
        info, value = self.advantage.info, self.advantage.value
        sign = 1.0 if info.direction == "higher" else -1.0
        low, high = sorted(sign * end for end in self.advantage.interval)
        interval = "" if math.isnan(low) else f" [{info.show_difference(low)}, {info.show_difference(high)}]"
        margin = f", margin {info.show_spread(-self.beyond)}" if self.beyond else ""
        return f"{self.name}: {info.heading} {info.show_difference(sign * value)}{interval}{margin}"

    def decider(self) -> str:
        if not self.advantage.tested:
            return "It takes two seeds at least"
        seeds = self.advantage.seeds_to_decide(self.beyond)
        if seeds is None:
            return "More seeds would not decide a difference of this size, more items would"
        return f"About {seeds} seeds would decide a difference of this size"


def judge_claims(run: Run) -> tuple[Judgement, ...]:
    """Judge every claim of a run's grid, in its order.

    Claims about quality are one family: what they rest on is corrected for the number of comparisons that all of them
    make (Holm, 5% in all). Tests are one-sided but for `differs`: a claim is true or its contrary is, so only one of
    the two verdicts can be wrong. `not_worse` holds where the row is shown to be worse by less than the margin, and is
    contradicted where it is shown to be worse by more. Costs are compared by their means, and not tested; seconds of
    trials that were busy decide nothing.
    """
    parts = {claim.id: list(_parts(run, claim)) for claim in run.manifest.claims if claim.relation != "cheaper"}
    tests = [(name, part) for name, each in parts.items() for part in each]
    found = decided([part.keys() for _, part in tests])
    verdicts: dict[str, list[ClaimVerdict]] = {name: [] for name in parts}
    for (name, part), held in zip(tests, found, strict=True):
        verdicts[name].append(part.verdict(held))
    return tuple(
        _cheaper(run, claim) if claim.relation == "cheaper" else _judged(claim, parts[claim.id], verdicts[claim.id])
        for claim in run.manifest.claims
    )


def claims_table(judged: Sequence[tuple[str, Judgement]], name: str, title: str) -> Table | None:
    """Build the table of claims and verdicts, each with the report it is of; None without a claim."""
    if not judged:
        return None
    rows = [
        {
            "report": report,
            "claim": each.claim.says,
            "verdict": each.verdict,
            "evidence": each.evidence,
            "published": each.claim.published,
            "decider": each.decider,
            "source": each.claim.source,
        }
        for report, each in judged
    ]
    return build(
        name,
        title,
        rows,
        [
            *([words("Report", "report")] if len({report for report, _ in judged}) > 1 else []),
            words("Claim", "claim"),
            words("Verdict", "verdict"),
            words("Evidence", "evidence"),
            words("Published", "published"),
            words("What would decide it", "decider"),
            words("Source", "source"),
        ],
        caption="Differences with their 95% intervals, one comparison at a time. A verdict allows for the number of "
        "comparisons that all claims of a report make together (Holm, 5% in all) and needs the rows' own seeds "
        "besides. Tests are one-sided but for claims that rows differ, so a verdict may stand where a single 95% "
        "interval ends close beyond zero. Not worse: shown to be worse by less than the margin. Costs are ratios of "
        "means and are not tested.",
        numbers=pd.DataFrame(rows),
    )


def _judged(claim: Claim, parts: list[_Part], verdicts: list[ClaimVerdict]) -> Judgement:
    evidence = "; ".join(part.evidence() for part in parts)
    needed = max(1, len(claim.order) - 1)
    if len(parts) < needed:
        return Judgement(claim=claim, verdict="not measured", evidence=evidence or "No finished trials to compare")
    if "contradicted" in verdicts:
        return Judgement(claim=claim, verdict="contradicted", evidence=evidence)
    open_parts = [part for part, verdict in zip(parts, verdicts, strict=True) if verdict == "undecided"]
    if not open_parts:
        return Judgement(claim=claim, verdict="holds", evidence=evidence)
    return Judgement(claim=claim, verdict="undecided", evidence=evidence, decider=open_parts[0].decider())


def _parts(run: Run, claim: Claim) -> Iterator[_Part]:
    """Yield the comparisons that a claim about quality makes; those whose rows have no finished trial are left out."""
    pairs = list(pairwise(claim.order)) if claim.relation == "order" else [(str(claim.row), str(claim.against))]
    for row, against in pairs:
        if not run.records.get(row) or not run.records.get(against):
            continue
        advantage = advantages(run.evidence, claim.metric, against).get(row)
        if advantage is None:
            continue
        part = partial(_Part, f"{row} against {against}", advantage)
        match claim.relation:
            case "differs":
                yield part("apart", 0.0)
            case "worse":
                yield part("below", 0.0)
            case "not_worse":
                yield part("above", -float(claim.margin or 0.0))
            case _:
                yield part("above", 0.0)


def _cheaper(run: Run, claim: Claim) -> Judgement:
    reads = {"flops": flops, "seconds": alone_seconds, "memory": _memory, "bytes": _bytes}
    read, title = reads[claim.metric], _TITLES[claim.metric]
    in_time = claim.metric == "seconds"
    ours, theirs = run.mean(claim.row, read, timed=in_time), run.mean(claim.against, read, timed=in_time)
    if not ours or theirs is None:
        return Judgement(claim=claim, verdict="not measured", evidence=f"No {title} of both rows")
    ratio, asked = theirs / ours, float(claim.factor or 1.0)
    evidence = f"{claim.against} takes {ratio:.2f} times the {title} of {claim.row}; claimed: {asked:g}"
    busy = run.busy & {claim.row, claim.against}
    if in_time and busy:
        decider = f"Other work had the cores while {' and '.join(sorted(busy))} trained: run it again alone"
        return Judgement(claim=claim, verdict="undecided", evidence=evidence, decider=decider)
    return Judgement(claim=claim, verdict="holds" if ratio >= asked else "contradicted", evidence=evidence)


def _memory(record: Record) -> float | None:
    return record.cost.peak_gib.get("cuda") or record.cost.peak_gib.get("step")


def _bytes(record: Record) -> float | None:
    return float(sum(record.cost.disk_bytes.values())) or None
