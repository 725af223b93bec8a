"""Records as data frames. A trial that failed or never ran keeps its rows, with its status."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from harness.analysis.metrics import QUALITY
from harness.config.errors import UserError
from harness.records.layout import Results
from harness.records.record import TABLES, Manifest, ManifestEntry, Record
from harness.records.store import read_manifest, read_record

_IDENTITY = ("trial_id", "label", "seed")


@dataclass(frozen=True)
class Frames:
    """What a grid left behind, in the manifest's order.

    Units: seconds, GiB, shares in [0, 1]; metrics as in `harness.analysis.metrics`. seed is missing for a trial
    without randomness. status is "finished", "failed" (a record says why) or "missing" (there is no record).
    """

    # one row per trial and metric: trial_id, label, seed, status, metric, value, stderr, num. Every trial has a
    # row for every metric that any trial of the grid measured; where this one did not, num is missing
    metrics: pd.DataFrame
    # one row per trial: trial_id, label, seed, status, realised_fraction, classes_per_position, wall_<phase>_s,
    # wall_total_s, peak_gib, peak_device, flops_total, tokens, disk_bytes, failure_kind, failure_message
    trials: pd.DataFrame
    records: tuple[Record | None, ...]  # the records, one per trial, None where there is none
    # the tables beside the records, by their name in `harness.records.record.TABLES`: trial_id, label, seed,
    # then the table's own columns; all trials below one another, in the manifest's order. A table that no trial
    # has is absent. A trial that failed may have left one too
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


def load(folder: Path, manifest: Manifest) -> Frames:
    """Read the records of a manifest's trials.

    Args:
        folder: a results folder (trials/<id>/record.json and trials/<id>/<table>.parquet), or a report's folder
            (records/<id>.json and records/<table>.parquet, which names each row's trial).
        manifest: which trials, under which labels. The manifest's label wins over the record's, because grids that
            share a trial may name it differently.

    Raises:
        UserError: a record or a table is unreadable, or is of another trial than its place says; two trials have one
            label and seed; a label has trials both with and without a seed.
    """
    _check(manifest)
    records = tuple(_read(folder, entry) for entry in manifest.trials)
    pairs = list(zip(manifest.trials, records, strict=True))
    tables = {name: _table_frame(folder, manifest, name) for name in TABLES}
    return Frames(
        metrics=_metric_frame(pairs),
        trials=_trial_frame(pairs),
        records=records,
        tables={name: table for name, table in tables.items() if table is not None},
    )


@dataclass(frozen=True)
class Origin:
    """Where a grid's records are: a results folder, or a report's, and which trials of it."""

    folder: Path
    manifest: Manifest


def find(folder: Path) -> Origin:
    """Find the records behind a grid's results (results/<grid>) or behind a report (reports/<grid>).

    Raises:
        UserError: there is no manifest, it is unreadable, or it is another grid's.
    """
    if is_report(folder):
        return Origin(folder, read_manifest(folder / "manifest.json"))
    whole = folder.resolve()
    manifest = read_manifest(folder / "manifest.json")
    if manifest.grid != whole.name:
        raise UserError(f"{folder / 'manifest.json'} is the manifest of {manifest.grid!r}, not of {whole.name!r}")
    return Origin(whole.parent, manifest)


def record_path(folder: Path, trial_id: str) -> Path:
    """Return where a results folder, or a report's own folder, keeps a trial's record."""
    if is_report(folder):
        return folder / "records" / f"{trial_id}.json"
    return Results(folder).record(trial_id)


def is_report(folder: Path) -> bool:
    """Tell a report's folder from a results folder: only the former has a manifest of its own beside records/."""
    return (folder / "manifest.json").is_file() and (folder / "records").is_dir()


def labels(manifest: Manifest) -> list[str]:
    """Return the manifest's labels, each once, in its order."""
    return list(dict.fromkeys(entry.label for entry in manifest.trials))


def _check(manifest: Manifest) -> None:
    seeds: dict[str, list[int | None]] = {}
    for entry in manifest.trials:
        if entry.seed in seeds.setdefault(entry.label, []):
            raise UserError(
                f"grid {manifest.grid!r} has two trials labelled {entry.label!r} with seed {entry.seed}: "
                "a label stands for one strategy, give each its own"
            )
        seeds[entry.label].append(entry.seed)
    for label, found in seeds.items():
        if None in found and len(found) > 1:
            raise UserError(
                f"grid {manifest.grid!r}: label {label!r} has seeds {found}; a label has either seeds or one trial "
                "without any"
            )


def _read(folder: Path, entry: ManifestEntry) -> Record | None:
    path = record_path(folder, entry.trial_id)
    if not path.exists():
        return None
    record = read_record(path)
    if (record.trial_id, record.seed) != (entry.trial_id, entry.seed):
        raise UserError(
            f"{path} is the record of trial {record.trial_id} (seed {record.seed}), the manifest expects "
            f"{entry.trial_id} (seed {entry.seed}): run the grid again"
        )
    return record


def _table_frame(folder: Path, manifest: Manifest, name: str) -> pd.DataFrame | None:
    """Gather one table of all trials, or None if no trial has it."""
    if is_report(folder):
        path = folder / "records" / f"{name}.parquet"
        parts = [_read_table(path)] if path.exists() else []
        if parts and "trial_id" not in parts[0]:
            raise UserError(f"{path} has no column trial_id: write the report again from the results folder")
    else:
        trials = dict.fromkeys(entry.trial_id for entry in manifest.trials)
        paths = {trial: Results(folder).trial(trial) / f"{name}.parquet" for trial in trials}
        parts = [_read_table(path).assign(trial_id=trial) for trial, path in paths.items() if path.exists()]
    whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"trial_id": []})
    places = whole.groupby("trial_id").indices
    entries = [entry for entry in manifest.trials if entry.trial_id in places]
    if not entries:
        return None
    times = [len(places[entry.trial_id]) for entry in entries]
    table = whole.take(np.concatenate([places[entry.trial_id] for entry in entries])).reset_index(drop=True)
    head = pd.DataFrame([(entry.trial_id, entry.label, entry.seed) for entry in entries], columns=list(_IDENTITY))
    head = head.astype({"seed": "Int64"}).loc[np.repeat(np.arange(len(entries)), times)].reset_index(drop=True)
    return pd.concat([head, table.drop(columns=list(_IDENTITY), errors="ignore")], axis=1)


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable table ({error}); delete its folder and run the grid again") from None


def _metric_frame(pairs: list[tuple[ManifestEntry, Record | None]]) -> pd.DataFrame:
    known = [info.key for info in QUALITY]
    measured = {key for _, record in pairs if record is not None for key in record.metrics}
    # A grid of which nothing finished still has its rows, under the metrics it would have had.
    keys = [key for key in known if key in measured] + sorted(measured - set(known)) or known
    rows = []
    for entry, record in pairs:
        for key in keys:
            found = record.metrics.get(key) if record is not None else None
            numbers = {name: getattr(found, name, None) for name in ("value", "stderr", "num")}
            rows.append(_identity(entry, record) | {"metric": key} | numbers)
    columns = ["trial_id", "label", "seed", "status", "metric", "value", "stderr", "num"]
    return pd.DataFrame(rows, columns=columns).astype(
        {"seed": "Int64", "value": "float64", "stderr": "float64", "num": "Int64"}
    )


def _trial_frame(pairs: list[tuple[ManifestEntry, Record | None]]) -> pd.DataFrame:
    phases = list(dict.fromkeys(p for _, record in pairs if record is not None for p in record.cost.wall_s))
    phases += ["train"] if "train" not in phases else []
    rows = [_trial_row(entry, record, phases) for entry, record in pairs]
    walls = [*(f"wall_{p}_s" for p in phases), "wall_total_s"]
    floats = ["realised_fraction", "classes_per_position", *walls, "peak_gib", "flops_total"]
    counts = ["tokens", "disk_bytes"]
    columns = [*_IDENTITY, "status", *floats, "peak_device", *counts, "failure_kind", "failure_message"]
    types = {"seed": "Int64"} | dict.fromkeys(floats, "float64") | dict.fromkeys(counts, "Int64")
    return pd.DataFrame(rows, columns=columns).astype(types)


def _trial_row(entry: ManifestEntry, record: Record | None, phases: list[str]) -> dict[str, object]:
    row = _identity(entry, record)
    if record is None:
        return row
    cost = record.cost
    device = _peak_device(cost.peak_gib)
    row |= {f"wall_{phase}_s": cost.wall_s.get(phase) for phase in phases}
    # An empty table means "not measured", which a sum would turn into a cost of zero.
    row |= {
        "realised_fraction": None if record.selection is None else record.selection.realised_fraction,
        "classes_per_position": None if record.selection is None else record.selection.classes_per_position,
        # Looking at the training is no part of what the method costs.
        "wall_total_s": sum(cost.wall_s[phase] for phase in phases if phase in cost.wall_s and phase != "diagnostics")
        if cost.wall_s
        else None,
        "peak_gib": None if device is None else cost.peak_gib[device],
        "peak_device": device,
        "flops_total": sum(cost.flops.values()) if cost.flops else None,
        "tokens": cost.tokens,
        "disk_bytes": sum(cost.disk_bytes.values()),
    }
    if record.failure is not None:
        row |= {"failure_kind": record.failure.kind, "failure_message": record.failure.message}
    return row


def _peak_device(peak_gib: dict[str, float]) -> str | None:
    """Return the device whose peak is reported: the fullest accelerator, the worker's own memory without one."""
    accelerators = [device for device in peak_gib if device != "process"]
    if accelerators:
        return max(sorted(accelerators), key=peak_gib.__getitem__)
    return "process" if "process" in peak_gib else None


def _identity(entry: ManifestEntry, record: Record | None) -> dict[str, object]:
    return {
        "trial_id": entry.trial_id,
        "label": entry.label,
        "seed": entry.seed,
        "status": "missing" if record is None else record.status,
    }
