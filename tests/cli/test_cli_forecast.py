"""`harness plan --gpu`, as typed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.config.errors import UserError


def test_a_grid_is_forecast_on_a_gpu(workload_file: Path, write_grid, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    grid = write_grid(["no_kd", "full_kd"], workload=str(workload_file))
    arguments = ["plan", str(grid), "--gpu", "l4", "--mfu", "0.2", "--results", str(tmp_path / "results")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "question on workload" in done.output
    assert "at 20% (--mfu, an estimate for workloads as shipped) of 30 TFLOP/s, l4's peak in float32" in done.output
    assert not (tmp_path / "results").exists()
    part = CliRunner().invoke(app, [*arguments, "--only", "Full"])
    assert isinstance(part.exception, UserError)


def test_a_plan_of_nothing_is_refused() -> None:
    done = CliRunner().invoke(app, ["plan"])
    assert isinstance(done.exception, UserError)
    with pytest.raises(UserError, match="takes a grid file, or --workload"):
        raise done.exception
