"""The tables beside the records: gathered from a results folder and from a report's, alike."""

from pathlib import Path

import pandas as pd
import pytest

from harness.analysis.frame import load
from harness.config.errors import UserError
from harness.records.layout import Results
from harness.records.record import Manifest, ManifestEntry, Record
from harness.records.store import write_record

ENTRIES = (
    ManifestEntry(trial_id="b", label="Full KD", seed=1),
    ManifestEntry(trial_id="a", label="Full KD", seed=0),
    ManifestEntry(trial_id="t", label="Teacher", seed=None),
    ManifestEntry(trial_id="gone", label="SE-KD", seed=0),
)
MANIFEST = Manifest(
    grid="g", hypothesis="", workload="tiny", baseline=None, split="test", command="harness run", trials=ENTRIES
)


def items(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"task": "x", "item": range(len(values)), "metric": "accuracy", "value": values})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    tables = {
        "b": {"items": items(0.0, 1.0)},
        "a": {"items": items(1.0), "curve": pd.DataFrame({"step": [1]})},
        "t": {},
    }
    for entry in ENTRIES[:-1]:
        record = Record(
            trial_id=entry.trial_id,
            label="an older label",
            strategy={},
            workload={},
            seed=entry.seed,
            sources={},
            core="c",
            status="finished",
            started_at="",
            finished_at="",
        )
        write_record(Results(tmp_path / "results"), record, tables[entry.trial_id])
    return tmp_path / "results"


def test_tables_follow_the_manifest(results: Path):
    tables = load(results, MANIFEST).tables
    assert set(tables) == {"items", "curve"}
    found = tables["items"]
    assert list(found.columns) == ["trial_id", "label", "seed", "task", "item", "metric", "value"]
    assert found["trial_id"].tolist() == ["b", "b", "a"]
    assert found["seed"].tolist() == [1, 1, 0]
    assert found["label"].unique().tolist() == ["Full KD"]
    assert tables["curve"]["step"].tolist() == [1]


def test_a_report_folder_gives_the_same(results: Path, tmp_path: Path):
    report = tmp_path / "report"
    (report / "records").mkdir(parents=True)
    (report / "manifest.json").write_text(MANIFEST.model_dump_json())
    for entry in ENTRIES[:-1]:
        record = (results / "trials" / entry.trial_id / "record.json").read_text()
        (report / "records" / f"{entry.trial_id}.json").write_text(record)
    # A report may hold its rows in another order, and rows of trials the manifest no longer lists.
    parts = [items(1.0).assign(trial_id="a"), items(0.5).assign(trial_id="other"), items(0.0, 1.0).assign(trial_id="b")]
    pd.concat(parts).to_parquet(report / "records" / "items.parquet", index=False)
    pd.DataFrame({"step": [1], "trial_id": ["a"]}).to_parquet(report / "records" / "curve.parquet", index=False)
    ours, theirs = load(report, MANIFEST).tables, load(results, MANIFEST).tables
    assert set(ours) == set(theirs)
    for name, table in theirs.items():
        pd.testing.assert_frame_equal(ours[name], table)


def test_a_broken_table_is_named(results: Path):
    path = results / "trials" / "a" / "items.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"trials/a/items\.parquet is not a readable table"):
        load(results, MANIFEST)
