"""A grid's report: a folder that is committed, with the records it was made from, and can be made again from itself.

<destination>/<grid>/
  report.html  report.md           the same content, for a browser and for a repository
  tables/<name>.{csv,md,tex}       every table
  figures/<name>.png               every figure, as SVG in report.html; .pdf too where it was asked for
  manifest.json  records/          what all of it is made from
  compared/                        the same of another run, where the report compares with one
"""

import errno
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from harness.analysis import findings
from harness.analysis.archive import copy_run
from harness.analysis.compose import compose
from harness.analysis.document import Contents
from harness.analysis.figures import saving
from harness.analysis.frame import Frames, Origin, find, is_report, load
from harness.analysis.read import Run
from harness.analysis.tables import document_tables
from harness.analysis.tables.tuning import tuning_tables
from harness.analysis.tuning import read_tuned
from harness.analysis.write.csv import to_csv
from harness.analysis.write.html import to_html
from harness.analysis.write.latex import to_latex
from harness.analysis.write.markdown import to_markdown, to_markdown_table
from harness.analysis.write.terminal import print_table
from harness.config.errors import UserError
from harness.records.files import clear_litter, temporary
from harness.records.store import read_manifest

COMPARED = "compared"


@dataclass(frozen=True)
class Report:
    """What was written; the document's first table is the main one."""

    folder: Path
    document: Contents
    frames: Frames
    warnings: tuple[str, ...]

    @property
    def page(self) -> Path:
        """The report for a browser."""
        return self.folder / "report.html"


def write_report(
    results: Path, grid: str, destination: Path, *, compare: Path | None = None, pdf: bool = False
) -> Report:
    """Write the report of a grid into `<destination>/<grid>/`, replacing an earlier one as a whole.

    The records of a run that it compares with are kept in the report too. With `pdf`, figures are written as PDF too.

    Raises:
        UserError: a manifest is missing, or it or a record is unreadable; the manifest is another grid's; the folder
            to replace is not a report.
        UnknownNameError: the baseline is not one of the grid's labels.
    """
    other = None if compare is None else find(compare)
    return _publish(find(results / grid), destination / grid, other, pdf=pdf)


def rebuild(folder: Path, *, destination: Path | None = None, compare: Path | None = None, pdf: bool = False) -> Report:
    """Write a report again from its own manifest and records; with the same code, byte for byte.

    It goes into a folder of the same name in `destination`, or in its own place. A run that the report compares with
    stays unless there is another one in `compare`.

    Raises:
        UserError: the folder is not a report, or there is nothing to compare with at `compare`.
    """
    if not is_report(folder):
        raise UserError(f"{folder} is not a report: it needs manifest.json and records/")
    kept = folder / COMPARED if is_report(folder / COMPARED) else None
    other = compare or kept
    target = folder if destination is None else destination / folder.resolve().name
    return _publish(find(folder), target, None if other is None else find(other), pdf=pdf)


def print_report(report: Report, console: Console) -> None:
    """Print a report's main table, its warnings and where the rest is."""
    print_table(console, report.document.tables[0])
    for warning in report.warnings:
        console.print(f"Warning: {warning}", style="yellow", highlight=False, markup=False)
    console.print(f"Report: {report.page}", highlight=False, markup=False, soft_wrap=True)


def _publish(source: Origin, folder: Path, other: Origin | None, *, pdf: bool) -> Report:
    """Build the report beside its place and swap it in, so that a crash leaves the old one or none, never a half."""
    if folder.exists() and not is_report(folder):
        raise UserError(f"{folder} exists and is not a report: move it away, or choose another destination")
    partial, retired = temporary(folder), temporary(folder, "retired")
    clear_litter(folder.parent)
    for leftover in (partial, retired):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        copy_run(source.folder, source.manifest, partial)
        if other is not None:
            copy_run(other.folder, other.manifest, partial / COMPARED, tables=False)
        report = _write(partial, folder, pdf=pdf)
        _swap(partial, folder, retired)
    except OSError as error:
        raise UserError(f"report {folder} cannot be written: {error.strerror or error}") from None
    finally:
        if retired.exists() and not folder.exists():
            retired.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)
    return report


def _swap(partial: Path, folder: Path, retired: Path) -> None:
    """Put a report in its place; of two that do so at once, the later one stays."""
    while True:
        with suppress(FileNotFoundError):
            folder.rename(retired)
        try:
            partial.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(retired, ignore_errors=True)
        else:
            return


def _write(partial: Path, folder: Path, *, pdf: bool) -> Report:
    """Write what is made from the records in `partial`: from what the report itself holds, and from that alone."""
    run = read_run(partial)
    other = read_run(partial / COMPARED) if is_report(partial / COMPARED) else None
    for name in ("tables", "figures"):
        (partial / name).mkdir()
    with saving(run, partial / "figures", pdf=pdf) as plots:
        tables = (*document_tables(run), *tuning_tables(run, read_tuned(partial, run.manifest)))
        document = compose(run, tables, plots(), folder=partial, other=other)
        for table in document.tables:
            for suffix, text in (("csv", to_csv(table)), ("md", to_markdown_table(table)), ("tex", to_latex(table))):
                (partial / "tables" / f"{table.name}.{suffix}").write_text(text, encoding="utf-8")
    (partial / "report.md").write_text(to_markdown(document), encoding="utf-8")
    (partial / "report.html").write_text(to_html(document, partial / "figures"), encoding="utf-8")
    return Report(folder, document, run.frames, findings.warnings(run))


def read_run(folder: Path) -> Run:
    """Read a report, or a grid's results that were gathered in one folder.

    Raises:
        UserError: a manifest or a record that is missing or damaged.
    """
    manifest = read_manifest(folder / "manifest.json")
    return Run(manifest=manifest, frames=load(folder, manifest))
