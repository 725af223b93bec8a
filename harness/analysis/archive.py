"""The records a report was made from, kept beside it: copied so that they may be published, named by their hashes."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pandas as pd

from harness.analysis.frame import is_report, record_path
from harness.records.files import sealed
from harness.records.layout import Results
from harness.records.record import TABLES, Manifest
from harness.records.store import read_table

TABLE_LIMIT_BYTES = 4 * 2**20

_FOLDERS = re.compile(r"(?<![\w./:])/(?:[^/\s\"':,]+/)+")
_OURS = re.compile(r".*/(?:site-packages/|(?=(?:harness|strategies)/))")


def copy_run(source: Path, manifest: Manifest, folder: Path, *, tables: bool = True) -> None:
    """Copy a grid's manifest, records and tables from a results folder or a report into a new folder.

    The folder becomes manifest.json, records/<trial id>.json and records/<table>.parquet; a table above
    `TABLE_LIMIT_BYTES` is left out.
    """
    (folder / "records").mkdir(parents=True)
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for trial in manifest.trial_ids:
        path = record_path(source, trial)
        if path.exists():
            text = _publishable(path.read_text(encoding="utf-8"))
            (folder / "records" / f"{trial}.json").write_text(text, encoding="utf-8")
    if tables:
        for name in TABLES:
            _copy_table(source, manifest, folder / "records" / f"{name}.parquet")


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a report's records/, by file name, in order of name."""
    paths = sorted((folder / "records").iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def shorten_paths(text: str) -> str:
    """Make absolute paths relative to the package they lie in; elsewhere keep the last folder."""

    def tail(match: re.Match[str]) -> str:
        ours = _OURS.match(match[0])
        return match[0][ours.end() :] if ours else match[0].rstrip("/").rsplit("/", 1)[-1] + "/"

    return _FOLDERS.sub(tail, text)


def _copy_table(source: Path, manifest: Manifest, target: Path) -> None:
    """Gather one table of all trials into one file, with the trial's id; leave out one too large to be committed."""
    if is_report(source):
        if (source / "records" / target.name).exists():
            shutil.copyfile(source / "records" / target.name, target)
        return
    trials = dict.fromkeys(entry.trial_id for entry in manifest.trials)
    found = {trial: read_table(Results(source), trial, target.stem) for trial in trials}
    parts = [table.assign(trial_id=trial) for trial, table in found.items() if table is not None]
    if parts:
        pd.concat(parts, ignore_index=True).to_parquet(target, index=False, compression="zstd")
        if target.stat().st_size > TABLE_LIMIT_BYTES:
            target.unlink()


def _publishable(text: str) -> str:
    """Drop from a failed record's message and traceback the folders that only its machine has."""
    payload = json.loads(text)
    failure = payload.get("failure")
    if not failure:
        return text
    payload["failure"] = failure | {key: shorten_paths(failure[key]) for key in ("message", "traceback")}
    payload.pop("checksum", None)
    return sealed(payload)
