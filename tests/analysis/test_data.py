"""Results as data frames: what the page says of them, without torch, the same in every file; the notebook runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import harness
from harness.analysis.data import TABLES, ReportData
from harness.cli.main import app
from harness.config.errors import UnknownNameError, UserError

PROJECT = Path(__file__).parents[2]
REPORT = PROJECT / "reports" / "position_axis"


@pytest.fixture(scope="module")
def data() -> ReportData:
    return harness.load(str(REPORT))


@pytest.mark.parametrize("name", TABLES)
def test_the_page_names_the_columns_of_every_table(name: str, data: ReportData) -> None:
    page = (PROJECT / "docs" / "results.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
    columns = re.findall(r"^\| `(\w+)` \| \S", section, flags=re.MULTILINE)
    assert list(data.table(name).columns) == columns
    assert len(data.table(name)) > 0


def test_numbers_have_their_stored_unit_and_direction(data: ReportData) -> None:
    pairs = {name: list(data.table(name).groupby("metric")[["unit", "direction"]].first().itertuples(name=None))
             for name in ("metrics", "costs")}  # fmt: skip
    assert ("accuracy", "share", "higher") in pairs["metrics"]
    assert ("heldout_loss", "nats/token", "lower") in pairs["metrics"]
    assert ("peak_gib", "GiB", "lower") in pairs["costs"]
    assert ("wall_method_s", "s", "lower") in pairs["costs"]
    shares = data.costs.query("metric == 'realised_fraction'")
    assert set(shares["unit"]) == {"share"}
    assert shares["direction"].isna().all(), "neither more nor less is better by itself"
    assert data.metrics.query("metric == 'accuracy'")["value"].dropna().between(0, 1).all()


def test_comparisons_are_those_of_the_report(data: ReportData) -> None:
    ours = data.comparisons.set_index(["label", "metric"])
    theirs = pd.read_csv(REPORT / "tables" / "main.csv").set_index(["label", "metric"])
    row = ("SE-KD 20%", "heldout_loss")
    assert ours.loc[row, "mean"] == pytest.approx(theirs.loc[row, "mean"])
    assert ours.loc[row, "ci_low"] == pytest.approx(theirs.loc[row, "ci_low"])
    assert str(ours.loc[row, "verdict"]) == str(theirs.loc[row, "verdict"])
    values = data.metrics.query("label == 'SE-KD 20%' and metric == 'heldout_loss'")["value"]
    assert ours.loc[row, "mean"] == pytest.approx(values.mean())


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "MPLBACKEND": "agg"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )


def test_the_notebook_runs_without_torch() -> None:
    notebook = json.loads((PROJECT / "docs" / "results.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    ran = run("\n".join([*code, "import sys; assert len(loss) == 14; assert 'torch' not in sys.modules"]))
    assert ran.returncode == 0, ran.stderr


def export(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["export-table", *map(str, arguments)])
    return done.exit_code, str(done.exception or done.output)


def test_a_table_is_the_same_in_every_file(data: ReportData, tmp_path: Path) -> None:
    for name in ("comparisons", "costs"):
        for kind in ("csv", "parquet"):
            assert export(REPORT, name, tmp_path / f"{name}.{kind}")[0] == 0
        whole = pd.read_parquet(tmp_path / f"{name}.parquet")
        text = pd.read_csv(tmp_path / f"{name}.csv")
        pd.testing.assert_frame_equal(whole, data.table(name))
        assert list(text.columns) == list(whole.columns)
        numbers = whole.select_dtypes("float64").columns
        pd.testing.assert_frame_equal(text[numbers].astype("float64"), whole[numbers], rtol=1e-12)


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    assert "must end in .csv or .parquet" in export(REPORT, "metrics", tmp_path / "metrics.xlsx")[1]
    assert "unknown table 'metric'. Did you mean 'metrics'?" in export(REPORT, "metric", tmp_path / "m.csv")[1]
    assert "no manifest" in export(tmp_path, "metrics", tmp_path / "m.csv")[1]
    with pytest.raises(UserError, match="no manifest"):
        harness.load(tmp_path)
    with pytest.raises(UnknownNameError):
        harness.load(REPORT).table("item")
    assert list(tmp_path.iterdir()) == []
