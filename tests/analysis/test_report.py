"""A report of a grid in which one trial failed and one never ran: tables, figure, text, and rebuilding from itself."""

import csv
import hashlib
import html
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from harness.analysis.archive import shorten_paths
from harness.analysis.document import Table
from harness.analysis.frame import load
from harness.analysis.report import Report, rebuild, write_report
from harness.analysis.write.terminal import print_table
from harness.config.errors import UnknownNameError, UserError
from harness.records.files import write_text
from harness.records.layout import Results
from harness.records.record import Cost, Failure, Manifest, ManifestEntry, Metric, Record, Supervision
from harness.records.store import read_manifest, write_record

GRID = "synthetic"
ODD = "Random | 20% & x_1 $k"
# Per seed: held-out loss, accuracy, perplexity, KL to the teacher.
SEEDED = {
    "Full KD": [(2.10, 0.640, 7.3, 0.30), (2.14, 0.644, 7.5, 0.32), (2.12, 0.648, 7.1, 0.31)],
    "SE-KD": [(2.05, 0.650, 6.9, 0.28), (2.092, 0.652, 7.2, 0.30), (2.068, 0.660, 6.8, 0.288)],
    ODD: [(2.11, 0.639, 7.6, 0.31), (2.12, 0.646, 7.2, 0.31), (2.13, 0.645, 7.3, 0.31)],
    "Weighted KD": [(2.20, 0.630, 8.0, 0.40), None, None],
    "AT-KD": [(2.20, 0.62, 8.4, 0.36), (2.242, 0.622, 8.7, 0.382), (2.219, 0.63, 8.1, 0.369)],
}
SEEDLESS = {"No KD": (2.90, 0.619, 12.2, 0.90), "Teacher": (1.60, 0.738, 4.6, 0.0)}
MISSING = ("Weighted KD", 2)


def entries() -> tuple[ManifestEntry, ...]:
    seeded = [(label, seed) for label in SEEDED for seed in range(3)]
    pairs = [*((label, None) for label in SEEDLESS), *seeded]
    return tuple(ManifestEntry(trial_id=f"t{n:02d}", label=label, seed=seed) for n, (label, seed) in enumerate(pairs))


def record(entry: ManifestEntry, values: tuple[float, ...] | None) -> Record:
    keys = ("heldout_loss", "accuracy", "perplexity", "teacher_kl")
    metrics = {key: Metric(value=value, stderr=0.01, num=500) for key, value in zip(keys, values or (), strict=False)}
    if values:
        metrics |= {"accuracy/tiny_arithmetic": Metric(value=0.5, num=100), "novel": Metric(value=3.0, num=1)}
    trained = entry.seed is not None
    failure = Failure(
        kind="OutOfMemoryError",
        message="CUDA out of memory, see /home/someone/project/harness/distill/step.py",
        traceback='File "/home/someone/project/harness/distill/step.py", line 3',
    )
    return Record(
        trial_id=entry.trial_id,
        label=entry.label,
        strategy={},
        workload={"name": "tiny"},
        seed=entry.seed,
        sources={},
        core="c0ffee",
        status="finished" if values else "failed",
        metrics=metrics,
        selection=Supervision(valid_positions=100, supervised_positions=20, realised_fraction=0.2) if trained else None,
        cost=Cost(
            wall_s={"load": 1.0, "eval": 2.0} | ({"train": 30.0} if trained else {}),
            peak_gib={"process": 1.5},
            flops={"student_trunk": 1e12, "student_head": 5e11} if trained else {},
            tokens=1000,
        ),
        environment={"torch": "2.13.0", "device": "cpu"},
        started_at="2026-01-01T00:00:00Z",
        finished_at="2026-01-01T00:01:00Z",
        failure=None if values else failure,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    manifest = Manifest(
        grid=GRID,
        hypothesis="Uncertain positions suffice.\nSecond line.",
        workload="tiny",
        baseline="Full KD",
        split="validation",
        command=f"harness run grids/{GRID}.yaml",
        trials=entries(),
    )
    write_text(folder / GRID / "manifest.json", manifest.model_dump_json(indent=1))
    for entry in manifest.trials:
        if (entry.label, entry.seed) == MISSING:
            continue
        values = SEEDLESS[entry.label] if entry.seed is None else SEEDED[entry.label][entry.seed]
        items = pd.DataFrame({"task": "tiny", "item": range(5), "metric": "accuracy", "value": 1.0}) if values else None
        write_record(Results(folder), record(entry, values), {} if items is None else {"items": items})
    return folder


@pytest.fixture(scope="module")
def report(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report(results, GRID, tmp_path_factory.mktemp("reports"))


def cells(text: str, label: str) -> dict[str, str]:
    """A row of a Markdown table by heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    (row,) = (row for row in rows if row[0] == label)
    return dict(zip(rows[0], row, strict=True))


def read(report: Report, name: str) -> str:
    return (report.folder / name).read_text(encoding="utf-8")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(report: Report, name: str) -> Table:
    (found,) = (one for one in report.document.tables if one.name == name)
    return found


def test_every_planned_trial_has_its_rows(report: Report):
    trials, metrics = report.frames.trials, report.frames.metrics
    assert list(trials["trial_id"]) == [entry.trial_id for entry in entries()]
    assert trials["status"].value_counts().to_dict() == {"finished": 15, "failed": 1, "missing": 1}
    assert (metrics.groupby("trial_id").size() == metrics["metric"].nunique()).all()
    failed = trials[trials["status"] == "failed"].iloc[0]
    assert (failed["label"], failed["seed"], failed["failure_kind"]) == ("Weighted KD", 1, "OutOfMemoryError")
    assert trials.loc[trials["label"] == "SE-KD", "wall_total_s"].tolist() == [33.0] * 3
    assert trials.loc[trials["label"] == "Teacher", "wall_train_s"].isna().all()
    assert trials.loc[trials["label"] == "SE-KD", "flops_total"].tolist() == [1.5e12] * 3


def test_table_in_markdown(report: Report):
    text = read(report, "tables/main.md")
    ours = cells(text, "SE-KD")
    assert ours["Held-out loss (nats/token) ↓"] == "**2.0700 ± 0.0211**"
    assert (ours["Seeds"], ours["Realised (%)"], ours["Train (s)"], ours["FLOPs"]) == ("3/3", "20.0", "30.0", "1.5e+12")
    assert cells(text, "Full KD")["Held-out loss (nats/token) ↓"] == "2.1200 ± 0.0200"
    assert cells(text, "Teacher")["Held-out loss (nats/token) ↓"] == "**1.6000**"
    assert cells(text, "No KD")["Held-out loss (nats/token) ↓"] == "2.9000 †"
    assert cells(text, r"Random \| 20% & x_1 \$k")["Held-out loss (nats/token) ↓"] == "2.1200 ± 0.0100 ≈"
    part = cells(text, "Weighted KD")
    assert (part["Seeds"], part["Held-out loss (nats/token) ↓"]) == ("1/3 (1 failed, 1 missing)", "2.2000")
    assert cells(text, "Teacher")["Train (s)"] == "—"
    assert "Adherence" not in text  # nothing measured it
    assert [row[0].text for row in report.document.tables[0].rows] == [*SEEDLESS, *SEEDED]


def test_table_in_csv(report: Report):
    rows = list(csv.DictReader(io.StringIO(read(report, "tables/main.csv"))))
    (row,) = (row for row in rows if (row["label"], row["metric"]) == ("SE-KD", "heldout_loss"))
    assert float(row["mean"]) == pytest.approx(2.07)
    assert (row["n"], row["num_planned"]) == ("3", "3")
    (cost,) = (row for row in rows if (row["label"], row["metric"]) == ("SE-KD", "wall_train_s"))
    assert (cost["mean"], cost["std"], cost["verdict"]) == ("30", "0", "")


def test_table_in_latex_is_escaped(report: Report):
    text = read(report, "tables/main.tex")
    assert r"Random \textbar{} 20\% \& x\_1 \$k" in text
    assert r"\textbf{1.6000}" in text
    assert r"2.9000$^\dagger$" in text
    assert text.count(r"\begin") == text.count(r"\end{") == 2
    widths = {line.count(" & ") for line in text.splitlines() if line.endswith(r"\\")}
    assert len(widths) == 1
    assert not re.search("[±↑↓†≈—]", text)


@pytest.mark.parametrize("width", [100, 120])
def test_table_in_a_terminal(report: Report, width: int):
    stream = io.StringIO()
    print_table(Console(file=stream, width=width), report.document.tables[0])
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in stream.getvalue()
    assert sum("1.6000*" in line for line in lines) == 1
    # Every block of columns names every strategy.
    ours = [line for line in lines if line.startswith("SE-KD")]
    assert len(ours) == sum(line.startswith("Full KD ") for line in lines) > 1
    assert any(line.startswith(ODD) for line in lines)


def test_every_table_and_figure_is_a_file_of_each_format(report: Report):
    names = {path.name for path in (report.folder / "tables").iterdir()}
    assert names == {f"{table.name}.{suffix}" for table in report.document.tables for suffix in ("csv", "md", "tex")}
    names = {path.name for path in (report.folder / "figures").iterdir()}
    assert names == {f"{plot.name}.png" for plot in report.document.plots}
    assert {"main", "comparisons", "failures", "trials"} <= {table.name for table in report.document.tables}
    text, page = read(report, "report.md"), read(report, "report.html")
    for block in (*report.document.tables, *report.document.plots):
        assert f"### {block.title}" in text
        assert f">{html.escape(block.title)}<" in page


def test_pdf_is_written_where_it_is_asked_for_and_whoever_draws_draws_the_same(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # no process to spare
    other = rebuild(report.folder, destination=tmp_path, pdf=True)
    files = {path.name: path.read_bytes() for path in (other.folder / "figures").iterdir()}
    printed = {name: data for name, data in files.items() if name.endswith(".pdf")}
    assert {name.removesuffix(".pdf") for name in printed} == {plot.name for plot in report.document.plots}
    assert all(data.startswith(b"%PDF-") for data in printed.values())
    ours = {path.name: path.read_bytes() for path in (report.folder / "figures").iterdir()}
    assert ours == {name: data for name, data in files.items() if name not in printed}


def test_page_needs_nothing_else_and_escapes_what_it_prints(report: Report):
    page = read(report, "report.html")
    assert "Random | 20% &amp; x_1 $k" in page
    assert "default-src 'none'" in html.unescape(page)
    anchors = re.findall(r' id="([^"]+)"', page)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(anchors)
    sources = re.findall(r'(?:src|href)="([^#"][^"]{0,20})', page)
    assert [source for source in sources if not source.startswith("data:")] == []


def test_hostile_texts_stay_texts(results: Path, tmp_path: Path):
    bad = "<script>alert(1)</script>"
    folder = altered(
        results, tmp_path, hypothesis=bad, baseline=None, trials=[{"trial_id": "t00", "label": bad, "seed": None}]
    )
    failure = Failure(kind=bad, message="</style>" + bad, traceback="")
    payload = record(entries()[0], None).model_copy(update={"label": bad, "failure": failure})
    write_record(Results(folder), payload, {})
    page = read(write_report(folder, GRID, tmp_path / "reports"), "report.html")
    assert bad not in page
    assert page.count("<script") == page.count("</style") == 1
    assert html.escape(bad) in page


def test_page_says_what_the_numbers_say(report: Report):
    text = read(report, "report.md")
    assert "> Uncertain positions suffice.\n> Second line." in text
    assert "harness run grids/synthetic.yaml" in text
    assert "Full KD against No KD: Held-out loss (nats/token) 2.9000 → 2.1200, difference -0.7800 " in text
    assert (
        "Held-out loss: of 4 trained strategies, against Full KD, 1 better, 1 worse, 1 not distinguishable, 1 untested"
        in text
    )
    assert "| Weighted KD | 1 | `t12` | failed | OutOfMemoryError: CUDA out of memory, see harness/distill/" in text
    assert "| Weighted KD | 2 | `t13` | missing | no record: it was not run" in text
    assert cells(text[text.index("### Versions and workload") :], "torch")["Value"] == "2.13.0"
    assert "novel" in text
    digest = hashlib.sha256((report.folder / "records" / "t00.json").read_bytes()).hexdigest()
    assert digest in text
    assert report.warnings[0] == "The grid is incomplete: of 17 trials, 1 failed, 1 missing."
    assert "Means of Weighted KD are over the trials that finished" in report.warnings[1]


def test_compared_runs_are_matched_by_what_they_compute(report: Report, results: Path, tmp_path: Path):
    made = write_report(results, GRID, tmp_path, compare=report.folder)
    before = contents(made.folder)
    rows = {row[0].text: row for row in table(made, "compared_differences").rows}
    assert {cell.text for cell in rows["SE-KD"][2:]} == {"identical"}
    relations = [row[-1].text for row in table(made, "compared_trials").rows]
    assert relations.count("same trial, same numbers") == 16
    assert relations.count("no record in this run and the other run") == 1
    rebuild(made.folder)
    assert contents(made.folder) == before
    assert Path("compared/records/t00.json") in before


def test_rebuilding_gives_the_same_bytes(report: Report):
    before = contents(report.folder)
    rebuild(report.folder)
    after = contents(report.folder)
    assert before.keys() == after.keys()
    assert [str(name) for name in before if before[name] != after[name]] == []
    assert {"report.html", "figures/overview.png", "records/items.parquet", "records/t00.json"} <= {
        str(name) for name in before
    }
    assert [path.name for path in report.folder.parent.iterdir()] == [GRID]


def test_report_names_no_folder_of_its_machine(report: Report):
    assert all("/home/" not in path.read_text() for path in report.folder.rglob("*.[jm][sd]*"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('File "/a/b/harness/distill/step.py", line 3', 'File "harness/distill/step.py", line 3'),
        ("/a/lib/python3.11/site-packages/torch/nn/x.py", "torch/nn/x.py"),
        ("no file /data/cache/x.bin", "no file cache/x.bin"),
        ("see https://example.org/a/b, 3/4 of it", "see https://example.org/a/b, 3/4 of it"),
    ],
)
def test_shortened_paths(text: str, expected: str):
    assert shorten_paths(text) == shorten_paths(shorten_paths(text)) == expected


def test_crash_leaves_the_old_report(report: Report, results: Path, monkeypatch: pytest.MonkeyPatch):
    before = read(report, "report.md")
    monkeypatch.setattr("harness.analysis.report.saving", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(results, GRID, report.folder.parent)
    assert [path.name for path in report.folder.parent.iterdir()] == [GRID]
    assert read(report, "report.md") == before


def altered(results: Path, folder: Path, **changes: object) -> Path:
    """A results folder that has the manifest, altered, and no trials."""
    manifest = json.loads((results / GRID / "manifest.json").read_text()) | changes
    write_text(folder / GRID / "manifest.json", json.dumps(manifest))
    return folder


def test_grid_that_never_ran_still_has_a_report(results: Path, tmp_path: Path):
    report = write_report(altered(results, tmp_path), GRID, tmp_path / "reports")
    assert len(table(report, "failures").rows) == 17
    assert "The baseline has no finished trial" in read(report, "report.md")
    rebuild(report.folder)


def test_mixed_versions_are_a_warning(results: Path, tmp_path: Path):
    folder = altered(results, tmp_path, trials=[entry.model_dump() for entry in entries()[2:5]])
    for entry in entries()[2:5]:
        values = SEEDED["Full KD"][entry.seed or 0]
        changes: dict[str, Any] = {"core": f"core{entry.seed}", "environment": {"torch": f"2.{entry.seed}"}}
        if entry.seed:
            changes["environment"] |= {"arithmetic": ("pinned", "native")[entry.seed - 1]}
        write_record(Results(folder), record(entry, values).model_copy(update=changes), {})
    text = " ".join(write_report(folder, GRID, tmp_path / "reports").warnings)
    assert "different arithmetic: native, pinned" in text
    assert "The arithmetic is recorded of 2 of 3 trials; the others ran before it was." in text
    assert "core0, core1, core2" in text
    assert "different torch: 2.0, 2.1, 2.2" in text


def test_unusable_input_is_named(results: Path, report: Report, tmp_path: Path):
    twice = [entries()[2].model_dump(), entries()[2].model_dump()]
    with pytest.raises(UserError, match="two trials labelled 'Full KD' with seed 0"):
        write_report(altered(results, tmp_path / "a", trials=twice), GRID, tmp_path / "reports")
    with pytest.raises(UnknownNameError, match=r"unknown baseline 'Ful KD'\. Did you mean 'Full KD'"):
        write_report(altered(results, tmp_path / "b", baseline="Ful KD"), GRID, tmp_path / "reports")
    (tmp_path / "reports" / GRID).mkdir(parents=True)
    with pytest.raises(UserError, match="is not a report"):
        write_report(results, GRID, tmp_path / "reports")
    with pytest.raises(UserError, match="is not a report"):
        rebuild(results)
    swapped = altered(results, tmp_path / "c")
    source = Results(results).record("t00")
    write_text(Results(swapped).record("t01"), source.read_text())
    with pytest.raises(UserError, match="the manifest expects t01"):
        load(swapped, read_manifest(report.folder / "manifest.json"))
