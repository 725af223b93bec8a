"""Claims: known differences hold, absent ones never do, and what is left open says what would close it."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from scipy import stats
from spreads import spread_of
from synthetic import NO_KD, SEEDS, TEACHER, TOP_SAMPLES, grid, strategy, top_k
from typer.testing import CliRunner

from harness.analysis import findings
from harness.analysis.claims import Judgement, judge_claims
from harness.analysis.compose import compose
from harness.analysis.document import Text
from harness.analysis.hypotheses import Advantage, decided, margin_of, not_worse
from harness.analysis.metrics import describe
from harness.analysis.read import Run
from harness.analysis.report import read_run
from harness.cli.main import app
from harness.config import AsItIs, Grid
from harness.config.claims import COSTS, QUALITIES, Claim

ROWS = {
    "Full KD": strategy(),
    "far": strategy(position=top_k("kl")),
    "same": strategy(position=top_k("jsd")),
    "poor": strategy(position=top_k("student_ce")),
    "fewer samples": strategy(samples=TOP_SAMPLES),
}
EFFECTS = {"far": 1.5, "poor": -1.5}


def claimed(run: Run, *claims: Claim) -> dict[str, Judgement]:
    """Judge claims about a run by their ids."""
    manifest = run.manifest.model_copy(update={"claims": claims})
    return {each.claim.id: each for each in judge_claims(Run(manifest, run.frames))}


def claim(relation: str, row: str = "far", against: str = "Full KD", **fields: Any) -> Claim:
    sides = {} if "order" in fields else {"row": row, "against": against}
    name = fields.pop("id", f"{relation}-{row.replace(' ', '_')}")
    return Claim.model_validate({"id": name, "says": "so", "metric": "accuracy", "relation": relation} | sides | fields)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return grid(tmp_path_factory.mktemp("run"), ROWS, EFFECTS)


def test_a_true_claim_holds_a_false_one_is_contradicted_and_an_absent_difference_stays_open(run: Run) -> None:
    found = claimed(
        run,
        claim("better"),
        claim("better", "poor"),
        claim("better", "same"),
        claim("worse", "poor"),
        claim("differs"),
        claim("not_worse", margin=0.01),
        claim("not_worse", "poor", margin=0.01),
        claim("order", order=["far", "Full KD", "poor"], id="order"),
        claim("order", order=["poor", "Full KD", "far"], id="reversed"),
        claim("order", order=["far", "same", "Full KD"], id="tied"),
        claim("better", "far", metric="heldout_loss", id="loss"),
    )
    verdicts = {name: each.verdict for name, each in found.items()}
    assert verdicts == {
        "better-far": "holds",
        "better-poor": "contradicted",
        "better-same": "undecided",
        "worse-poor": "holds",
        "differs-far": "holds",
        "not_worse-far": "holds",
        "not_worse-poor": "contradicted",
        "order": "holds",
        "reversed": "contradicted",
        "tied": "undecided",
        "loss": "holds",
    }
    assert "far against Full KD: Accuracy (%) +" in found["better-far"].sentence
    # A lower loss is better, and is printed as it is.
    assert "Held-out loss (nats/token) -0.1" in found["loss"].evidence
    assert found["better-same"].decider
    assert not found["better-far"].decider


def test_a_report_opens_with_its_verdicts(run: Run, tmp_path: Path) -> None:
    manifest = run.manifest.model_copy(update={"claims": (claim("better"), claim("better", "same"))})
    (tmp_path / "records").mkdir()
    first = compose(Run(manifest, run.frames), (), (), folder=tmp_path).sections[0]
    assert first.title == "Claims"
    tally, verdicts = first.blocks
    assert isinstance(tally, Text)
    assert isinstance(verdicts, Text)
    assert tally.lines[0] == "Of 2 claims that the grid makes, 1 holds, 1 is undecided."
    assert [line.partition(":")[0] for line in verdicts.lines] == ["Holds", "Undecided"]


@pytest.mark.slow
def test_a_known_difference_holds_and_an_absent_one_never_does_in_19_of_20_tables(tmp_path: Path) -> None:
    far, same = Counter[str](), Counter[str]()
    for seed in range(100):
        made = grid(tmp_path / str(seed), ROWS, EFFECTS, seed=seed)
        found = claimed(made, claim("better"), claim("better", "same"), claim("not_worse", "same", margin=0.1))
        far[found["better-far"].verdict] += 1
        same[found["better-same"].verdict] += 1
    assert far["holds"] >= 95
    assert same["undecided"] >= 95


def test_costs_are_compared_by_their_ratio(run: Run) -> None:
    found = claimed(
        run,
        claim("cheaper", "fewer samples", metric="flops", factor=4),
        claim("cheaper", "fewer samples", metric="flops", factor=6, id="more"),
        claim("cheaper", "fewer samples", metric="memory", factor=1.1, id="memory"),
    )
    # A fifth of the samples is a fifth of the operations.
    assert "takes 5.00 times the FLOPs of fewer samples; claimed: 4" in found["cheaper-fewer_samples"].evidence
    assert [each.verdict for each in found.values()] == ["holds", "contradicted", "contradicted"]


def test_a_row_without_finished_trials_is_not_measured(tmp_path: Path) -> None:
    lost = grid(tmp_path, ROWS, EFFECTS, failed=tuple(("far", seed) for seed in (1, 2, 3)))
    found = claimed(lost, claim("better"), claim("order", order=["far", "Full KD", "poor"], id="order"))
    assert {each.verdict for each in found.values()} == {"not measured"}


def test_claims_are_one_family() -> None:
    # Twenty p-values of 0.01 after correction are 0.2, whatever each one's own seeds say.
    assert decided([(0.01, 0.01)]) == [True]
    assert decided([(0.01, 0.01)] * 20) == [False] * 20
    assert decided([(0.2, 1e-9), (0.01, 1e-9)]) == [False, True]
    assert decided([(math.nan, math.nan), (0.01, 0.01)]) == [False, True]
    assert decided([]) == []


def advantage(value: float, *, seeds: float = 1.0, items: float = 0.0) -> Advantage:
    spread = spread_of(seeds, 2, items, 500, single=seeds)
    return Advantage(describe("accuracy"), value, 1.0, spread, spread, 3)


def test_one_sided_tests_are_students() -> None:
    for value, beyond in ((5.0, 0.0), (1.0, -2.0), (-1.0, -2.0), (-5.0, -2.0)):
        above = stats.t.sf(value - beyond, 2)
        assert advantage(value).keys("above", beyond) == pytest.approx((above, above))
        assert advantage(value).keys("below", beyond)[0] == pytest.approx(1 - above)
        assert advantage(value).keys("apart", beyond)[0] == pytest.approx(2 * min(above, 1 - above))


def test_seeds_that_agree_to_the_last_digit_prove_nothing_unless_both_rows_are_the_same() -> None:
    assert all(math.isnan(p) for p in advantage(0.1, seeds=0.0).keys("above"))
    assert advantage(0.0, seeds=0.0).keys("above", -0.02) == (0.0, 0.0)


def test_the_number_of_seeds_that_would_decide_is_the_least_that_does() -> None:
    one = advantage(2.0)
    needed = one.seeds_to_decide()
    assert needed is not None

    def width(num: int) -> float:
        return float(stats.t.isf(0.025, num - 1) * math.sqrt(3 / num))

    assert width(needed) < 2.0 <= width(needed - 1)
    assert advantage(2.0, items=4.0).seeds_to_decide() is None


def test_a_margin_is_the_grids_or_a_tenth_of_the_gap(tmp_path: Path, run: Run) -> None:
    assert margin_of(run, "accuracy") is None
    rows = {"No KD": NO_KD, "Teacher": TEACHER, **ROWS}
    made = grid(tmp_path, rows, {"Teacher": 3.0, **EFFECTS})
    gap = made.row("Teacher", "accuracy")["mean"] - made.row("No KD", "accuracy")["mean"]
    assert margin_of(made, "accuracy") == pytest.approx(gap / 10)
    stated = Run(made.manifest.model_copy(update={"margin": {"accuracy": 0.07}}), made.frames)
    assert margin_of(stated, "accuracy") == 0.07


def test_only_a_row_that_is_shown_to_be_no_worse_is_called_so(tmp_path: Path) -> None:
    rows = {"No KD": NO_KD, "Teacher": TEACHER, **ROWS, "few and poor": strategy(samples=TOP_SAMPLES)}
    made = grid(tmp_path, rows, {"Teacher": 3.0, "few and poor": -1.5, **EFFECTS})
    held = not_worse(made, "accuracy", ["fewer samples", "few and poor"], 0.15)
    assert held == {"fewer samples": True, "few and poor": False}
    stated = Run(made.manifest.model_copy(update={"margin": {"accuracy": 0.15}}), made.frames)
    lines = [line for block in findings.findings(stated) for line in getattr(block, "lines", ())]
    assert (
        "Accuracy: of 2 strategies that take fewer FLOPs than Full KD, 1 is shown to be no worse, by a margin of 15.00"
        "; the cheapest: fewer samples, 20% of them."
    ) in lines
    assert not any("without being distinguishably worse" in line for line in lines)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"relation": "not_worse"}, "takes against, margin, row; given: against, row"),
        ({"relation": "better", "margin": 0.1}, "takes against, row; given: against, margin, row"),
        ({"relation": "cheaper", "metric": "accuracy", "factor": 2}, "'accuracy' is none of flops, seconds"),
        ({"relation": "better", "metric": "acuracy"}, "'acuracy' is none of accuracy"),
        ({"relation": "not_worse", "margin": 0}, "greater than 0"),
        ({"relation": "cheaper", "metric": "flops", "factor": 1}, "greater than 1"),
        ({"relation": "order", "row": None, "against": None, "order": ["a", "a"]}, "two different rows"),
    ],
)
def test_a_claim_that_says_too_little_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Claim.model_validate({"id": "x", "says": "so", "metric": "accuracy", "row": "a", "against": "b"} | fields)


def test_a_claim_about_a_row_that_the_grid_lacks_is_refused() -> None:
    fields = {"name": "g", "hypothesis": "", "workload": "tiny", "split": "test"}
    rows = (AsItIs(label="a", source="", model="student", train=False),)
    with pytest.raises(ValidationError, match=r"claim 'better-far': 'far' is not the label of a strategy: a"):
        Grid.model_validate(fields | {"strategies": rows, "claims": [claim("better")]})
    with pytest.raises(ValidationError, match=r"margin of 'speed': the metrics are accuracy"):
        Grid.model_validate(fields | {"strategies": rows, "margin": {"speed": 1.0}})


def test_claims_are_about_metrics_and_costs_that_reports_know() -> None:
    assert all(describe(name).direction is not None for name in QUALITIES)
    assert set(COSTS).isdisjoint(QUALITIES)


def test_the_command_prints_verdicts_and_writes_the_table(tmp_path: Path) -> None:
    report = Path("reports/position_axis")
    said = CliRunner().invoke(app, ["claims", str(report), "--table", str(tmp_path / "claims")])
    assert said.exit_code == 0, said.output
    judged = judge_claims(read_run(report))
    assert len(judged) >= 8
    assert said.output.splitlines() == ["position_axis, tiny", *(f"- {each.sentence}" for each in judged)]
    assert (tmp_path / "claims.csv").read_text().count("\n") == len(judged) + 1
    missing = CliRunner().invoke(app, ["claims", str(tmp_path)])
    assert missing.exit_code != 0


def test_seconds_of_a_busy_machine_decide_no_claim(tmp_path: Path) -> None:
    asked = claim("cheaper", "fewer samples", metric="seconds", factor=1.2)
    quiet = grid(tmp_path / "quiet", ROWS, {}, core={("Full KD", 1): 0.5})
    busy = grid(tmp_path / "busy", ROWS, {}, core={("Full KD", seed): 0.5 for seed in SEEDS})
    (one,), (other,) = claimed(quiet, asked).values(), claimed(busy, asked).values()
    assert (one.verdict, other.verdict) == ("holds", "undecided")
    assert "run it again alone" in other.decider
