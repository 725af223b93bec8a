"""Trial records: what one trial measured, written once, atomically, and read back by the analysis layer.

A record is the only thing the analysis layer sees of a trial. It lies in `<results>/trials/<trial id>/`:

- `record.json`   this schema; written last and by rename, so it exists only if the trial ended;
- `items.parquet` one row per evaluated item (task, item, metric, value);
- `curve.csv`     one row per logged step (step, loss_nats, realised_fraction, learning_rate).

A grid's folder `<results>/<grid>/manifest.json` lists the trials it consists of; several grids may share a trial.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UserError

SCHEMA = 1

M = TypeVar("M", bound=BaseModel)


class _Frozen(BaseModel):
    # A diverged perplexity is a number too: as null it could not be read back.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Metric(_Frozen):
    """One measured number.

    Attributes:
        value: the estimate, in the metric's own unit (see `harness.analysis.metrics`).
        stderr: its standard error over the evaluated items, None where it has none.
        num: how many items (or tokens) it was estimated from.
    """

    value: float
    stderr: float | None = None
    num: int


class Selection(_Frozen):
    """What the strategy really supervised, summed over training.

    Attributes:
        valid_positions: positions that had a next-token target.
        supervised_positions: positions with a non-zero weight.
        realised_fraction: their ratio, in [0, 1]; not always the budget asked for.
        classes_per_position: distinct classes with a weight in the target, mean over the rows compared; None where rows
            are compared whole. Fewer than the draws asked for, where classes are drawn with replacement.
    """

    valid_positions: int
    supervised_positions: int
    realised_fraction: float
    classes_per_position: float | None = None


class Cost(_Frozen):
    """What the trial cost.

    Attributes:
        wall_s: seconds by phase (load, prepass, cache, train, eval).
        peak_gib: peak memory by device, GiB; `process` is the resident set of the worker.
        flops: floating-point operations by part of the step (student_trunk, student_head, ...).
        tokens: training tokens seen.
        disk_bytes: bytes the trial read from a cache or wrote for one, by cache kind.
        shared_s: seconds spent once for all trials of the workload, by cache kind; not part of `wall_s`.
    """

    wall_s: dict[str, float] = Field(default_factory=dict)
    peak_gib: dict[str, float] = Field(default_factory=dict)
    flops: dict[str, float] = Field(default_factory=dict)
    tokens: int = 0
    disk_bytes: dict[str, int] = Field(default_factory=dict)
    shared_s: dict[str, float] = Field(default_factory=dict)


class Failure(_Frozen):
    """Why a trial did not finish."""

    kind: str
    message: str
    traceback: str


class Record(_Frozen):
    """Everything one trial leaves behind.

    Attributes:
        trial_id: hash of what the trial computes.
        label: the row name in tables, e.g. "SE-KD".
        strategy: the fully resolved strategy.
        workload: the fully resolved workload.
        seed: None for a strategy that involves no randomness (no KD, teacher).
        sources: digest of the source of every registered function used, by kind and name.
        core: digest of the distillation core's source, to notice tables that mix versions.
    """

    schema_version: int = SCHEMA
    trial_id: str
    label: str
    strategy: dict[str, Any]
    workload: dict[str, Any]
    seed: int | None
    sources: dict[str, str]
    core: str
    status: Literal["finished", "failed"]
    metrics: dict[str, Metric] = Field(default_factory=dict)
    selection: Selection | None = None
    cost: Cost = Field(default_factory=Cost)
    environment: dict[str, str] = Field(default_factory=dict)
    seeds: dict[str, int] = Field(default_factory=dict)
    started_at: str
    finished_at: str
    failure: Failure | None = None


class ManifestEntry(_Frozen):
    """One trial of a grid, in the order the grid lists it."""

    trial_id: str
    label: str
    seed: int | None


class Manifest(_Frozen):
    """The trials one grid consists of.

    Attributes:
        grid: the grid's name, also its folder's name.
        hypothesis: the grid file's first comment.
        baseline: label of the row that others are compared with.
        split: the evaluation split, validation or test.
        command: how to produce this again.
    """

    schema_version: int = SCHEMA
    grid: str
    hypothesis: str
    workload: str
    baseline: str | None
    split: str
    command: str
    trials: tuple[ManifestEntry, ...]


def trial_folder(results: Path, trial_id: str) -> Path:
    """Return where a trial of this id keeps its files."""
    return results / "trials" / trial_id


def write_json(path: Path, payload: str) -> None:
    """Write text to `path` so that a reader sees either all of it or the previous file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as handle:
        handle.write(payload + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)


def write_record(results: Path, record: Record, *, items: pd.DataFrame | None, curve: pd.DataFrame | None) -> Path:
    """Write a trial's files, `record.json` last, and return its path.

    A failed attempt never replaces a finished record.
    """
    folder = trial_folder(results, record.trial_id)
    path = folder / "record.json"
    if record.status == "failed" and path.exists() and read_record(path).status == "finished":
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if items is not None:
        partial = folder / f".items.{os.getpid()}.partial"
        items.to_parquet(partial, index=False)
        partial.replace(folder / "items.parquet")
    if curve is not None:
        partial = folder / f".curve.{os.getpid()}.partial"
        curve.to_csv(partial, index=False)
        partial.replace(folder / "curve.csv")
    write_json(path, record.model_dump_json(indent=1))
    return path


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        UserError: the file is not a record this version can read; names the file and the reason.
    """
    return _parse(Record, path, "record", "delete its folder and run the grid again")


def read_manifest(path: Path) -> Manifest:
    """Read a grid's manifest.

    Raises:
        UserError: the file is missing or not a manifest; names the file and the reason.
    """
    if not path.exists():
        raise UserError(f"no manifest at {path}: run the grid first, or give the folder of a grid that has run")
    return _parse(Manifest, path, "manifest", "run the grid again")


def _parse(model: type[M], path: Path, kind: str, remedy: str) -> M:
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {kind} at {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable {kind} ({error}); {remedy}") from None
    found = payload.get("schema_version") if isinstance(payload, dict) else None
    if found != SCHEMA:
        raise UserError(f"{path} has {kind} schema {found!r}, this version reads {SCHEMA}; {remedy}")
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise UserError(f"{path} is not a whole {kind}: {place}: {problem['msg']}; {remedy}") from None


def finished(results: Path, trial_id: str) -> bool:
    """Tell whether a trial has a finished record."""
    path = trial_folder(results, trial_id) / "record.json"
    return path.exists() and read_record(path).status == "finished"


def remove_trial(results: Path, trial_id: str) -> None:
    """Remove a trial's files, record first, so that a half-removed trial never reads as finished."""
    folder = trial_folder(results, trial_id)
    (folder / "record.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
