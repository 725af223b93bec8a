"""A report that trials are set beside: of which they are the same trials, run again."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.analysis import reproduced
from harness.analysis.frame import Frames, is_report, load
from harness.analysis.reproduced import Reproduced
from harness.config.errors import UserError
from harness.records.layout import Results
from harness.records.record import Manifest, ManifestEntry, Record
from harness.records.store import read_manifest, read_record, read_table

# Of metrics, and of conditions, that one line names; the rest is counted.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Original:
    """A report whose trials are run again.

    Attributes:
        folder: where it is.
        manifest: its trials.
        frames: its records and their tables.
    """

    folder: Path
    manifest: Manifest
    frames: Frames

    @property
    def finished(self) -> list[tuple[ManifestEntry, Record]]:
        """The trials that have a finished record."""
        pairs = zip(self.manifest.trials, self.frames.records, strict=True)
        return [(entry, record) for entry, record in pairs if record is not None and record.status == "finished"]

    def compare(self, entry: ManifestEntry, recorded: Record, measured: Record, results: Results) -> Reproduced:
        """Compare a trial that was run again with its record in the report.

        Args:
            entry: its place in the report.
            recorded: its record there.
            measured: its record in a results folder.
            results: that folder, where its tables are.
        """
        siblings = [record for other, record in self.finished if other.label == entry.label]
        tables = self._differing_tables(recorded, measured, results)
        return reproduced.compare_records(entry.label, recorded, measured, siblings=siblings, tables=tables)

    def _differing_tables(self, recorded: Record, measured: Record, results: Results) -> dict[str, str]:
        """Say of each table that is not equal to the byte how it differs."""
        said = {}
        for name in dict.fromkeys([*recorded.tables, *measured.tables]):
            if recorded.tables.get(name) == measured.tables.get(name):
                continue
            before = self._table(recorded.trial_id, name) if name in recorded.tables else None
            now = read_table(results, measured.trial_id, name)
            if now is None or name not in recorded.tables:
                said[name] = "only now" if name not in recorded.tables else "only in the report"
            elif before is None:
                said[name] = "other bytes; the report left it out"
            else:
                shared = now[[column for column in before.columns if column in now]]
                same = list(before.columns) == list(now.columns) and before.astype(now.dtypes.to_dict()).equals(shared)
                said[name] = "same content in other bytes" if same else "other content"
        return said

    def _table(self, trial_id: str, name: str) -> pd.DataFrame | None:
        """Return a trial's table, None where the report has none of this name."""
        whole = self.frames.tables.get(name)
        if whole is None:
            return None
        rows = whole[whole["trial_id"] == trial_id].drop(columns=["trial_id", "label", "seed"])
        return rows.reset_index(drop=True)


def read_original(folder: Path) -> Original:
    """Read a report's records.

    Raises:
        UserError: it is no report's folder, or a file in it cannot be read.
    """
    if not is_report(folder):
        raise UserError(f"{folder} is no report: it has no manifest.json beside records/")
    manifest = read_manifest(folder / "manifest.json")
    return Original(folder=folder, manifest=manifest, frames=load(folder, manifest))


def say_difference(original: Original, manifest: Manifest, results: Results) -> str:
    """Say in one line how many of a grid's records equal those of a report, and of the others what differs and why.

    Trials are matched by label and seed, since ids change with what they are hashed from.

    Args:
        original: the report.
        manifest: the grid's trials.
        results: where their records are.

    Raises:
        UserError: a record is damaged.
    """
    recorded = {(entry.label, entry.seed): (entry, record) for entry, record in original.finished}
    compared: list[Reproduced] = []
    reasons: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for entry in manifest.trials:
        path = results.record(entry.trial_id)
        measured = read_record(path) if path.exists() else None
        if measured is None or measured.status != "finished":
            others["not finished"] += 1
        elif (entry.label, entry.seed) not in recorded:
            others["not among the committed"] += 1
        else:
            before = recorded[entry.label, entry.seed]
            compared.append(original.compare(*before, measured, results))
            if not compared[-1].equal:
                reasons.update(_reasons(before[1], measured, compared[-1]))
    differing = [each for each in compared if not each.equal]
    num = len(compared) - len(differing)
    line = f"{num} of {len(manifest.trials)} records equal the committed ones to the byte ({original.folder})"
    others = Counter({f"differing in {_sizes(differing)}": len(differing)} if differing else {}) + others
    line += "".join(f"; {num} {what}" for what, num in others.items()) + "."
    if differing:
        why = [reason for reason, _ in reasons.most_common()] or ["nothing that a record names"]
        line += f" What was otherwise: {_shortened(why, '; ')}."
    return line


def _reasons(recorded: Record, measured: Record, compared: Reproduced) -> list[str]:
    ignored = [*reproduced.PLACES, "resources"]  # these are among the conditions
    workload = reproduced.changed_workload(recorded.workload, measured.workload, ignored)
    strategy = [] if recorded.strategy == measured.strategy else ["the strategy"]
    ids = [] if recorded.trial_id == measured.trial_id else ["trial ids, so what trials compute or its code numbers"]
    return [*workload, *strategy, *ids, *compared.conditions]


def _sizes(differing: Sequence[Reproduced]) -> str:
    """Name metrics with their largest difference, in their own unit, or else the tables."""
    sizes: dict[str, float] = {}
    for each in (metric for trial in differing for metric in trial.metrics if not metric.only_error):
        sizes[each.metric] = max(abs(each.size), sizes.get(each.metric, 0.0))
    known = [f"{key} by up to {size:.2g}" if math.isfinite(size) else key for key, size in sizes.items()]
    if not known:
        known = list(dict.fromkeys(name for trial in differing for name in trial.tables)) or ["standard errors"]
    return _shortened(known, ", ")


def _shortened(parts: Sequence[str], separator: str) -> str:
    rest = len(parts) - _NAMED
    return separator.join(parts[:_NAMED]) + (f"{separator}{rest} more" if rest > 0 else "")
