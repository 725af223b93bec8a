"""The arithmetic of the benchmarks' tables and targets."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from harness.analysis import published
from harness.config import Choice
from harness.config.errors import UserError
from harness.config.expand import load_grid, presets
from harness.cost.bench import grid, paper_scale, step, storage, targets
from harness.cost.bench.memory import with_savings
from harness.cost.rig import Setting
from harness.cost.shapes import load_pair
from harness.cost.variants import VARIANTS, variant

PROJECT = Path(__file__).parents[2]


def setting() -> Setting:
    return Setting(pair=load_pair("tiny"), batch_size=2, length=16, logit_memory_mib=1)


def memory_rows() -> pd.DataFrame:
    shared = {"pair": "qwen3", "batch_size": 2, "length": 512, "checkpointing": False}
    beyond = {"beyond_floor_gib": 0.1, "beyond_floor_with_head_gradient_gib": 0.7}
    sizes = {"floor": (6.5, 24.0), "full_kd_dense": (10.0, 30.0), "full_kd_chunked": (9.0, 28.0), "se_kd": (7.0, 24.9)}
    return pd.DataFrame(
        {
            **shared,
            **beyond,
            "optimizer": optimizer,
            "micro_batches": micro_batches,
            "variant": name,
            "student_gib": student + extra,
            "total_gib": total + extra,
        }
        for micro_batches in (1, 2)
        for optimizer, extra in (("none", 0.0), ("adamw", 6.0))
        for name, (student, total) in sizes.items()
    )


def test_savings_are_against_the_default_flow_of_the_same_setting() -> None:
    found = with_savings(memory_rows()).set_index(["micro_batches", "optimizer", "variant"])
    assert found.loc[(1, "none", "full_kd_dense"), "student_saving_percent"] == 0
    assert found.loc[(2, "none", "se_kd"), "student_saving_percent"] == pytest.approx(30.0)
    assert found.loc[(1, "adamw", "se_kd"), "student_saving_percent"] == pytest.approx(100 * 3 / 16)
    assert found.loc[(1, "adamw", "se_kd"), "total_saving_percent"] == pytest.approx(100 * 5.1 / 36)


def test_memory_targets_are_the_papers_row_for_every_optimiser() -> None:
    made = targets.memory_targets(memory_rows())
    flat, rows = made[:2], made[2:]
    assert [target.met for target in flat] == [True, True]
    assert "0.70" in flat[0].what
    assert "with no logits at all: 35.0" in rows[0].what
    assert len(rows) == 2 * 2 * 2
    assert [target.met for target in rows if "optimiser state none, 1" in target.what] == [True, False]
    assert rows[0].measured == pytest.approx(30.0)


def test_a_target_on_its_bound_is_met() -> None:
    for better in ("at most", "at least"):
        assert targets.Target(what="x", measured=1.5, bound=1.5, better=better).met
    assert not targets.Target(what="x", measured=1.6, bound=1.5, better="at most").met
    assert not targets.Target(what="x", measured=1.4, bound=1.5, better="at least").met


def test_speedups_are_taken_within_rounds() -> None:
    seconds = {
        step.REFERENCE: ("dense", [2.0, 8.0, 3.0]),  # the machine was busy in the second round
        "se_kd_cached": ("SE-KD", [1.0, 4.0, 1.0]),
        "full_kd_cached": ("chunked", [4.0, 8.0, 3.0]),
    }
    found = step.summary(seconds, setting(), threads=2).set_index("variant")
    assert found.loc["se_kd_cached", ["speedup_min", "speedup_median", "speedup_max"]].tolist() == [2.0, 2.0, 3.0]
    assert found.loc["se_kd_cached", "seconds_median"] == 1.0
    assert found.loc[step.REFERENCE, "speedup_max"] == 1.0
    assert found["threads"].tolist() == [2, 2, 2]
    made = targets.step_targets(found.reset_index())
    assert [target.met for target in made] == [True, True]


def test_every_round_times_every_variant() -> None:
    chosen = [variant(name) for name in (step.REFERENCE, "full_kd_cached", "se_kd_cached")]
    told: list[int] = []
    found = step.measure(chosen, setting(), rounds=2, on_round=told.append)
    assert told == [1, 2]
    assert found["variant"].tolist() == [each.name for each in chosen]
    assert (found["seconds_min"] > 0).all()


def test_a_grid_is_its_teacher_once_and_its_strategies_for_every_seed() -> None:
    costs = grid.Costs(once=6.0, whole=(11.0, 22.0), student=(10.0, 20.0))
    found = grid.table(costs, pair="tiny", unit="seconds per step", steps=2).set_index("seeds")
    assert found.loc[1, "ratio"] == pytest.approx((6 + 33) / 30)
    assert found.loc[3, "ratio"] == pytest.approx((6 + 99) / 90)
    assert found.loc[3, ["teacher_once", "strategies_with_cached_teacher", "student_only"]].tolist() == [
        3.0,
        49.5,
        45.0,
    ]
    shares = found["teacher_once_share"] + found["teacher_head_share"]
    assert (1 + shares).tolist() == pytest.approx(found["ratio"].tolist())
    assert [target.met for target in targets.grid_targets(found.reset_index())] == [False, False]


@pytest.mark.parametrize(
    ("signal", "twin"),
    [("student_ce", "student_ce"), ("kl", "student_entropy"), ("teacher_entropy", "random")],
)
def test_a_twin_reads_no_teacher_and_keeps_the_rest(signal: str, twin: str) -> None:
    se_kd = presets()["se_kd"]
    strategy = se_kd.model_copy(update={"position": se_kd.position.model_copy(update={"signal": Choice(name=signal)})})
    found = grid.student_only(strategy)
    assert found.position.signal == Choice(name=twin)
    assert found.position.budget == se_kd.position.budget
    assert found.criterion == Choice(name="cross_entropy")


def test_a_grids_operations_are_the_students_and_the_teachers_head() -> None:
    pair = load_pair("tiny")
    strategies = [presets()[name] for name in ("full_kd", "se_kd")]
    costs = grid.count(strategies, setting(), pair)
    head = 2 * pair.vocab_size * int(pair.teacher.hidden_size)
    assert costs.once > 0
    assert [whole - student for whole, student in zip(costs.whole, costs.student, strict=True)] == [
        head * 2 * 15,
        head * 2 * 3,
    ]


def test_the_default_grid_has_twelve_strategies() -> None:
    trained = [each for each in load_grid(PROJECT / "grids/position_axis.yaml").strategies if each.train]
    assert len(trained) == 12


def test_stored_bytes_scale_to_100_billion_tokens() -> None:
    found = storage.table(16, load_pair("qwen3")).set_index("stored")
    assert found.loc["every logit", "bytes_per_token"] == 2 * 151_936
    assert found.loc["targets alone (cross-entropy)", ["terabytes_100b_tokens", "published_terabytes"]].tolist() == [
        0.4,
        0.3,
    ]
    assert found.loc["hidden states", "bytes_per_token"] == 2 * 4096
    assert found.loc["hidden states", "terabytes_100b_tokens"] == pytest.approx(819.2)
    whole, share = (found.loc[name, "bytes_per_token"] for name in ("64 draws", "64 draws, SE-KD 3X"))
    assert share == pytest.approx(0.2 * whole)
    assert 1 + 3 <= whole <= 1 + 3 * 64
    assert found.loc["64 draws", "published_terabytes"] == 19.2


def test_published_figures_are_found_by_name() -> None:
    find = published.load().find
    assert find("Full KD (default flow)", "student_peak_gb") == 15.88
    assert find("SE-KD no selective head (default flow)", "wall_minutes_5M_tokens") is None
    rows = published.load().rows
    theirs = set(rows.loc[rows["table"] == "memory_rtx3090_B2_L512", "method"])
    assert {each.published for each in VARIANTS if each.published is not None} == theirs
    assert {variant(name).published for name in paper_scale.VARIANTS} == theirs


def test_paper_scale_measures_every_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["full_kd_dense", "se_kd_dense", "se_kd"]
    assert set(names) < set(paper_scale.VARIANTS)
    chosen = [variant(name) for name in names]
    found = paper_scale.measure(chosen, [setting()], optimizer="adamw", steps=1)
    assert found["variant"].tolist() == names
    assert (found["status"] == "ok").all()
    # On a CPU only what comes to life is seen, which is most with whole logits.
    named = found.set_index("variant")
    assert named.loc["full_kd_dense", "one_device_gib"] > named.loc["se_kd", "one_device_gib"] > 0
    assert named.loc["full_kd_dense", "teacher_gib"] > named.loc["se_kd", "teacher_gib"] > 0
    assert named.loc["full_kd_dense", "accounted_gib"] > named.loc["se_kd", "accounted_gib"]
    assert (named["student_gib"] > 0).all()
    assert named.loc["se_kd", "hours_80m_tokens"] == pytest.approx(
        named.loc["se_kd", "seconds_median"] * 80e6 / (2 * 16) / 3600
    )

    def full(*_: object) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(paper_scale, "peak_bytes", full)
    found = paper_scale.measure(chosen[:1], [setting()], optimizer="none", steps=1)
    assert found["status"].tolist() == ["out of memory"]


def test_without_a_gpu_paper_scale_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(paper_scale, "paper_setting", lambda *_: setting())
    with pytest.raises(UserError, match=r"finds none\. It would need about \d+ GiB"):
        paper_scale.require_gpu()
