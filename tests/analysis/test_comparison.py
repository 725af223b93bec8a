"""Two runs beside each other: what is matched, what differs and by how much, against numbers computed by hand."""

import math
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from harness.analysis.comparison import compare_runs, differences, match, pair_trials
from harness.analysis.document import Table, Text
from harness.analysis.frame import load
from harness.analysis.read import Run
from harness.records.layout import Results
from harness.records.record import Cost, Manifest, ManifestEntry, Metric, Record
from harness.records.store import write_record

HERE = [1.10, 1.14, 1.12]
THERE = [1.20, 1.22, 1.25]


def run(folder: Path, prefix: str, rows: dict[str, tuple[str, list[float | None]]], **changes: object) -> Run:
    """A run of labels, each with the signal that stands for its strategy and one held-out loss per seed."""
    entries = []
    for number, (label, (signal, values)) in enumerate(rows.items()):
        for seed, value in enumerate(values):
            entry = ManifestEntry(trial_id=f"{prefix}{number}{seed}", label=label, seed=seed)
            entries.append(entry)
            if value is not None:
                record = Record(
                    trial_id=entry.trial_id,
                    label=label,
                    strategy={"label": label, "source": "a paper", "position": {"signal": signal}},
                    workload={"name": "tiny", "optimisation": {"learning_rate": changes.get("rate", 0.1)}},
                    seed=seed,
                    sources={f"signal {signal}": str(changes.get("source", "s"))},
                    core="c0ffee",
                    status="finished",
                    metrics={"heldout_loss": Metric(value=value, num=10)},
                    cost=Cost(wall_s={"train": 2.0}),
                    environment={"torch": str(changes.get("torch", "2.13.0"))},
                    started_at="2026-01-01T00:00:00Z",
                    finished_at="2026-01-02T00:00:00Z",
                )
                write_record(Results(folder), record, {})
    manifest = Manifest(
        grid="g", hypothesis="", workload="tiny", baseline=None, split="test", command="c", trials=tuple(entries)
    )
    return Run(manifest=manifest, frames=load(folder, manifest))


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, Run]:
    same = [2.0, 2.1, 2.2]
    here = run(tmp_path / "a", "a", {"Entropy": ("entropy", HERE), "KL": ("kl", same), "New": ("new", [1.0])})
    there = run(
        tmp_path / "b", "b", {"kl 20%": ("kl", same), "h": ("entropy", THERE), "Old": ("old", [None])}, torch="2.14.0"
    )
    return here, there


def test_strategies_are_matched_whatever_they_are_called(runs: tuple[Run, Run]) -> None:
    assert match(*runs) == {"Entropy": "h", "KL": "kl 20%"}


def test_trials_of_one_id_are_matched_without_a_record(tmp_path: Path) -> None:
    here = run(tmp_path / "a", "t", {"A": ("kl", [None])})
    there = run(tmp_path / "b", "t", {"B": ("kl", [1.0])})
    assert match(here, there) == {"A": "B"}
    (pair,) = pair_trials(here, there, match(here, there))
    assert pair["relation"] == "no record in this run"


def test_differences_are_paired_by_seed(runs: tuple[Run, Run]) -> None:
    numbers = differences(*runs, match(*runs))
    row = numbers[(numbers["label"] == "Entropy") & (numbers["metric"] == "heldout_loss")].iloc[0]
    paired = stats.ttest_rel(HERE, THERE)
    low, high = paired.confidence_interval(0.95)
    assert row["num_pairs"] == 3
    assert (row["difference"], row["ci_low"], row["ci_high"]) == pytest.approx(
        (sum(HERE) / 3 - sum(THERE) / 3, low, high)
    )
    assert row["p_value"] == pytest.approx(paired.pvalue)
    assert row["p_corrected"] == pytest.approx(2 * paired.pvalue)  # the other label's p is 1
    cost = numbers[(numbers["label"] == "Entropy") & (numbers["metric"] == "wall_train_s")].iloc[0]
    assert cost["difference"] == 0
    assert pd.isna(cost["verdict"])


def test_marks_are_corrected_for_the_number_of_strategies(tmp_path: Path) -> None:
    noisy = [1.0, 1.2, 0.9]
    step = [0.10, 0.14, 0.09]  # p = 0.018: distinguishable alone, not among five
    alone = {"S": ("s", noisy)}
    many = alone | {f"N{n}": (f"n{n}", [1.0, 1.1, 1.3]) for n in range(4)}

    def moved(rows: dict[str, tuple[str, list[float]]]) -> dict[str, tuple[str, list[float | None]]]:
        return {
            label: (signal, [a + b for a, b in zip(values, step if label == "S" else [0.1, -0.1, 0.05], strict=True)])
            for label, (signal, values) in rows.items()
        }

    for rows, verdict in ((alone, "better"), (many, "not distinguishable")):
        here = run(tmp_path / f"a{len(rows)}", "a", dict(rows))
        there = run(tmp_path / f"b{len(rows)}", "b", moved(rows))
        numbers = differences(here, there, match(here, there))
        row = numbers[(numbers["label"] == "S") & (numbers["metric"] == "heldout_loss")].iloc[0]
        assert row["p_value"] < 0.05
        assert row["verdict"] == verdict


def test_section_names_what_is_missing_and_what_changed(runs: tuple[Run, Run], tmp_path: Path) -> None:
    section = compare_runs(*runs)
    tables = {block.name: block for block in section.blocks if isinstance(block, Table)}
    told = " ".join(line for block in section.blocks if isinstance(block, Text) for line in block.lines)
    assert "Strategies only in this run: New." in told
    assert "Strategies only in the other run: Old." in told
    shown = {row[0].text: row[2].text for row in tables["compared_differences"].rows}
    assert shown["KL (there: kl 20%)"] == "identical"
    assert shown["Entropy (there: h)"].startswith("-0.1033 [-")
    relations = {(row[0].text, row[1].text): row[-1].text for row in tables["compared_trials"].rows}
    assert relations["Old", "0"] == "only in the other run"
    assert relations["New", "0"] == "only in this run"
    settings = {row[0].text: (row[1].text, row[2].text) for row in tables["compared_settings"].rows}
    assert settings == {"torch": ("2.13.0", "2.14.0")}

    other = run(tmp_path / "c", "c", {"Entropy": ("entropy", THERE)}, rate=0.2, source="edited")
    relation = pair_trials(runs[0], other, match(runs[0], other))[0]["relation"]
    assert relation == "differs in workload optimisation.learning_rate, source of signal entropy"


def test_runs_that_share_no_seed_have_means_and_no_interval(tmp_path: Path) -> None:
    here = run(tmp_path / "a", "a", {"S": ("s", [1.0, None])})
    there = run(tmp_path / "b", "b", {"S": ("s", [None, 2.0])})
    row = differences(here, there, match(here, there)).set_index("metric").loc["heldout_loss"]
    assert (row["mean"], row["other_mean"], row["num_pairs"]) == (1.0, 2.0, 0)
    assert math.isnan(row["difference"])
    assert math.isnan(row["ci_low"])
