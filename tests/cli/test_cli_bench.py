"""`harness bench`: every command at a small size, and what it leaves behind."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from sampling import sampled
from typer.testing import CliRunner

from harness.cli import main as cli
from harness.cli.bench import bench_app
from harness.cost.bench import run
from harness.cost.bench.targets import Target

PROJECT = Path(__file__).parents[2]
KEYS = {
    "memory": ["pair", "batch_size", "length", "micro_batches", "checkpointing", "optimizer", "chunk_rows", "variant"],
    "trace": ["pair", "batch_size", "length", "micro_batches", "variant", "label", "part"],
    "flops": ["pair", "batch_size", "length", "variant"],
    "scaling": ["pair", "batch_size", "length", "positions"],
    "step": ["pair", "batch_size", "length", "threads", "rounds", "variant"],
    "grid": ["pair", "grid", "unit", "strategies", "seeds"],
    "storage": ["pair", "classes", "stored"],
}
SMALL = {
    "memory": ["--pair", "tiny", "--batch-size", "2", "--length", "16", "--logit-memory-mib", "1"],
    "trace": ["--pair", "tiny", "--batch-size", "2", "--length", "16", "--logit-memory-mib", "1"],
    "flops": ["--pair", "tiny", "--length", "16"],
    "scaling": ["--pair", "tiny", "--sizes", "2x16", "--logit-memory-mib", "1"],
    "step": ["--pairs", "tiny", "--length", "16", "--rounds", "1", "--threads", "1"],
    "grid": ["--pairs", "tiny", "--batch-size", "2", "--length", "16", "--sequences", "2"],
    "storage": ["--pair", "tiny", "--rows", "8"],
}


@pytest.fixture(autouse=True)
def fewer_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MEMORY", ("floor", "full_kd_dense", "se_kd", "trl"))
    monkeypatch.setattr(run, "COUNTED", ("full_kd_chunked", "se_kd", "se_kd_3x"))
    monkeypatch.setattr(run, "TIMED", ("full_kd_dense_cached", "full_kd_cached", "se_kd_cached"))


@pytest.mark.parametrize("name", sampled(sorted(SMALL), [0, 1, 3, 4, 5, 6]))
def test_a_command_prints_its_table_and_leaves_numbers_page_and_figure(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    given = [name, *([str(PROJECT / "grids/position_axis.yaml")] if name == "grid" else []), *SMALL[name]]
    monkeypatch.setattr(sys, "argv", ["harness", "bench", *given])
    result = CliRunner().invoke(bench_app, [*given, "--reports", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert {path.name for path in tmp_path.glob("*.*")} == {f"{name}.{kind}" for kind in ("csv", "md", "tex", "json")}
    assert {path.name for path in tmp_path.glob("figures/*")} == {f"{name}.png"}
    page = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert f"](figures/{name}.png)" in page
    found = pd.read_csv(tmp_path / f"{name}.csv")
    assert list(found.columns)[: len(KEYS[name])] == KEYS[name]
    assert len(found) > 0
    about = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert about["command"].startswith(f"harness bench {name}")
    assert about["threads"] == 1  # what the tests run on, and what `step` is asked for
    assert {"python", "torch", "transformers"} <= about["versions"].keys()
    for target in about["targets"]:
        met = target.pop("met")
        assert Target(**target).met == met
        assert target["what"].split(",")[0] in result.output
    assert (len(about["targets"]) > 0) == (name not in ("storage", "trace"))
    if name == "memory" and "trl" not in about["versions"]:
        assert "pip install 'selective-kd-harness[outside]'" in result.output


def test_the_same_numbers_give_the_same_files(tmp_path: Path) -> None:
    for number in (0, 1):
        given = ["storage", *SMALL["storage"], "--reports", str(tmp_path / str(number))]
        CliRunner().invoke(bench_app, given, catch_exceptions=False)
    for kind in ("storage.csv", "figures/storage.png"):
        files = [tmp_path / number / kind for number in "01"]
        assert files[0].read_bytes() == files[1].read_bytes(), kind


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["memory", "--pair", "qwen"], "unknown pair of shapes 'qwen'. Did you mean 'qwen3'?"),
        (["scaling", "--sizes", "2,512"], "--sizes takes sequences x tokens separated by commas"),
        (["grid", "grids/position_axis.yaml", "--sequences", "2"], "--sequences 2 do not fill one batch of 4"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    given: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(sys, "argv", ["harness", "bench", *given])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_paper_scale_without_a_gpu_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.config.errors import UserError
    from harness.cost.bench import paper_scale

    def none(*_: object) -> str:
        raise UserError("--paper-scale runs on a CUDA GPU")

    monkeypatch.setattr(paper_scale, "require_gpu", none)
    monkeypatch.setattr(sys, "argv", ["harness", "bench", "--paper-scale"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "CUDA GPU" in capsys.readouterr().err


def test_without_a_command_bench_shows_its_help() -> None:
    result = CliRunner().invoke(bench_app, [])
    assert result.exit_code == 0
    assert "--paper-scale" in result.output
    assert "scaling" in result.output
