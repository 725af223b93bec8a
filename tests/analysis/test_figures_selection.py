"""Figures of calibration, of selections and of the sample axis: values, artists, edges, the same bytes twice."""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic import NO_KD, TEACHER, TOP_SAMPLES, grid, strategy, top_k

from harness.analysis.document import Plot
from harness.analysis.figures import glyphs, heat, kept, overlap, place, reliability, samples, selection, tokens
from harness.analysis.figures.style import drawing, save, settle
from harness.analysis.frame import Frames
from harness.analysis.read import Run
from harness.records.record import Manifest

MAKERS = (reliability.make, selection.make, kept.make, overlap.make, samples.make, tokens.make)
LONG = "top-k reverse KL, a rather long label of a strategy that costs $5 or $6 per token"
STRATEGIES = {
    "Full KD": strategy(),
    "SE-KD": strategy(position=top_k("student_entropy")),
    LONG: strategy(position=top_k("reverse_kl")),
    "top samples": strategy(samples=TOP_SAMPLES),
    "random samples": strategy(samples={"signal": None, "policy": {"name": "random", "options": {}}, "budget": 0.2}),
    "teacher": TEACHER,
    "no KD": NO_KD,
}
SIGNALS = ("ce_ratio", "kl", "random", "reverse_kl", "student_entropy", "teacher_entropy")
WORDS = (" the", " cat", "\n", "中文", "é", " $x$ and $y$", "<|endoftext|>", "\t", " أ", "a" * 130)
STEPS = (0, 50, 99)


def frames_of(folder: Path) -> Run:
    run = grid(folder, STRATEGIES, {})
    frames, manifest = run.frames, run.manifest
    trials = frames.trials.assign(
        realised_fraction=[0.2 if "SE" in x or x == LONG else 1.0 for x in frames.trials["label"]]
    )
    parts: dict[str, list[pd.DataFrame]] = {}
    for row in trials.itertuples():
        draw = np.random.default_rng(len(str(row.label)) + 7 * (0 if row.seed is pd.NA else int(row.seed)))
        made = {"reliability": _reliability(draw)}
        if row.seed is not pd.NA:
            partial = row.realised_fraction < 1
            made |= {
                "overlap": _overlap(draw),
                "shown": _shown(draw, partial),
                "kept_tokens": _kept(draw, partial),
                "profile": _profile(draw, partial),
            }
            if "samples" in str(row.label):
                made["samples"] = _samples(draw, scored=str(row.label) == "top samples")
        for name, table in made.items():
            identity = {"trial_id": row.trial_id, "label": row.label, "seed": row.seed}
            parts.setdefault(name, []).append(
                pd.concat([pd.DataFrame(identity, index=table.index).astype({"seed": "Int64"}), table], axis=1)
            )
    tables = {name: pd.concat(part, ignore_index=True) for name, part in parts.items()}
    return Run(manifest, dataclasses.replace(frames, trials=trials, tables=tables))


def _reliability(draw: np.random.Generator) -> pd.DataFrame:
    low = np.arange(15) / 15
    tables = []
    for source, most in (("quiz", 40), ("tokens", 4000)):
        num = draw.integers(0, most, 15)
        sure = np.where(num > 0, low + 1 / 30, np.nan)
        right = np.clip(sure - draw.uniform(0, 0.2), 0, 1)
        tables.append(
            pd.DataFrame(
                {
                    "source": source,
                    "bin": range(15),
                    "low": low,
                    "high": low + 1 / 15,
                    "num": num,
                    "confidence": sure,
                    "accuracy": right,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _overlap(draw: np.random.Generator) -> pd.DataFrame:
    rows = [
        {"step": step, "first": first, "second": second, "jaccard": draw.uniform()}
        for step in STEPS
        for first, second in combinations((*SIGNALS, "selected"), 2)
    ]
    return pd.DataFrame(rows)


def _shown(draw: np.random.Generator, partial: bool) -> pd.DataFrame:
    num = 60
    parts = []
    for step in STEPS:
        nats = draw.gamma(1.0, 1.5, num)
        nats[5] = np.nan
        table = pd.DataFrame(
            {"step": step, "sequence": 3, "position": range(num), "token": [WORDS[i % len(WORDS)] for i in range(num)]}
        )
        table["student_entropy"], table["teacher_entropy"] = nats, nats / 2
        own = nats >= np.nanquantile(nats, 0.8)
        table["weight"] = np.where(own if partial else np.isfinite(nats), 1.0, 0.0)
        for name in SIGNALS:
            table[f"kept_{name}"] = own if name == "student_entropy" else draw.uniform(size=num) < 0.2
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _kept(draw: np.random.Generator, partial: bool) -> pd.DataFrame:
    seen = draw.integers(5, 100, 40)
    kept = draw.binomial(seen, 0.2) if partial else seen
    return pd.DataFrame(
        {"step": 99, "token": [f" {WORDS[i % len(WORDS)]}{i}" for i in range(40)], "num_seen": seen, "num_kept": kept}
    )


def _profile(draw: np.random.Generator, partial: bool) -> pd.DataFrame:
    share = 0.2 if partial else 1.0
    rows = []
    for step in STEPS:
        rows += [(step, "realised_fraction", 0.0, share), (step, "effective_positions", 0.0, 100 * share)]
        rows += [
            (step, "position_profile", i / 10, share * (1.0 if not partial else draw.uniform(0.5, 1.5)))
            for i in range(10)
        ]
        for kind in ("student_entropy", "teacher_entropy"):
            every = draw.dirichlet(np.ones(20))
            rows += [(step, f"{kind}_hist", 0.25 * i, value) for i, value in enumerate(every)]
            rows += [(step, f"selected_{kind}_hist", 0.25 * i, value) for i, value in enumerate(every[::-1])]
        rows += [(step, "teacher_top_mass", float(k), 1 - 0.3 / k) for k in (1, 4, 16, 64)]
    return pd.DataFrame(rows, columns=["step", "quantity", "key", "value"])


def _samples(draw: np.random.Generator, scored: bool) -> pd.DataFrame:
    score = draw.normal(size=200)
    kept = score >= np.quantile(score, 0.8)
    return pd.DataFrame({"index": range(200), "score": score if scored else np.nan, "kept": kept})


@pytest.fixture(scope="module", autouse=True)
def _in_style() -> Iterator[None]:
    with drawing():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return frames_of(tmp_path_factory.mktemp("grid"))


@pytest.fixture(scope="module")
def plots(made: Run) -> dict[str, Plot]:
    found = [plot for make in MAKERS for plot in make(made)]
    assert len({plot.name for plot in found}) == len(found), "names are files"
    return {plot.name: plot for plot in found}


def test_every_figure_is_made_and_says_what_it_shows(plots: dict[str, Plot]) -> None:
    squares = {name for name in plots if name.startswith("overlap-")}
    assert set(plots) - squares == {
        "reliability", "selection-text", "selection-sorted", "kept-text", "kept-sorted", "samples-overlap",
        "samples-scores", "tokens-kept", "tokens-entropy", "tokens-profile",
    }  # fmt: skip
    assert len(squares) == 3
    for plot in plots.values():
        assert plot.title
        assert plot.caption.endswith(".")
        assert any(char.isdigit() for char in plot.alt), plot.name
        assert "nan" not in plot.alt + plot.caption, plot.name


def test_no_text_is_cut(plots: dict[str, Plot]) -> None:
    for plot in plots.values():
        figure, screen = plot.figure, plot.figure.dpi
        settle(figure)
        # As it is printed: on coarse pixels letters stand closer.
        figure.set_dpi(200)
        box, tight = figure.bbox_inches, figure.get_tightbbox()
        figure.set_dpi(screen)
        assert tight.x0 >= -0.02, plot.name
        assert tight.y0 >= -0.02, plot.name
        assert tight.x1 <= box.width + 0.02, plot.name
        assert tight.y1 <= box.height + 0.02, plot.name


def test_the_same_numbers_give_the_same_picture(made: Run, plots: dict[str, Plot]) -> None:
    for make in MAKERS:
        again = make(made)[0]
        assert np.array_equal(_pixels(again), _pixels(plots[again.name])), again.name


def test_the_same_numbers_give_the_same_files(made: Run, tmp_path: Path) -> None:
    one, two = (save(samples.make(made)[0], tmp_path / folder) for folder in ("one", "two"))
    assert one.vector == two.vector
    assert one.vector.startswith("<?xml")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert [name.rpartition(".")[2] for name in files] == ["png"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def _pixels(plot: Plot) -> np.ndarray:  # type: ignore[type-arg]
    settle(plot.figure)
    canvas = FigureCanvasAgg(plot.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__module__.rpartition(".")[2])
def test_without_tables_or_columns_there_is_nothing(
    make: Callable[[Frames, Manifest], tuple[Plot, ...]], made: Run
) -> None:
    frames, manifest = made.frames, made.manifest
    assert make(Run(manifest, dataclasses.replace(frames, tables={}))) == ()
    bare = {name: table[["trial_id", "label", "seed"]] for name, table in frames.tables.items()}
    assert make(Run(manifest, dataclasses.replace(frames, tables=bare))) == ()
    lost = dataclasses.replace(frames, trials=frames.trials.assign(status="failed"))
    assert make(Run(manifest, lost)) == ()


def test_one_seed_and_one_step_are_enough(made: Run) -> None:
    frames, manifest = made.frames, made.manifest
    few = {}
    for name, table in frames.tables.items():
        kept = table[table["seed"].fillna(1) == 1]
        few[name] = kept[kept["step"] == 99] if "step" in kept else kept
    found = {plot.name for make in MAKERS for plot in make(Run(manifest, dataclasses.replace(frames, tables=few)))}
    assert "overlap-drift" not in found
    assert {"overlap-se-kd", "selection-text", "samples-overlap", "tokens-kept", "tokens-profile"} <= found


# ---- reliability


def test_the_calibration_error_is_the_mean_over_seeds() -> None:
    table = pd.DataFrame(
        {
            "trial_id": ["a", "a", "b"], "label": "x", "source": "tokens", "num": [30, 10, 5],
            "confidence": [0.6, 0.9, 0.5], "accuracy": [0.5, 0.5, 0.5],
        }
    )  # fmt: skip
    assert reliability.calibration_errors(table).loc["x", "tokens"] == pytest.approx((0.1 * 0.75 + 0.4 * 0.25) / 2)


def test_pooled_bins_are_weighted_and_empty_ones_stay_empty() -> None:
    table = pd.DataFrame(
        {"bin": [1, 3, 1], "low": [0.1, 0.3, 0.1], "high": [0.2, 0.4, 0.2], "num": [1, 2, 3],
         "confidence": [0.1, 0.35, 0.2], "accuracy": [1.0, 0.5, 0.0]}
    )  # fmt: skip
    pooled = reliability.pool(table)
    assert list(pooled["num"]) == [4, 0, 2]
    assert pooled["confidence"].iloc[0] == pytest.approx(0.175)
    assert pooled["accuracy"].iloc[0] == pytest.approx(0.25)
    assert pooled["accuracy"].isna().tolist() == [False, True, False]


def test_a_panel_shows_the_ends_and_the_references(made: Run, plots: dict[str, Plot]) -> None:
    told = plots["reliability"].figure.axes[2].get_legend()
    assert told is not None
    texts = [text.get_text().replace("\n", " ") for text in told.get_texts()]
    assert len(texts) == 7
    assert plots["reliability"].figure.axes[0].get_title(loc="left") == "next tokens, held-out text"
    frames, manifest = made.frames, made.manifest
    table = frames.tables["reliability"]
    more = [table] + [table[table["label"] == "SE-KD"].assign(label=f"extra {n}") for n in range(4)]
    trials = pd.concat(
        [frames.trials]
        + [frames.trials[frames.trials["label"] == "SE-KD"].assign(label=f"extra {n}") for n in range(4)]
    )
    entries = [e for n in range(4) for e in manifest.trials if e.label == "SE-KD"]
    added = tuple(e.model_copy(update={"label": f"extra {n // 3}"}) for n, e in enumerate(entries))
    wider = manifest.model_copy(update={"trials": manifest.trials + added})
    records = frames.records + tuple(
        r for n in range(4) for r, e in zip(frames.records, manifest.trials, strict=True) if e.label == "SE-KD"
    )
    big = dataclasses.replace(frames, tables={"reliability": pd.concat(more)}, trials=trials, records=records)
    (plot,) = reliability.make(Run(wider, big))
    assert "4 strategies between" in plot.caption
    key = plot.figure.axes[2].get_legend()
    assert key is not None
    assert len(key.get_texts()) == 7


# ---- selections


def test_text_flows_into_lines_without_breaking_tokens() -> None:
    assert selection.layout(["a" * 60, "b" * 58, "c"]) == [(0, 0), (0, 60), (1, 0)]
    assert selection.layout(["a" * 60, "b" * 59]) == [(0, 0), (1, 0)]
    assert len(selection.layout(["a" * 500] * 20)) == selection.MOST_LINES


def test_each_block_outlines_what_is_selected(made: Run, plots: dict[str, Plot]) -> None:
    shown = selection.looks(made)[0]
    assert (shown.label, shown.seed, shown.step, shown.sequence) == ("SE-KD", 1, 99, 3)
    blocks = [*selection.SIGNALS, selection.OWN]
    num = len(selection.layout([glyphs.token(text) for text in shown.tokens["token"]]))
    for axes, name in zip(plots["selection-text"].figure.axes, blocks, strict=False):
        outlined = [patch for patch in axes.patches if not patch.get_fill()]
        assert len(axes.patches) - len(outlined) == num
        assert len(outlined) == (shown.tokens[name][:num] > 0).sum(), name


def test_ticks_stand_at_the_ranks_of_the_kept(plots: dict[str, Plot]) -> None:
    axes = plots["selection-sorted"].figure.axes[1]
    names = [label.get_text() for label in axes.get_yticklabels()]
    row = names.index("student entropy")
    kept = sorted(segment[0][0] for segment in axes.collections[row].get_segments())  # type: ignore[attr-defined]
    assert kept == list(range(59 - len(kept), 59)), "the most uncertain of 59 targets"
    assert names[-1] == selection.OWN


def test_strategies_stand_side_by_side_on_the_same_text(made: Run, plots: dict[str, Plot]) -> None:
    shown = selection.looks(made)
    assert [each.label for each in shown] == ["SE-KD", LONG]
    for axes, each in zip(plots["kept-text"].figure.axes, shown, strict=False):
        assert axes.get_title(loc="left").startswith(each.label)
        outlined = [patch for patch in axes.patches if not patch.get_fill()]
        num = len(axes.patches) - len(outlined)
        assert len(outlined) == (each.tokens[selection.OWN][:num] > 0).sum()
    panels, bars = plots["kept-sorted"].figure.axes[:2], plots["kept-sorted"].figure.axes[2:]
    for axes, below, each in zip(panels, bars, shown, strict=True):
        kept = each.tokens[each.tokens["nats"].notna()].sort_values("nats", kind="stable")[selection.OWN].to_numpy()
        assert [bar.get_height() for bar in below.patches] == kept.tolist()
        assert axes.get_title(loc="left").replace("\n", " ").startswith(each.label)
        assert axes.get_ylim()[0] < 0 <= min(axes.get_yticks())


def test_one_strategy_that_leaves_positions_out_has_nothing_beside_it(made: Run) -> None:
    trials = made.frames.trials
    alone = trials.assign(status=trials["status"].where(trials["label"] != LONG, "failed"))
    run = Run(made.manifest, dataclasses.replace(made.frames, trials=alone))
    assert len(selection.looks(run)) == 1
    assert kept.make(run) == ()
    assert len(selection.make(run)) == 2


def test_of_many_strategies_the_first_of_each_policy_is_drawn(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST", 1)
    assert kept.make(made) == (), "both of them keep the top k"


def test_what_cannot_be_seen_or_drawn_is_written_out() -> None:
    assert glyphs.token(" a\n\t") == "·a⏎⇥"
    assert glyphs.token("中") == "\\u4e2d"
    assert glyphs.token("\x00\u0301\u0623") == "\\u0000\\u0301\\u0623"
    assert glyphs.printable("k é → ε ± $") == "k é → ε ± $"


def test_black_text_can_be_read_on_every_shade() -> None:
    shades = heat.light()(np.linspace(0, 1, 50))[:, :3]
    linear = np.where(shades <= 0.04045, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    assert ((linear @ [0.2126, 0.7152, 0.0722] + 0.05) / 0.05).min() > 4.5, "the contrast that WCAG asks for"


# ---- overlaps


def test_the_square_is_symmetric_averaged_and_clustered() -> None:
    table = pd.DataFrame(
        [("a", "c", 0.9), ("a", "b", 0.1), ("b", "c", 0.2), ("a", "c", 0.7)], columns=["first", "second", "jaccard"]
    )
    values, order = overlap.square(table)
    assert abs(order.index("a") - order.index("c")) == 1
    assert values[order.index("c"), order.index("a")] == pytest.approx(0.8)
    assert np.allclose(values, values.T)
    assert np.allclose(np.diag(values), 1.0)


def test_a_square_prints_every_value_and_the_chance_level(made: Run, plots: dict[str, Plot]) -> None:
    plot, table = plots["overlap-se-kd"], made.frames.tables["overlap"]
    assert len(plot.figure.axes[0].texts) == (len(SIGNALS) + 1) ** 2
    own = table[(table["label"] == "SE-KD") & (table["step"] == 99)]
    chance = own[(own["first"] == "random") | (own["second"] == "random")]["jaccard"].mean()
    assert f"Chance level: {chance:.2f}" in plot.caption


def test_drift_draws_every_signal_and_the_pairs_that_moved_most(plots: dict[str, Plot]) -> None:
    left, right = plots["overlap-drift"].figure.axes[:2]
    assert sum(len(line.get_xdata()) == 3 for line in left.get_lines()) == len(SIGNALS)
    assert sum(len(line.get_xdata()) == 3 for line in right.get_lines()) == overlap.MOVERS


def test_names_at_the_ends_move_apart_as_little_as_needed() -> None:
    assert place.spread(np.array([0.1, 0.5]), 0.1) == pytest.approx([0.1, 0.5])
    assert place.spread(np.array([0.5, 0.5, 0.52, 0.9]), 0.1) == pytest.approx(
        [0.40667, 0.50667, 0.60667, 0.9], abs=1e-4
    )


def test_kept_sequences_are_compared_at_the_same_seed() -> None:
    def trial(label: str, seed: int, *kept: int) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "trial_id": f"{label}{seed}",
                "label": label,
                "seed": seed,
                "index": range(4),
                "kept": [i in kept for i in range(4)],
            }
        )

    table = pd.concat(
        [trial("x", 1, 0, 1), trial("x", 2, 2, 3), trial("y", 1, 0, 1), trial("y", 2, 3), trial("z", 7, 0)]
    )
    values = samples.overlaps(table, ["x", "y", "z"])
    assert values[0, 1] == values[1, 0] == pytest.approx(0.75)
    assert values[0, 0] == 0.0
    assert np.isnan(values[2, 2])
    assert values[0, 2] == pytest.approx(0.25), "no seed in common: every pair"


def test_scores_are_drawn_only_where_there_are_any(plots: dict[str, Plot]) -> None:
    shown = [axes.get_title(loc="left") for axes in plots["samples-scores"].figure.axes]
    assert shown == ["top samples"]
    heights = [patch.get_height() for patch in plots["samples-scores"].figure.axes[0].patches]
    assert sum(heights[: samples.BINS]) == 200
    assert sum(heights[samples.BINS :]) == 40


# ---- tokens


def test_tokens_are_ranked_by_what_chance_cannot_give() -> None:
    table = pd.DataFrame({"token": ["a", "b", "a"], "num_seen": [2, 100, 2], "num_kept": [2, 60, 2]})
    rates = tokens.keep_rates(table, 0.2)
    assert list(rates["token"]) == ["b", "a"], "60 of 100 is farther from 20% than 4 of 4"
    assert rates["score"].iloc[0] == pytest.approx(40 / 4)
    assert list(rates["num_seen"]) == [100, 4]


def test_strategies_that_keep_all_have_no_lollipops(plots: dict[str, Plot]) -> None:
    panels = [axes.get_title(loc="left").replace("\n", " ") for axes in plots["tokens-kept"].figure.axes]
    assert panels == ["SE-KD", LONG]
    assert len(plots["tokens-kept"].figure.axes[0].texts) == 2 * tokens.ENDS


def test_a_histogram_that_is_all_and_one_that_is_selected(plots: dict[str, Plot]) -> None:
    figure = plots["tokens-entropy"].figure
    assert len(figure.axes) == 4
    every, chosen = (patch.get_data().values for patch in figure.axes[0].patches)
    assert every.sum() == pytest.approx(100)
    assert chosen.sum() == pytest.approx(100)
