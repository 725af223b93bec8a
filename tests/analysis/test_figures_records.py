"""Figures made from records and curves: what stands on their axes, what they leave out, and that bytes repeat."""

import dataclasses
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib import _pylab_helpers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from harness.analysis import frame
from harness.analysis.document import Plot
from harness.analysis.figures import MAKERS, cost, curves, dots, place, style, sweep, trade, varied
from harness.analysis.figures.marks import in_turn
from harness.analysis.read import METHOD_SECONDS, Run
from harness.records.store import read_manifest

REPORT = Path(__file__).parents[2] / "reports" / "multi_axis"
BUDGETS = (0.01, 0.1, 0.5)


@pytest.fixture(scope="module", autouse=True)
def _in_style() -> Iterator[None]:
    with style.drawing():
        yield


@pytest.fixture(scope="module")
def report() -> Run:
    manifest = read_manifest(REPORT / "manifest.json")
    return Run(manifest, frame.load(REPORT, manifest))


@pytest.fixture(scope="module")
def budgets(tmp_path_factory: pytest.TempPathFactory) -> Run:
    described = {"No KD": synthetic.NO_KD, "Teacher": synthetic.TEACHER, "Full KD": synthetic.strategy()}
    described["Random 10%"] = synthetic.strategy(
        position={"policy": synthetic.component("random"), "budget": 0.1, "signal": None}
    )
    for signal in ("student_entropy", "kl"):
        for budget in BUDGETS:
            described[f"{signal} {budget:.0%}"] = synthetic.strategy(position=synthetic.top_k(signal, budget))
    effects = {label: math.log(1 + number) for number, label in enumerate(described)} | {"Teacher": 30.0}
    failed = (("kl 1%", 1), ("kl 1%", 2), ("kl 1%", 3), ("kl 10%", 2))
    return synthetic.grid(tmp_path_factory.mktemp("budgets"), described, effects, failed=failed)


def with_curves(grid: Run, losses: dict[str, list[float]]) -> Run:
    frames, manifest = grid.frames, grid.manifest
    blocks = [
        pd.DataFrame(
            {"trial_id": entry.trial_id, "label": entry.label, "seed": entry.seed, "step": range(len(values))}
        ).assign(loss_nats=np.array(values) + 0.01 * number)
        for number, entry in enumerate(manifest.trials)
        for values in [losses.get(entry.label)]
        if values is not None and entry.seed is not None
    ]
    table = pd.concat(blocks, ignore_index=True)
    return Run(manifest, dataclasses.replace(frames, tables=frames.tables | {"curve": table}))


def panels(plot: Plot) -> list[Axes]:
    return [axes for axes in plot.figure.axes if axes.get_visible()]


def made(run: Run) -> tuple[Plot, ...]:
    with style.drawing():
        return tuple(plot for make in MAKERS for plot in make(run))


def only(plots: tuple[Plot, ...], name: str) -> Plot:
    (found,) = [plot for plot in plots if plot.name == name]
    return found


def test_every_figure_of_a_grid_has_its_own_name_and_tells_what_it_shows(report: Run) -> None:
    plots = made(with_curves(report, {"Full KD": [2.0, 1.0], "SE-KD 3X": [2.0, 1.5]}))
    assert {plot.name for plot in plots} >= {"overview", "accuracy_perplexity", "pareto", "cost", "loss_curves"}
    assert len({plot.name for plot in plots}) == len(plots)
    assert all(plot.caption and plot.alt and "nan" not in plot.alt for plot in plots)
    assert not _pylab_helpers.Gcf.get_all_fig_managers()


def test_saved_twice_a_figure_has_the_same_bytes(budgets: Run, tmp_path: Path) -> None:
    grid = with_curves(budgets, {"Full KD": [2.0, 1.0]})
    drawn: list[list[bytes]] = [[], []]
    for found in drawn:
        for plot in trade.make(grid):  # whose labels are placed by search
            with io.BytesIO() as written:
                plot.figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
                found.append(written.getvalue())
        (small,) = curves.make(grid)
        found.append(style.save(small, tmp_path, pdf=True).vector.encode())
        found += [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert len(drawn[0]) == 1 + 3
    assert drawn[0] == drawn[1]


def test_a_sweep_joins_what_differs_in_its_budget_alone(budgets: Run) -> None:
    (one,) = varied.sweeps(budgets)
    assert [line.name for line in one.lines] == ["student_entropy", "kl"]
    assert list(one.lines[0].labels) == [1.0, 10.0, 50.0]

    plot = only(sweep.make(budgets), "sweep_position_budget")
    loss, accuracy = panels(plot)
    drawn = {line.get_label(): line for line in loss.lines}
    means = budgets.points["heldout_loss"]
    assert list(drawn["student_entropy"].get_xdata()) == [1.0, 10.0, 50.0]
    assert list(drawn["student_entropy"].get_ydata()) == [means[f"student_entropy {b:.0%}"].mean for b in BUDGETS]
    assert list(drawn["kl"].get_xdata()) == [10.0, 50.0]  # nothing of kl 1% finished
    assert "kl 1%" in plot.caption
    assert loss.get_xscale() == "log"
    assert loss.get_xlabel() == accuracy.get_xlabel() == "Positions kept, k (%)"


def test_a_sweep_is_held_against_full_kd_random_choice_and_models(budgets: Run) -> None:
    (one,) = varied.sweeps(budgets)
    assert list(varied.references(budgets, one)) == ["No KD", "Teacher", "Full KD", "Random 10%"]
    loss = panels(only(sweep.make(budgets), "sweep_position_budget"))[0]
    # The teacher is far below every student: written at the edge, and the axis does not reach it.
    written = [text.get_text() for text in loss.texts]
    assert any(text.startswith("Teacher") and text.endswith("▼") for text in written)
    assert loss.get_ylim()[0] > budgets.points["heldout_loss"]["Teacher"].mean


@pytest.mark.parametrize(
    ("changed", "slug"),
    [
        (lambda x: {"temperature": x}, "temperature"),
        (lambda x: {"temperature": synthetic.component("constant", value=x)}, "temperature"),
        (lambda x: {"lambda": x / 4}, "lambda"),
        (lambda x: {"classes": synthetic.component("rs", draws=x)}, "classes_draws"),
        (lambda x: {"classes": synthetic.component("top_k", num=x)}, "classes_num"),
        (lambda x: {"samples": synthetic.TOP_SAMPLES | {"budget": x / 4}}, "samples_budget"),
    ],
)
def test_each_setting_has_its_sweep(changed, slug: str, tmp_path: Path) -> None:
    described = {f"one, x = {value}": synthetic.strategy(**changed(value)) for value in (1, 2, 4)}
    grid = synthetic.grid(tmp_path, described, {}, baseline=None)
    (found,) = varied.sweeps(grid)
    assert (found.slug, len(found.lines[0].labels)) == (slug, 3)
    assert found.lines[0].name == "one x"
    assert [plot.name for plot in sweep.make(grid)] == [f"sweep_{slug}"]


def test_two_values_are_no_sweep(tmp_path: Path) -> None:
    described = {f"T {value}": synthetic.strategy(temperature=value) for value in (1.0, 2.0)}
    assert sweep.make(synthetic.grid(tmp_path, described, {}, baseline=None)) == ()


def test_the_front_holds_what_nothing_beats() -> None:
    points = {"cheap": (1.0, 5.0), "worse": (2.0, 6.0), "good": (3.0, 1.0), "dear": (4.0, 1.0), "twin": (1.0, 5.0)}
    assert trade.front(points, ("lower", "lower")) == ["cheap", "twin", "good"]
    assert trade.front(points, ("lower", "higher")) == ["cheap", "twin", "worse"]


def test_cost_axes_carry_the_means_and_leave_models_out(report: Run) -> None:
    plot = only(trade.make(report), "pareto")
    shown = panels(plot)
    assert len(shown) == 4
    flops, accuracy = report.points["flops_total"], report.points["accuracy"]
    assert "Teacher" not in flops
    for container, name in zip(shown[0].containers, [name for name in accuracy if name in flops], strict=True):
        assert (container[0].get_xdata()[0], container[0].get_ydata()[0]) == (flops[name].mean, accuracy[name].mean)
    row = report.frames.trials.set_index("label").loc["SE-KD 3X"]
    paid = row[["wall_train_s", "wall_prepass_s", "wall_cache_s"]].sum(axis=1).mean()
    assert report.points[METHOD_SECONDS]["SE-KD 3X"].mean == pytest.approx(paid)


def test_numbers_beside_points_cover_neither_points_nor_one_another(report: Run) -> None:
    for plot in trade.make(report):
        plot.figure.draw_without_rendering()
        for axes in panels(plot):
            boxes = [Text.get_window_extent(text) for text in axes.texts]
            places = axes.transData.transform([(c[0].get_xdata()[0], c[0].get_ydata()[0]) for c in axes.containers])
            assert len(boxes) == len(places)
            assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
            assert not any(box.contains(*spot) for box in boxes for spot in places)


def test_many_equal_points_still_have_their_numbers_apart() -> None:
    axes = Figure(figsize=(3, 3)).subplots()
    texts = place.label_points(axes, [(0.5, 0.5)] * 16, [str(n) for n in range(16)], ["k"] * 16)
    boxes = [Text.get_window_extent(text) for text in texts]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_cost_stacks_phases_and_keeps_shared_seconds_apart(report: Run) -> None:
    time, shared, memory = panels(only(cost.make(report), "cost"))
    frames, manifest = report.frames, report.manifest
    names = frame.labels(manifest)
    ends = dict.fromkeys(names, 0.0)
    for bar in time.patches:
        name = names[round(bar.get_y() + bar.get_height() / 2)]
        assert bar.get_x() == pytest.approx(ends[name])
        ends[name] += bar.get_width()
    for name, rows in frames.trials.groupby("label"):
        # Diagnostics are drawn, and are no part of what the method costs.
        looked = rows["wall_diagnostics_s"].fillna(0.0) if "wall_diagnostics_s" in rows else 0.0
        assert ends[name] == pytest.approx((rows["wall_total_s"] + looked).mean())
    assert all(bar.get_hatch() for bar in shared.patches)
    assert not any(bar.get_hatch() for bar in (*time.patches, *memory.patches))


@pytest.mark.parametrize(("least", "said"), [(1e-9, True), (0.05, False), (0.5, False)])
def test_a_vanishing_loss_leaves_the_others_an_axis_with_numbers(least: float, said: bool, budgets: Run) -> None:
    grid = with_curves(budgets, {"Full KD": [2.0, 1.0], "kl 50%": [1.0, 1.0]})
    table = grid.frames.tables["curve"]
    table.loc[(table["label"] == "kl 50%") & (table["step"] == 1), "loss_nats"] = least
    (plot,) = curves.make(grid)
    plot.figure.draw_without_rendering()
    axes = plot.figure.axes[0]
    low, high = axes.get_ylim()
    shown = [label.get_text() for value, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
             if low <= value <= high and label.get_text()]  # fmt: skip
    assert len(shown) >= 2
    assert low > 1e-4
    assert ("Losses below 0.002" in plot.caption) is said


def test_curves_are_means_over_finite_seeds(budgets: Run) -> None:
    grid = with_curves(budgets, {"Full KD": [3.0, 2.0, 1.0], "kl 50%": [3.0, math.inf, math.nan]})
    (plot,) = curves.make(grid)
    full, broken = panels(plot)
    one = curves.curve(grid.frames.tables["curve"].query("label == 'Full KD'"), 1)
    assert one.mean == pytest.approx(np.array([3.0, 2.0, 1.0]) + one.seeds[:, 0].mean() - 3.0)
    assert list(full.lines[-1].get_ydata()) == list(one.mean)
    assert sum(line.get_marker() == "x" for line in broken.lines) == 3
    assert "3 of 3 trials diverged" in plot.alt


def test_a_trailing_mean_smooths_and_skips_what_is_not_finite() -> None:
    rows = pd.DataFrame({"trial_id": "a", "step": range(4), "loss_nats": [4.0, math.nan, 2.0, 0.0]})
    assert curves.curve(rows, 2).mean.tolist()[::2] == [4.0, 2.0]
    assert curves.curve(rows, 2).mean[3] == 1.0
    assert math.isnan(curves.curve(rows, 2).mean[1])


def test_one_strategy_one_seed_and_long_labels_draw_without_warnings(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(synthetic, "SEEDS", (1,))
    described = {
        f"a rather long strategy label, number {n:02}": synthetic.strategy(normaliser=str(n)) for n in range(16)
    }
    for number, chosen in enumerate((described, dict(list(described.items())[:1]))):
        grid = synthetic.grid(tmp_path / str(number), chosen, {}, baseline=None)
        curved = with_curves(grid, {label: [2.0, 1.0] for label in chosen})
        for plot in (*dots.make(curved), *cost.make(curved), *curves.make(curved)):
            plot.figure.draw_without_rendering()
        assert len(trade.make(grid)) == (len(chosen) > 1)
        assert sweep.make(grid) == ()


def test_nothing_finished_or_not_finite_is_said_not_drawn(tmp_path: Path) -> None:
    described = {"Full KD": synthetic.strategy(), "T": synthetic.strategy(temperature=2.0)}
    failed = tuple((label, seed) for label in described for seed in synthetic.SEEDS)
    grid = synthetic.grid(tmp_path, described, {}, failed=failed)
    (plot,) = made(grid)
    assert [text.get_text() for text in panels(plot)[0].texts] == ["no result"] * 2
    assert "Nothing finished" in plot.alt


def test_a_diverged_metric_is_written_and_does_not_stretch_the_axes(budgets: Run) -> None:
    frames, manifest = budgets.frames, budgets.manifest
    metrics = frames.metrics.copy()
    metrics.loc[(metrics["label"] == "kl 50%") & (metrics["metric"] == "heldout_loss"), "value"] = math.inf
    diverged = Run(manifest, dataclasses.replace(frames, metrics=metrics))
    (plot,) = dots.make(diverged)
    texts = [text.get_text() for axes in panels(plot) for text in axes.texts]
    assert "not finite" in texts
    for made in (make(diverged) for make in MAKERS):
        for axes in (axes for plot in made for axes in panels(plot)):
            assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()


def test_a_reference_at_the_edge_covers_no_line(tmp_path: Path) -> None:
    described = {"Teacher": synthetic.TEACHER}
    described |= {f"kl {budget:.0%}": synthetic.strategy(position=synthetic.top_k("kl", budget)) for budget in BUDGETS}
    # The line falls towards the corner in which the teacher's name stands.
    effects = {"Teacher": 60.0} | {f"kl {budget:.0%}": 10.0 * number for number, budget in enumerate(BUDGETS)}
    loss = panels(
        only(sweep.make(synthetic.grid(tmp_path, described, effects, baseline=None)), "sweep_position_budget")
    )[0]
    loss.figure.draw_without_rendering()
    (name,) = [Text.get_window_extent(text) for text in loss.texts]
    (line,) = [line for line in loss.lines if line.get_label() == "kl"]
    radius = line.get_markersize() / 2 * loss.figure.dpi / 72
    spots = loss.transData.transform(line.get_xydata())
    assert not any(name.padded(radius).contains(*spot) for spot in spots)


def test_twice_as_many_lines_as_colours_are_told_apart_by_colour_and_marker() -> None:
    found = [in_turn(number) for number in range(14)]
    assert len({(mark.color, mark.marker) for mark in found}) == 14


def test_rows_have_room_for_a_label_of_many_lines(tmp_path: Path) -> None:
    described = {name: synthetic.strategy(normaliser=name) for name in ("a", "long " * 24, "b", "c", "d", "e")}
    grid = synthetic.grid(tmp_path, described, {}, baseline=None)
    for (plot,) in (dots.make(grid), cost.make(grid)):
        plot.figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in panels(plot)[0].get_yticklabels()]
        assert len(boxes) == len(described)
        assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_a_long_curve_is_thinned_and_keeps_its_ends(budgets: Run) -> None:
    losses = np.linspace(3.0, 1.0, 10_001)
    (plot,) = curves.make(with_curves(budgets, {"Full KD": list(losses)}))
    x = panels(plot)[0].lines[-1].get_xdata()
    assert (x[0], x[-1]) == (0.0, 10_000.0)
    assert len(x) < 700
    assert curves.drawn(300).tolist() == list(range(300))
