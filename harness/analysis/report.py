"""A grid's report: a folder that is committed, with the records it was made from, and can be made again from itself.

<destination>/<grid>/
  report.md  table.md  table.csv  table.tex  figure.png  figure.svg
  manifest.json  records/<trial id>.json  records/items.parquet
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from harness.analysis import figures, findings, tables
from harness.analysis.frame import Frames, is_report, load, record_path
from harness.analysis.tables import Table, markdown
from harness.errors import UserError
from harness.results import Manifest, read_manifest, trial_folder

ITEMS_LIMIT_BYTES = 4 * 2**20

_FOLDERS = re.compile(r"(?<![\w./:])/(?:[^/\s\"':,]+/)+")
_OURS = re.compile(r".*/(?:site-packages/|(?=(?:harness|strategies)/))")


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        folder: the report's folder.
        table: the main table, for printing.
        numbers: what `tables.tidy` computed; written as table.csv.
        frames: the records as frames.
        warnings: what makes the rows less comparable than they look, one sentence each.
    """

    folder: Path
    table: Table
    numbers: pd.DataFrame
    frames: Frames
    warnings: tuple[str, ...]

    @property
    def page(self) -> Path:
        """The report's text."""
        return self.folder / "report.md"


def write_report(results: Path, grid: str, destination: Path) -> Report:
    """Write the report of a grid into `<destination>/<grid>/`, replacing an earlier one as a whole.

    Args:
        results: the results folder that holds `<grid>/manifest.json` and the trials' records.
        grid: the grid's name.
        destination: where reports are kept; created if needed.

    Raises:
        UserError: the manifest is missing, or it or a record is unreadable; the manifest is another grid's; the folder
            to replace is not a report.
        UnknownNameError: the baseline is not one of the grid's labels.
    """
    manifest = read_manifest(results / grid / "manifest.json")
    if manifest.grid != grid:
        raise UserError(f"{results / grid / 'manifest.json'} is the manifest of {manifest.grid!r}, not of {grid!r}")
    return _publish(results, manifest, destination / grid)


def rebuild(folder: Path) -> Report:
    """Write a report again from its own manifest and records; with the same code, byte for byte.

    Raises:
        UserError: the folder is not a report.
    """
    if not is_report(folder):
        raise UserError(f"{folder} is not a report: it needs manifest.json and records/")
    return _publish(folder, read_manifest(folder / "manifest.json"), folder)


def print_report(report: Report, console: Console) -> None:
    """Print a report's table, its warnings and where the rest is."""
    tables.print_table(console, report.table)
    for warning in report.warnings:
        console.print(f"Warning: {warning}", style="yellow", highlight=False, markup=False)
    console.print(f"Report: {report.page}", highlight=False, markup=False, soft_wrap=True)


def _publish(source: Path, manifest: Manifest, folder: Path) -> Report:
    """Build the report beside its place and swap it in, so that a crash leaves the old one or none, never a half."""
    if folder.exists() and not is_report(folder):
        raise UserError(f"{folder} exists and is not a report: move it away, or choose another destination")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    retired = folder.with_name(f".{folder.name}.{os.getpid()}.retired")
    for leftover in (partial, retired):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        (partial / "records").mkdir(parents=True)
        _copy_records(source, manifest, partial)
        # Read back from the copy: the report is made from what it holds, so it can be made again from that alone.
        report = _write(manifest, load(partial, manifest), partial)
        if folder.exists():
            folder.rename(retired)
        partial.rename(folder)
    finally:
        if retired.exists() and not folder.exists():
            retired.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)
    return Report(folder, report.table, report.numbers, report.frames, report.warnings)


def _write(manifest: Manifest, frames: Frames, folder: Path) -> Report:
    numbers = tables.tidy(frames, manifest)
    table = tables.main_table(numbers, frames, manifest)
    report = Report(folder, table, numbers, frames, findings.warnings(frames, manifest))
    texts = {
        "table.md": tables.to_markdown(table),
        "table.csv": tables.to_csv(numbers),
        "table.tex": tables.to_latex(table, name=manifest.grid),
        "report.md": _page(report, manifest),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    figures.save(figures.draw(numbers, frames, manifest), folder)
    return report


def _copy_records(source: Path, manifest: Manifest, folder: Path) -> None:
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for trial in dict.fromkeys(entry.trial_id for entry in manifest.trials):
        path = record_path(source, trial)
        if path.exists():
            text = _publishable(path.read_text(encoding="utf-8"))
            (folder / "records" / f"{trial}.json").write_text(text, encoding="utf-8")
    items = folder / "records" / "items.parquet"
    if is_report(source):
        if (source / "records" / "items.parquet").exists():
            shutil.copyfile(source / "records" / "items.parquet", items)
        return
    found = {entry.trial_id: trial_folder(source, entry.trial_id) / "items.parquet" for entry in manifest.trials}
    parts = [pd.read_parquet(path).assign(trial_id=trial) for trial, path in found.items() if path.exists()]
    if parts:
        pd.concat(parts, ignore_index=True).to_parquet(items, index=False, compression="zstd")
        if items.stat().st_size > ITEMS_LIMIT_BYTES:
            items.unlink()


def _publishable(text: str) -> str:
    """Drop from a failed record's message and traceback the folders that only its machine has."""
    payload = json.loads(text)
    failure = payload.get("failure")
    if not failure:
        return text
    payload["failure"] = failure | {key: shorten_paths(failure[key]) for key in ("message", "traceback")}
    return json.dumps(payload, indent=1, ensure_ascii=False) + "\n"


def shorten_paths(text: str) -> str:
    """Make absolute paths relative to the package they lie in; elsewhere keep the last folder."""

    def tail(match: re.Match[str]) -> str:
        ours = _OURS.match(match[0])
        return match[0][ours.end() :] if ours else match[0].rstrip("/").rsplit("/", 1)[-1] + "/"

    return _FOLDERS.sub(tail, text)


def _page(report: Report, manifest: Manifest) -> str:
    frames, numbers = report.frames, report.numbers
    further = tables.further_table(numbers, frames, manifest)
    sections = {
        "Warnings": "\n".join(f"- {markdown(text)}" for text in report.warnings),
        "Results": f"{tables.to_markdown(report.table)}\n![{markdown(manifest.grid)}](figure.svg)\n\n{figures.NOTE}",
        "Findings": findings.findings(numbers, frames, manifest),
        "What is noise": findings.noise(numbers, frames),
        "Further metrics": tables.to_markdown(further) if further.columns else "",
        "Failures": _failures(frames),
        "Reproduce": _reproduce(report, manifest),
        "Provenance": _provenance(frames, manifest),
    }
    quoted = "\n".join(f"> {line}".rstrip() for line in manifest.hypothesis.strip().splitlines())
    body = [f"# {markdown(manifest.grid)}", quoted]
    body += [f"## {title}\n\n{text.strip()}" for title, text in sections.items() if text]
    return "\n\n".join(part for part in body if part) + "\n"


def _failures(frames: Frames) -> str:
    lines = []
    for row in frames.trials[frames.trials["status"] != "finished"].to_dict("records"):
        seed = "" if pd.isna(row["seed"]) else f", seed {row['seed']}"
        reason = "no record: it was not run, or it was interrupted"
        if row["status"] == "failed":
            told = "" if pd.isna(row["failure_kind"]) else f"{row['failure_kind']}: {row['failure_message']}"
            reason = markdown(_clip(told)) or "its record gives no reason"
        lines.append(f"- {markdown(row['label'])}{seed} (`{row['trial_id']}`): {row['status']}; {reason}")
    return "\n".join(lines)


def _clip(text: str, *, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _reproduce(report: Report, manifest: Manifest) -> str:
    items = (report.folder / "records" / "items.parquet").exists()
    scores = "`records/items.parquet`" if items else f"not here (none, or above {ITEMS_LIMIT_BYTES // 2**20} MiB)"
    return (
        f"```sh\n{manifest.command}\n```\n\nEverything in this folder is made from `manifest.json` and `records/` "
        f"alone (`harness.analysis.report.rebuild`). Scores per item: {scores}."
    )


def _provenance(frames: Frames, manifest: Manifest) -> str:
    records = [record for record in frames.records if record is not None]
    cores = sorted({record.core for record in records})
    lines = [
        f"- Workload: {markdown(manifest.workload)}, {markdown(manifest.split)} split",
        f"- Distillation core: {', '.join(f'`{core}`' for core in cores) or 'no record'}",
        *(f"- {markdown(key)}: {markdown(', '.join(v))}" for key, v in findings.environment(records).items()),
        "",
        "| Strategy | Seed | Trial | Status |",
        "| --- | ---: | --- | --- |",
    ]
    for row in frames.trials.to_dict("records"):
        seed = "—" if pd.isna(row["seed"]) else row["seed"]
        lines.append(f"| {markdown(row['label'])} | {seed} | `{row['trial_id']}` | {row['status']} |")
    return "\n".join(lines)
