"""Tables, findings and the comparison with the published figures, on synthetic records with known effects."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import NO_KD, SEEDS, TEACHER, TOP_SAMPLES, component, grid, strategy, top_k

from harness.analysis.document import Table, Text
from harness.analysis.findings import findings, noise, warnings
from harness.analysis.frame import load
from harness.analysis.published import load as load_published
from harness.analysis.read import Run
from harness.analysis.strategies import RowStrategy, method
from harness.analysis.tables import document_tables
from harness.analysis.tables.beside import agree
from harness.analysis.tables.validity import validity_table
from harness.records.record import Supervision
from harness.records.store import read_manifest

GLS = component("gls", capacity=30000)
SAMPLED = {"classes": component("rs", draws=64), "teacher": "sampled"}
STRATEGIES = {
    "No KD": NO_KD,
    "Teacher": TEACHER,
    "Full KD": strategy(),
    "Random": strategy(position={"policy": component("random"), "budget": 0.2}),
    "SE-KD": strategy(position=top_k("student_entropy")),
    "By KL": strategy(position=top_k("kl")),
    "GLS": strategy(position={**top_k("student_entropy"), "policy": GLS}, normaliser="batch_mean"),
    "RS-KD": strategy(**SAMPLED),
    "TopSmp": strategy(samples=TOP_SAMPLES),
    "SE-KD 3X": strategy(position=top_k("student_entropy"), samples=TOP_SAMPLES, **SAMPLED),
}
EFFECTS = {"Teacher": 2.0, "By KL": 1.0, "Random": -1.0, "No KD": -0.2}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return grid(tmp_path_factory.mktemp("grid"), STRATEGIES, EFFECTS, failed=(("GLS", 2),))


@pytest.fixture(scope="module")
def tables(loaded: Run) -> dict[str, Table]:
    return {table.name: table for table in document_tables(loaded)}


def cell(table: Table, label: str, heading: str):
    (row,) = (row for row in table.rows if row[0].text == label)
    return row[[column.heading for column in table.columns].index(heading)]


def rows_of(table: Table) -> list[str]:
    return [row[0].text for row in table.rows]


def texts(table: Table, heading: str) -> list[str]:
    place = [column.heading for column in table.columns].index(heading)
    return [row[place].text for row in table.rows]


def test_main_table_is_first_and_marks_what_is_true(tables: dict[str, Table]):
    assert next(iter(tables)) == "main"
    main = tables["main"]
    assert rows_of(main) == list(STRATEGIES)
    loss = {label: cell(main, label, "Held-out loss (nats/token)").mark for label in STRATEGIES}
    assert (loss["By KL"], loss["Random"], loss["Teacher"], loss["Full KD"]) == ("better", "worse", "better", None)
    assert {loss[label] for label in ("SE-KD", "RS-KD", "TopSmp", "SE-KD 3X")} == {"not distinguishable"}
    assert cell(main, "GLS", "Seeds").text == "2/3 (1 failed)"
    hint = cell(main, "By KL", "Accuracy (%)").hint
    assert hint.startswith("better: +")
    assert "over seeds and items; corrected for 9 comparisons [" in hint


def test_every_table_is_whole(tables: dict[str, Table]):
    for table in tables.values():
        assert all(len(row) == len(table.columns) for row in table.rows), table.name
        assert not table.numbers.empty
        assert table.caption.endswith(".")
        assert all(cell.text for row in table.rows for cell in row), table.name


def test_which_tables_there_are_follows_from_the_strategies(tables: dict[str, Table], tmp_path: Path):
    expected = {"importance", "policies", "multi_axis", "comparisons", "ranks", "noise", "spread", "cost", "storage"}
    assert expected | {"runtime", "head", "published", "published_setting", "methods"} <= set(tables)
    assert "task_specific" not in tables
    few = grid(tmp_path, {"Full KD": strategy(), "No KD": NO_KD}, {}, baseline=None)
    names = {table.name for table in document_tables(few)}
    assert not names & {"importance", "policies", "multi_axis", "runtime", "head", "comparisons", "ranks"}
    assert {"main", "cost", "methods", "noise"} <= names


def test_rows_are_chosen_by_strategy_not_by_label(tables: dict[str, Table]):
    references = ["No KD", "Teacher", "Full KD", "Random"]
    assert rows_of(tables["importance"]) == [*references, "SE-KD", "By KL"]
    assert cell(tables["importance"], "By KL", "Signal").text == "kl"
    assert rows_of(tables["policies"]) == [*references, "SE-KD", "GLS"]
    assert cell(tables["policies"], "GLS", "Policy").text == "gls (capacity 30000)"
    axes = [cell(tables["multi_axis"], "SE-KD 3X", axis).text for axis in ("Positions", "Classes", "Samples")]
    assert axes == ["top_k, by student_entropy, 20%", "rs (draws 64)", "top, by student_entropy, 20%"]
    assert cell(tables["multi_axis"], "TopSmp", "Positions").text == "—"


def test_on_policy_rows_stand_beside_off_policy_ones(tmp_path: Path):
    strategies = {
        "Full KD": strategy(),
        "On-policy": strategy(rollout={"share": 1.0}, criterion=component("reverse_kl")),
        "No KD": NO_KD,
    }
    (table,) = (one for one in document_tables(grid(tmp_path, strategies, {})) if one.name == "task_specific")
    assert rows_of(table) == ["No KD", "Full KD", "On-policy"]
    assert [cell(table, label, "Regime").text for label in rows_of(table)] == ["—", "off-policy", "on-policy"]
    assert [cell(table, label, "Generated tokens").text for label in rows_of(table)] == ["—", "—", "1,200"]


def test_storage_shows_its_arithmetic(tables: dict[str, Table]):
    # 100 050 tokens make 1 000 sequences of 100; 3 MB hold the draws of all of them, a fifth with a fifth of them.
    assert cell(tables["storage"], "RS-KD", "Bytes per token").value == 30.0
    assert cell(tables["storage"], "RS-KD", "100B tokens (TB)").value == pytest.approx(3.0)
    assert cell(tables["storage"], "RS-KD", "Published (TB)").value == 19.2
    ours = tables["storage"]
    assert cell(ours, "SE-KD 3X", "Tokens stored (%)").value == pytest.approx(20)
    assert cell(ours, "SE-KD 3X", "Arithmetic").text == "30 B x 0.2 x 1e11 / 1e12"
    assert cell(ours, "SE-KD 3X", "100B tokens (TB)").value == pytest.approx(0.6)
    assert cell(ours, "Full KD", "Bytes per token").value == 512.0
    assert cell(ours, "Full logits, float16", "100B tokens (TB)").value == 20_000
    targets = [cell(ours, "Cross-entropy, targets as packed here", name).text for name in (
        "Bytes per token", "100B tokens (TB)", "Published (TB)",
    )]  # fmt: skip
    assert targets == ["4", "0.4", "0.3"]


def test_run_time_counts_what_is_shared_in_full_and_stands_beside_accuracy(tables: dict[str, Table]):
    times = tables["runtime"]
    named = ("Prepass (s)", "Cache (s)", "Train (s)", "Total (s)")
    assert [cell(times, "TopSmp", name).value for name in named] == [6.0, 20.0, 10.0, 36.0]
    assert [cell(times, "Full KD", name).value for name in named] == [None, 20.0, 50.0, 70.0]
    assert cell(times, "TopSmp", "Against Full KD (%)").value == pytest.approx(100 * (36 / 70 - 1))
    assert cell(times, "TopSmp", "Published (h)").value == 7.017
    assert cell(times, "TopSmp", "Accuracy (%)") == cell(tables["main"], "TopSmp", "Accuracy (%)")
    assert cell(times, "Full KD", "Published accuracy (%)").value == 64.6  # of this table, not of the others
    assert "No KD" not in rows_of(times)


def test_run_time_with_a_cache_to_make_and_with_one_at_hand(tables: dict[str, Table]):
    times = tables["runtime"]
    rows = [f"SE-KD 3X, {how}" for how in ("making its cache", "its cache at hand")]
    assert [row for row in rows_of(times) if row.startswith("SE-KD 3X")] == rows
    made, at_hand = (
        [cell(times, row, name).value for name in ("Cache (s)", "Train (s)", "Total (s)", "Published (h)")]
        for row in rows
    )
    assert made == pytest.approx([0.8, 10.0, 10.8, 8.767])
    assert at_hand == pytest.approx([None, 10.0, 10.0, 3.967])
    assert [cell(times, row, "Published selection (h)").value for row in rows] == [2.183, None]
    assert len({cell(times, row, "Accuracy (%)").text for row in rows}) == 1


def test_cost_stands_beside_quality(tables: dict[str, Table]):
    assert cell(tables["cost"], "TopSmp", "FLOPs (% of baseline)").value == pytest.approx(20)
    assert cell(tables["cost"], "TopSmp", "Read from disk (MB)").value == pytest.approx(51.2)
    assert cell(tables["cost"], "By KL", "Held-out loss (nats/token)").mark == "better"
    assert cell(tables["head"], "SE-KD", "Peak of a step (MiB)").value == 256.0
    assert cell(tables["head"], "SE-KD", "Published student peak (GB)").value == 11.42
    assert cell(tables["head"], "Full KD", "Published student peak (GB)").value == 14.15


def test_differences_and_ranks(tables: dict[str, Table]):
    numbers = tables["comparisons"].numbers
    apart = numbers["verdict"].isin(["better", "worse"])
    excludes = (numbers["corrected_low"] > 0) | (numbers["corrected_high"] < 0)
    assert (apart == excludes).all()
    assert {"better", "worse", "not distinguishable"} <= set(numbers["verdict"])
    assert set(numbers["covers"]) == {"seeds and items", "seeds"}
    ranks = tables["ranks"]
    assert cell(ranks, "By KL", "Held-out loss").text == "1"
    assert "No KD" not in rows_of(ranks)
    noisy = tables["noise"].numbers.set_index("metric")
    assert noisy.loc["accuracy", "halves"] > noisy.loc["accuracy", "item_error"]
    assert math.isnan(noisy.loc["heldout_loss", "halves"])


def test_methods_name_their_source(tables: dict[str, Table], tmp_path: Path):
    assert cell(tables["methods"], "SE-KD 3X", "Axes").text == "position, class, sample"
    strategies = {"EGAD": strategy(source="arXiv:2605.01732; reconstructed from the abstract")}
    (table,) = (one for one in document_tables(grid(tmp_path, strategies, {}, baseline=None)) if one.name == "methods")
    assert "reconstructed" in cell(table, "EGAD", "Source").text
    assert table.numbers["reconstructed"].tolist() == [True]


def test_every_table_says_which_of_its_rows_are_reconstructed(tables: dict[str, Table], tmp_path: Path):
    strategies = {"Full KD": strategy(), "EGAD": strategy(source="arXiv:2605.01732; reconstructed from the abstract")}
    found = document_tables(grid(tmp_path, strategies, {}))
    shown = [one for one in found if "EGAD" in {cell.text for row in one.rows for cell in row}]
    assert len(shown) > 3
    assert all(one.caption.endswith("Reconstructed from an abstract: EGAD.") for one in shown)
    assert not any("Reconstructed" in one.caption for one in tables.values())


def read(**parts: object) -> RowStrategy:
    return method(strategy(**parts))


@pytest.mark.parametrize(
    ("parts", "accuracy"),
    [
        ({}, 64.4),
        ({"position": {"policy": component("random"), "budget": 0.2}}, 64.2),
        ({"position": top_k("random")}, 64.2),
        ({"position": top_k("student_entropy")}, 64.8),
        ({"position": top_k("student_entropy", 0.1)}, None),
        ({"position": top_k("hellinger")}, None),
        ({"criterion": component("at_kd", hard_fraction=0.5, easy_weight=0.2)}, 63.8),
        ({"criterion": component("at_kd", hard_fraction=0.3, easy_weight=0.2)}, None),
        ({"criterion": component("reverse_kl")}, None),
        ({"position": {**top_k("student_entropy"), "policy": component("pos_rs")}}, 63.0),
        ({"position": {**top_k("student_entropy"), "policy": component("pos_rs", smoothing=2.0)}}, None),
        ({"position": {**top_k("student_entropy"), "policy": GLS}, "normaliser": "batch_mean"}, 64.5),
        ({"position": {**top_k("student_entropy"), "policy": GLS}}, None),
        ({"position": {**top_k("student_entropy"), "policy": component("gls", capacity=100)}}, None),
        ({"position": top_k("student_entropy"), "normaliser": "batch_mean"}, None),
        ({"position": top_k("student_entropy"), "temperature": 2.0}, None),
        ({"position": {**top_k("student_entropy"), "frozen": True}}, None),
        ({"samples": TOP_SAMPLES}, 64.2),
        ({"samples": {**TOP_SAMPLES, "filtered": 2}}, None),
        ({"position": top_k("student_entropy"), "lambda": 0.5}, None),
        ({"classes": component("rs", draws=64)}, 64.7),
        ({"classes": component("rs", draws=64, proposal=0.5)}, None),
        ({"samples": {"signal": None, "policy": component("random"), "budget": 0.2}}, 64.0),
        ({"samples": {**TOP_SAMPLES, "policy": component("bottom")}}, None),
        ({"position": top_k("student_entropy"), "samples": TOP_SAMPLES, "classes": component("rs", draws=64)}, 64.4),
        ({"rollout": {"share": 1.0}}, None),
    ],
)
def test_published_rows_are_matched_by_what_a_strategy_is(parts: dict[str, object], accuracy: float | None):
    found = load_published().of(read(**parts)).set_index("metric")["value"]
    assert found.get("accuracy") == accuracy


def test_published_task_rows_know_the_regime():
    published = load_published()
    for regime, expected in (({}, 69.5), ({"rollout": {"share": 1.0}, "criterion": component("reverse_kl")}, 70.0)):
        found = published.of(read(position=top_k("student_entropy"), **regime), task=True)
        assert found.set_index("metric").loc["gsm8k", "value"] == expected
        assert set(found["metric"]) == {"gsm8k", "accuracy", "lambada_ppl"}
    teacher = method(TEACHER)
    assert published.of(teacher).set_index("metric").loc["accuracy", "value"] == 73.8


def test_published_validation_rows_are_of_validation():
    published, method = load_published(), read(position=top_k("student_entropy"))
    assert published.of(method, split="validation")["value"].tolist() == [66.0]
    assert published.of(method)["value"].tolist() == [64.8, 21.4, 6.9, 27.6]


def test_each_published_figure_stands_once_per_table():
    rows = load_published().rows
    assert not rows.duplicated(["table", "split", "method", "regime", "metric"]).any()
    sizes = {"importance_metrics": 70, "selection_policies": 50, "multi_axis": 48, "task_gsm8k": 51}
    assert rows["table"].value_counts()[list(sizes)].to_dict() == sizes


def test_students_of_one_task_stand_beside_the_papers_task_table(tmp_path: Path):
    run = grid(tmp_path, STRATEGIES, EFFECTS)
    for records in run.records.values():
        for record in records:
            record.workload["data"]["pairs"] = {"prompt_field": "question", "answer_field": "answer"}
    tables = {table.name: table for table in document_tables(run)}
    assert cell(tables["published"], "SE-KD", "Accuracy, gsm8k (%), published").value == 69.5
    assert {row[0].text: row[1].text for row in tables["published_setting"].rows}["data"] == "GSM8K"


def test_published_values_stand_beside_ours(tables: dict[str, Table]):
    table = tables["published"]
    assert cell(table, "By KL", "Accuracy (%), published").text == "64.5 ± 0.16"
    assert cell(table, "GLS", "Accuracy (%), published").hint == "Top 20% GLS 30K, table selection_policies"
    assert "not comparable" in table.caption
    setting = {row[0].text: (row[1].text, row[2].text) for row in tables["published_setting"].rows}
    assert setting["teacher"] == ("Qwen3-8B", "synthetic's own teacher")
    assert setting["training tokens"] == ("80,000,000", "100,050")


def both(ours: list[float], theirs: list[float], error: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": [f"s{number}" for number in range(len(ours))],
            "metric": "accuracy",
            "trained": True,
            "ours": ours,
            "ours_error": error,
            "published": theirs,
            "published_error": error,
        }
    )


def test_agreement_is_kendalls_tau():
    draw = np.random.default_rng(0)
    ours, theirs = draw.normal(size=9).tolist(), draw.integers(0, 4, size=9).astype(float).tolist()
    row = agree(both(ours, theirs)).iloc[0]
    assert row["tau"] == pytest.approx(stats.kendalltau(ours, theirs).statistic)
    # Without errors there is nothing to redraw.
    assert (row["low"], row["high"]) == pytest.approx((row["tau"], row["tau"]))
    ours, theirs = draw.normal(size=7).tolist(), draw.normal(size=7).tolist()
    exact = stats.kendalltau(ours, theirs, method="exact").pvalue
    assert agree(both(ours, theirs)).iloc[0]["p_value"] == pytest.approx(exact, abs=0.02)
    assert agree(both(ours[:3], theirs[:3])).empty


def test_agreement_depends_on_its_seed_and_not_on_the_order_of_rows():
    table = both([1, 2, 3, 4, 5, 6], [1, 3, 2, 4, 6, 5], error=0.8)
    first, again, other = (agree(table, seed=seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)
    assert agree(table.iloc[::-1]).equals(first)
    assert first["low"][0] < first["tau"][0] <= first["high"][0] + 0.2
    # A model as it is never counts.
    assert agree(table.assign(trained=[True] * 3 + [False] * 3)).empty


def lines(blocks: tuple[object, ...]) -> list[str]:
    assert all(isinstance(block, Text) for block in blocks)
    return [line for block in blocks if isinstance(block, Text) for line in block.lines]


def test_findings_claim_nothing_without_an_interval(loaded: Run):
    told = lines(findings(loaded))
    text = "\n".join(told)
    assert "Held-out loss: of 7 trained strategies, against Full KD, 1 better, 1 worse" in text
    (better,) = (line for line in told if line.startswith("Better: ") and "Teacher -" in line)
    assert "By KL -0.0989 [-0.1132, -0.0847]" in better
    for line in told:
        if line.startswith(("Better", "Worse", "Not distinguishable")):
            assert line.count("[") == line.count("; ") + 1
    assert "Full KD against No KD: Held-out loss (nats/token)" in text
    assert "strategies that take fewer FLOPs than Full KD, " in text


def test_noise_says_what_is_covered_and_what_could_be_missed(loaded: Run):
    text = "\n".join(lines(noise(loaded)))
    assert "Only seeds are covered by the differences in Held-out loss" in text
    assert "more likely than one in five to be missed" in text


def test_warnings_count_what_failed(loaded: Run):
    told = warnings(loaded)
    assert told[0] == "The grid is incomplete: of 26 trials, 1 failed."
    assert told[1].startswith("Means of GLS are over the trials that finished")


def test_without_a_baseline_nothing_is_compared(tmp_path: Path):
    run = grid(tmp_path, {"Full KD": strategy()}, {}, baseline=None)
    assert lines(findings(run)) == ["The grid names no baseline, so nothing is compared."]
    (main, *_) = document_tables(run)
    assert "nothing is compared" in main.caption
    assert all(one.mark is None for row in main.rows for one in row)


def test_a_grid_of_which_nothing_finished_has_no_tables_of_numbers(tmp_path: Path):
    failed = tuple(("Full KD", seed) for seed in (1, 2, 3))
    run = grid(tmp_path, {"Full KD": strategy()}, {}, failed=failed)
    assert [table.name for table in document_tables(run)] == ["methods"]
    assert lines(findings(run)) == ["The baseline has no finished trial, so nothing is compared."]


REPORTS = sorted((Path(__file__).parents[2] / "reports").glob("*/manifest.json"))


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.parent.name)
def test_committed_reports_fill_their_tables(path: Path):
    manifest = read_manifest(path)
    tables = {table.name: table for table in document_tables(Run(manifest, load(path.parent, manifest)))}
    assert {"main", "comparisons", "noise", "published", "methods"} <= set(tables)
    assert set(tables["comparisons"].numbers["covers"]) == {"seeds and items", "seeds"}


# ---- quality at equal cost


def test_quality_at_equal_cost_is_that_beyond_a_shorter_baseline(tmp_path: Path):
    """The baseline's loss falls by 0.1 with each doubling of its cost, and so does what it is worth at any cost."""
    shares = {f"Full KD on {share:.0%}": share for share in (0.1, 0.3, 0.6)}
    strategies = {
        "Full KD": strategy(),
        **{label: strategy(samples={"policy": component("random"), "budget": b}) for label, b in shares.items()},
        "TopSmp": strategy(samples=TOP_SAMPLES),
        "No better": strategy(samples={**TOP_SAMPLES, "budget": 0.45}),
        "Worse": strategy(position=top_k("student_entropy")),
        "Out of reach": strategy(samples={**TOP_SAMPLES, "budget": 0.05}),
        "No KD": NO_KD,
    }
    effects = {label: math.log2(share) for label, share in shares.items()}
    effects |= {"TopSmp": math.log2(0.2) + 2, "No better": math.log2(0.45), "Worse": -1.5}
    tables = {table.name: table for table in document_tables(grid(tmp_path, strategies, effects))}
    matched = tables["matched"]
    assert rows_of(matched) == ["TopSmp", "No better", "Worse", "Out of reach"]
    heading = "Held-out loss (nats/token) at equal FLOPs"
    found = {label: cell(matched, label, heading) for label in rows_of(matched)}
    assert found["TopSmp"].value == pytest.approx(-0.2, abs=0.01)
    assert found["Worse"].value == pytest.approx(0.15, abs=0.01)
    assert [found[label].mark for label in found] == ["better", "not distinguishable", "worse", None]
    assert found["Out of reach"].text == "—"
    assert all(row[1].text == "—" for row in matched.rows), "no record says how many positions were supervised"
    assert next(iter(shares)) in matched.caption


def test_two_rows_are_no_curve_to_be_matched_with(tmp_path: Path):
    strategies = {"Full KD": strategy(), "half": strategy(samples={"policy": component("random"), "budget": 0.5}),
                  "TopSmp": strategy(samples=TOP_SAMPLES)}  # fmt: skip
    assert "matched" not in {table.name for table in document_tables(grid(tmp_path, strategies, {}))}


def test_seconds_of_a_busy_machine_are_left_out_or_marked(tmp_path: Path):
    rows = {"Full KD": strategy(), "busy": strategy(position=top_k("kl")), "calm": strategy(samples=TOP_SAMPLES)}
    shares = {("Full KD", 2): 0.5, ("calm", 1): 0.91} | {("busy", seed): 0.25 for seed in SEEDS}
    run = grid(tmp_path, rows, {}, core=shares)
    assert run.busy == {"busy"}
    assert run.set_aside == {"tFull_KD-2"}
    assert run.points["wall_train_s"]["Full KD"].mean == pytest.approx(50.0)
    assert run.row("Full KD", "wall_train_s")["n"] == 2
    tables = {table.name: table for table in document_tables(run)}
    assert texts(tables["main"], "Train (s)") == ["50.0", "200.0 (busy)", "10.3"]
    assert texts(tables["cost"], "Training (s)") == ["70", "220 (busy)", "36.3"]
    assert texts(tables["cost"], "Training (% of baseline)") == ["100", "314 (busy)", "52"]
    assert texts(tables["runtime"], "Train (s)") == ["50.0", "200.0 (busy)", "10.3"]
    assert texts(tables["head"], "Training (s)") == ["50.0", "200.0 (busy)", "10.3"]
    assert texts(tables["head"], "Tokens per second")[1].endswith("(busy)")
    assert texts(tables["cost"], "FLOPs")[1] == "1.5e+12"
    for name in ("main", "cost", "runtime", "head"):
        assert (
            "rows of such trials alone: busy; left out of the seconds of other rows: 1 trials" in tables[name].caption
        )
        numbers = tables[name].numbers
        assert set(numbers.loc[numbers["busy"], "label"]) == {"busy"}


def test_a_busy_baseline_marks_everything_that_is_set_against_it(tmp_path: Path):
    rows = {"Full KD": strategy(), "calm": strategy(samples=TOP_SAMPLES)}
    run = grid(tmp_path, rows, {}, core={("Full KD", seed): 0.5 for seed in SEEDS})
    tables = {table.name: table for table in document_tables(run)}
    assert texts(tables["cost"], "Training (s)") == ["120 (busy)", "36"]
    assert all(text.endswith("(busy)") for text in texts(tables["cost"], "Training (% of baseline)"))
    assert all(text.endswith("(busy)") for text in texts(tables["runtime"], "Against Full KD (%)"))


def test_quality_at_equal_seconds_asks_no_busy_trial(tmp_path: Path):
    shares = {f"Full KD on {share:.0%}": share for share in (0.1, 0.3, 0.6)}
    rows = {
        "Full KD": strategy(),
        **{label: strategy(samples={"policy": component("random"), "budget": b}) for label, b in shares.items()},
        "TopSmp": strategy(samples=TOP_SAMPLES),
    }
    for core, known in ({}, True), ({("TopSmp", seed): 0.8 for seed in SEEDS}, False):
        tables = {table.name: table for table in document_tables(grid(tmp_path / f"{known}", rows, {}, core=core))}
        assert (texts(tables["matched"], "Accuracy (%) at equal training seconds") != ["—"]) == known
        assert texts(tables["matched"], "Accuracy (%) at equal FLOPs") != ["—"]


@pytest.mark.parametrize(
    ("device", "own", "busy"),
    [("cpu", 8.9, True), ("cpu", 9.1, False), ("NVIDIA H200", 1.0, False), ("cpu", None, False)],
)
def test_a_trial_is_busy_by_its_own_thread_on_a_processor(device: str, own: float | None, busy: bool, tmp_path: Path):
    record = grid(tmp_path, {"Full KD": strategy()}, {}).records["Full KD"][0]
    threads = {} if own is None else {"train": own}
    cost = record.cost.model_copy(update={"wall_s": {"train": 10.0}, "cpu_s": {"train": 5.0}, "thread_s": threads})
    assert record.model_copy(update={"environment": {"device": device}, "cost": cost}).busy == busy


def test_a_report_says_whether_its_workload_can_tell(tmp_path: Path):
    rows = {"Full KD": strategy(), "SE-KD": strategy(position=top_k("student_entropy")), "No KD": NO_KD, "T": TEACHER}
    run = grid(tmp_path, rows, {"T": 2.0, "Full KD": 1.0})
    table = {table.name: table for table in document_tables(run)}["validity"]
    found = {str(row[0].text): row for row in table.rows}
    assert found["Gap recovered, held-out loss"][1].value == pytest.approx(0.5, abs=0.05)
    assert found["Gap recovered, accuracy"][1].value == pytest.approx(_recovered(run), abs=1e-9)
    assert found["Teacher above student"][2].text == "in all of 1"
    assert found["Budget realised"][2].text == "no row has a budget and a record of what it supervised"
    assert found["Overlap of selections"][2].text == "not in the record"
    upside_down = grid(tmp_path / "other", rows, {"T": -2.0})
    table = {table.name: table for table in document_tables(upside_down)}["validity"]
    assert "not in Accuracy" in [row[2].text for row in table.rows]


def _recovered(run: Run) -> float:
    own, student, teacher = (run.row(label, "accuracy")["mean"] for label in ("Full KD", "No KD", "T"))
    return float((own - student) / (teacher - student))


def test_a_budget_that_is_not_realised_is_named(tmp_path: Path):
    run = grid(tmp_path, {"Full KD": strategy(), "SE-KD": strategy(position=top_k("student_entropy"))}, {})
    seen = Supervision(valid_positions=100, supervised_positions=29, realised_fraction=0.29)
    records = tuple(record and record.model_copy(update={"selection": seen}) for record in run.frames.records)
    table = validity_table(Run(run.manifest, replace(run.frames, records=records)))
    assert table is not None
    assert [row[2].text for row in table.rows if row[0].text == "Budget realised"] == ["SE-KD 29.0% of 20.0% asked"]
    assert "takes finished rows of the baseline, of No KD" in table.rows[0][2].text
