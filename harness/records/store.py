"""Records and manifests on the disk: written whole, found by id, and checked to the byte."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from harness.config.errors import UserError
from harness.records.files import checksum, unsealed, write_sealed, written
from harness.records.layout import Results
from harness.records.record import SCHEMA, TABLES, Manifest, Record

_REMEDY = "`harness run GRID --rebuild` moves it to results/trash and runs its trial again"

M = TypeVar("M", bound=BaseModel)


def write_record(results: Results, record: Record, tables: Mapping[str, pd.DataFrame]) -> Path:
    """Write a trial's files, `record.json` last, and return its path.

    A failed attempt never replaces a finished record. Where the results folder has a mirror, they are copied there.

    Args:
        results: where it belongs.
        record: the trial's record.
        tables: what lies beside it, by a name in `TABLES`.
    """
    assert set(tables) <= set(TABLES), "a table the analysis layer does not know would never be read"
    path = results.record(record.trial_id)
    if record.status == "failed" and finished(results, record.trial_id):
        return path
    checksums = {}
    for name, table in tables.items():
        with written(path.with_name(f"{name}.parquet")) as partial:
            table.to_parquet(partial, index=False, compression="zstd")
            checksums[name] = checksum(partial)
    write_sealed(path, record.model_copy(update={"tables": checksums}))
    results.offer(path.parent)
    return path


def write_manifest(results: Results, manifest: Manifest) -> None:
    """Say which trials a grid consists of."""
    write_sealed(results.manifest(manifest.grid), manifest)


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        UserError: the file is not a record this version can read; names the file and the reason.
    """
    return _parse(Record, path, "record", _REMEDY)


def read_manifest(path: Path) -> Manifest:
    """Read a grid's manifest.

    Raises:
        UserError: the file is missing or not a manifest; names the file and the reason.
    """
    if not path.exists():
        raise UserError(f"no manifest at {path}: run the grid first, or give the folder of a grid that has run")
    return _parse(Manifest, path, "manifest", "run the grid again")


def read_table(results: Results, trial_id: str, name: str) -> pd.DataFrame | None:
    """Read a table that lies beside a trial's record, None if it has none of this name.

    Raises:
        UserError: it is not what was written; names the file.
    """
    path = results.record(trial_id)
    table = path.with_name(f"{name}.parquet")
    if not table.exists() or not path.exists():
        return None
    _check_table(table, read_record(path))
    return pd.read_parquet(table)


def finished(results: Results, trial_id: str) -> bool:
    """Tell whether a trial has a finished record; its tables are not looked at."""
    path = results.record(trial_id)
    return path.exists() and read_record(path).status == "finished"


def is_whole(results: Results, trial_id: str, *, rebuild: bool = False) -> bool:
    """Tell whether a trial has a finished record of which every byte is as it was written, its tables' too.

    Args:
        results: where it is looked for.
        trial_id: the trial.
        rebuild: take a damaged one as missing.

    Raises:
        UserError: it is damaged; names the file and what to do.
    """
    path = results.record(trial_id)
    if not path.exists():
        return False
    try:
        record = read_record(path)
        for name in record.tables:
            _check_table(path.with_name(f"{name}.parquet"), record)
    except UserError:
        if not rebuild:
            raise
        return False
    return record.status == "finished"


def is_whole_or_damaged(results: Results, trial_id: str) -> bool:
    """Tell whether a trial has a record that no run may go on from: a finished one, or one that cannot be read."""
    try:
        return is_whole(results, trial_id)
    except UserError:
        return True


def _check_table(path: Path, record: Record) -> None:
    wanted = record.tables.get(path.stem)
    if wanted is None:
        return
    if not path.exists():
        raise UserError(f"{path} is missing; {_REMEDY}")
    if checksum(path) != wanted:
        raise UserError(f"{path} is damaged: its checksum is wrong; {_REMEDY}")


def _parse(model: type[M], path: Path, kind: str, remedy: str) -> M:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except FileNotFoundError:
        raise UserError(f"no {kind} at {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable {kind} ({error}); {remedy}") from None
    schema = content.get("schema_version") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise UserError(f"{path} has {kind} schema {schema!r}, this version reads {SCHEMA}; {remedy}")
    try:
        return model.model_validate(unsealed(text))
    except ValidationError as error:
        problem = error.errors()[0]
        reason = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{path} is not a whole {kind}: {reason}; {remedy}")
