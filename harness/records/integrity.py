"""Whether what a trial left is what was written, to the byte."""

from pathlib import Path

import pandas as pd

from harness.config.errors import UserError
from harness.records.files import checksum
from harness.records.record import REMEDY, Record, finished, read_record, trial_folder


def check_trial(results: Path, trial_id: str) -> None:
    """Check the record of a trial, if it has one, and every table beside it.

    Raises:
        UserError: a file is damaged or missing; names it and what to do.
    """
    path = trial_folder(results, trial_id) / "record.json"
    if path.exists():
        record = read_record(path)
        for name in record.tables:
            _check_table(path.with_name(f"{name}.parquet"), record)


def is_finished(results: Path, trial_id: str, *, rebuild: bool = False) -> bool:
    """Tell whether a trial has a finished record of which every byte is as it was written.

    Args:
        results: the results root.
        trial_id: the trial.
        rebuild: take a damaged one as missing.

    Raises:
        UserError: it is damaged; names the file and what to do.
    """
    try:
        check_trial(results, trial_id)
    except UserError:
        if not rebuild:
            raise
        return False
    return finished(results, trial_id)


def is_finished_or_damaged(results: Path, trial_id: str) -> bool:
    """Tell whether a trial has a record that no run may go on from: a finished one, or one that cannot be read."""
    try:
        return is_finished(results, trial_id)
    except UserError:
        return True


def read_table(results: Path, trial_id: str, name: str) -> pd.DataFrame | None:
    """Read a table that lies beside a trial's record, None if it has none of this name.

    Raises:
        UserError: it is not what was written; names the file.
    """
    path = trial_folder(results, trial_id) / f"{name}.parquet"
    record = path.with_name("record.json")
    if not path.exists() or not record.exists():
        return None
    _check_table(path, read_record(record))
    return pd.read_parquet(path)


def _check_table(path: Path, record: Record) -> None:
    wanted = record.tables.get(path.stem)
    if wanted is None:
        return
    if not path.exists():
        raise UserError(f"{path} is missing; {REMEDY}")
    if checksum(path) != wanted:
        raise UserError(f"{path} is damaged: its checksum is wrong; {REMEDY}")
