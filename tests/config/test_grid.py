"""Grid files: presets, overrides, sweeps, labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.config import AsItIs, Strategy
from harness.config.expand import load_grid, presets
from harness.config.labels import describe
from harness.config.legality import check_strategy, components, teacher_reader
from harness.config.strategy import read_strategy
from strategies.registry import CLASSES, CRITERIA, POLICIES, SIGNALS

GRIDS = sorted((Path(__file__).parents[2] / "grids").glob("*.yaml"))
WriteGrid = Callable[..., Path]


def one(path: Path) -> Strategy:
    (strategy,) = load_grid(path).strategies
    return strategy


@pytest.mark.parametrize("name", list(presets()))
def test_every_preset_is_complete_and_legal(name: str, write_grid: WriteGrid) -> None:
    preset = presets()[name]
    check_strategy(preset)
    assert preset.label
    assert preset.source
    assert one(write_grid([name])) == preset


def test_labels_of_presets_differ() -> None:
    labels = [preset.label for preset in presets().values()]
    assert len(set(labels)) == len(labels)


def test_presets_compute_different_things() -> None:
    identities = [str(preset.identity()) for preset in presets().values()]
    assert len(set(identities)) == len(identities)


def test_the_position_grid_has_every_signal_of_the_paper() -> None:
    (path,) = [path for path in GRIDS if path.stem == "position_axis"]
    ranked = {s.position.signal.name for s in load_grid(path).strategies if s.train and s.position.signal}
    assert ranked == {name for name in SIGNALS if SIGNALS[name].source.startswith("arXiv:2602.01395")} - {"random"}
    assert len(ranked) == 9


def test_the_first_comment_is_the_hypothesis(tmp_path: Path) -> None:
    path = tmp_path / "q.yaml"
    path.write_text("# Entropy wins\n#  over chance.\nworkload: tiny\n# later\nsplit: test\nstrategies: [full_kd]\n")
    grid = load_grid(path)
    assert (grid.name, grid.hypothesis, grid.split, grid.seeds) == ("q", "Entropy wins over chance.", "test", None)


def test_an_override_is_laid_over_a_preset(write_grid: WriteGrid) -> None:
    strategy = one(write_grid([{"preset": "se_kd", "label": "x", "position": {"budget": 0.5}, "lambda": 0.25}]))
    assert strategy.position.budget == 0.5
    assert strategy.position.signal == presets()["se_kd"].position.signal  # type: ignore[union-attr]
    assert strategy.kd_weight == 0.25
    assert presets()["se_kd"].kd_weight == 1.0


def test_a_component_is_replaced_whole(write_grid: WriteGrid) -> None:
    strategy = one(write_grid([{"preset": "at_kd", "label": "x", "criterion": {"name": "forward_kl"}}]))
    assert strategy.criterion is not None
    assert strategy.criterion.options == {}


def test_null_takes_a_key_away(write_grid: WriteGrid) -> None:
    strategy = one(
        write_grid([{"preset": "se_kd", "label": "x", "position": {"signal": None, "budget": None, "policy": "all"}}])
    )
    assert strategy.identity() == presets()["full_kd"].identity()


def test_a_sweep_is_the_product_of_its_values(write_grid: WriteGrid) -> None:
    entry = {
        "preset": "se_kd",
        "label": "{signal} {budget} T{temperature}",
        "sweep": {"position.budget": [0.1, 0.07], "temperature": [1, 2], "position.signal": ["kl", "student_ce"]},
    }
    grid = load_grid(write_grid([entry, "full_kd"]))
    assert [strategy.label for strategy in grid.strategies] == [
        "kl 10% T1", "student ce 10% T1", "kl 10% T2", "student ce 10% T2",
        "kl 7% T1", "student ce 7% T1", "kl 7% T2", "student ce 7% T2",
        "Full KD",
    ]  # fmt: skip
    assert len({str(strategy.identity()) for strategy in grid.strategies}) == 9


def test_a_sweep_may_set_what_the_preset_leaves_out(write_grid: WriteGrid) -> None:
    grid = load_grid(write_grid([{"preset": "full_kd", "label": "{lambda}", "sweep": {"lambda": [0.5, 1.0]}}]))
    assert [(s.label, s.kd_weight) for s in grid.strategies] == [("0.5", 0.5), ("1", 1.0)]


def test_a_strategy_without_a_label_is_called_by_its_parts(write_grid: WriteGrid) -> None:
    position = {"signal": "kl", "policy": "top_k", "budget": 0.125}
    assert one(write_grid([{"position": position, "criterion": "reverse_kl"}])).label == "kl, top k, 12.5%, reverse kl"
    assert describe(AsItIs(label="")) == "as it is"


def test_components_include_what_others_are_made_of() -> None:
    strategy = read_strategy(
        {
            "label": "x",
            "position": {"signal": "ce_ratio_plus_student_entropy", "policy": "top_k", "budget": 0.5},
            "criterion": {"name": "at_kd", "hard_fraction": 0.5, "easy_weight": 0.2},
        }
    )
    assert {f"{part.kind} {part.name}" for part in components(strategy)} == {
        "policy top_k",
        "criterion at_kd",
        *(
            f"signal {name}"
            for name in (
                "student_ce", "teacher_ce", "ce_ratio", "student_entropy", "ce_ratio_plus_student_entropy",
                "teacher_uncertainty", "teacher_uncertainty_rank",
            )
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("teacher", "model: teacher"),
        ("no_kd", None),
        ("sft", None),
        ("full_kd", "criterion 'forward_kl'"),
        ("at_kd", "criterion 'at_kd'"),
    ],
)
def test_the_first_reader_of_the_teacher_is_named(name: str, reader: str | None) -> None:
    assert teacher_reader(presets()[name]) == reader


def test_a_student_signal_reads_no_teacher_and_a_composite_of_one_does() -> None:
    def reader(signal: str) -> str | None:
        fields: dict[str, Any] = {"signal": signal, "policy": "top_k", "budget": 0.5}
        return teacher_reader(read_strategy({"label": "x", "position": fields, "criterion": "cross_entropy"}))

    assert reader("student_entropy") is None
    assert reader("ce_ratio") == "signal 'ce_ratio'" or reader("ce_ratio") == "signal 'teacher_ce'"


def test_every_policy_and_criterion_of_the_registry_is_reachable_from_a_preset_or_a_grid() -> None:
    # The grid of everything is a product of the registry, and would be reachable whatever is missing elsewhere.
    shipped = [
        *presets().values(),
        *(s for path in GRIDS if path.stem != "everything" for s in load_grid(path).strategies),
    ]
    assert {s.position.policy.name for s in shipped if s.train} == set(POLICIES)
    assert {s.classes.name for s in shipped if s.train and s.classes} | {"all"} == set(CLASSES)
    assert {s.criterion.name for s in shipped if s.train} == set(CRITERIA)
