"""A trial is identified by what it computes: by nothing else, and by all of it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import workload_fields
from safetensors.torch import load_file, save_file

import harness.trial.trial as trial_module
from harness.config.errors import UnknownNameError, UserError
from harness.config.expand import load_grid
from harness.config.workloads import load_workload
from harness.trial.identity import fingerprints
from harness.trial.trial import Trial, as_config, from_config, make_trials, only
from strategies.registry import Component

WriteGrid = Callable[..., Path]
WriteWorkload = Callable[..., Path]

SE_KD: dict[str, Any] = {
    "label": "SE-KD 20%",
    "position": {"signal": "student_entropy", "policy": "top_k", "budget": 0.2},
    "criterion": "forward_kl",
}


@pytest.fixture
def make_trial(write_grid: WriteGrid, write_workload: WriteWorkload) -> Callable[..., Trial]:
    """Make one trial of SE-KD with changed fields; `workload` holds changes of the workload."""

    def make(
        *,
        workload: dict[str, Any] | None = None,
        seed: int = 1,
        split: str = "test",
        marks: dict[str, str] | None = None,
        **changes: Any,
    ) -> Trial:
        path = write_workload(**(workload or {}))
        grid = load_grid(write_grid([{**SE_KD, **changes}], workload=str(path), split=split, seeds=[seed]))
        found = {"student": "s", "teacher": "t", "tokenizer": "k", "data": "d", "evaluation": "e", **(marks or {})}
        (trial,) = make_trials(grid, load_workload(str(path)), found)
        return trial

    return make


MakeTrial = Callable[..., Trial]


@pytest.mark.parametrize(
    "changes",
    [
        {"label": "another name"},
        {"source": "another paper"},
        {"workload": {"optimisation__micro_batch_size": 4}},
        {"workload": {"evaluation__batch_size": 2}},
        {"workload": {"resources__cpus": 2}},
        {"workload": {"resources__gpus": 1}},
        {"workload": {"resources__logit_memory_mib": 32}},
        {"workload": {"seeds": [1, 2, 3]}},
        {"workload": {"name": "elsewhere"}},
        {"preset": "se_kd"},
    ],
)
def test_names_and_machines_do_not_change_the_id(changes: dict[str, Any], make_trial: MakeTrial) -> None:
    assert make_trial(**changes).id == make_trial().id


@pytest.mark.parametrize(
    "changes",
    [
        {"lambda": 0.5},
        {"temperature": 2.0},
        {"normaliser": "batch_mean"},
        {"teacher": "online"},
        {"flow": "dense"},
        {"criterion": "reverse_kl"},
        {"position": {**SE_KD["position"], "budget": 0.21}},
        {"position": {**SE_KD["position"], "signal": "teacher_entropy"}},
        {"position": {**SE_KD["position"], "signal": {"name": "ce_ratio", "eps": 1e-3}}},
        {"position": {"policy": "random", "budget": 0.2}},
        {"seed": 2},
        {"split": "validation"},
        {"marks": {"student": "x"}},
        {"marks": {"teacher": "x"}},
        {"marks": {"tokenizer": "x"}},
        {"marks": {"data": "x"}},
        {"marks": {"evaluation": "x"}},
        {"workload": {"data__sequence_length": 16}},
        {"workload": {"data__train_tokens": 416}},
        {"workload": {"data__cross_document_targets": True}},
        {"workload": {"optimisation__learning_rate": 0.002}},
        {"workload": {"optimisation__batch_size": 6}},
        {"workload": {"optimisation__epochs": 2}},
        {"workload": {"optimisation__max_grad_norm": 0.5}},
        {"workload": {"evaluation__num_items": 5}},
        {"workload": {"resources__dtype": "bfloat16"}},
    ],
)
def test_what_is_computed_changes_the_id(changes: dict[str, Any], make_trial: MakeTrial) -> None:
    assert make_trial(**changes).id != make_trial().id


def test_all_those_ids_differ_from_each_other(make_trial: MakeTrial) -> None:
    changes: list[dict[str, Any]] = [{}, {"lambda": 0.5}, {"temperature": 2.0}, {"seed": 2}, {"flow": "dense"}]
    assert len({make_trial(**each).id for each in changes}) == len(changes)


def test_an_id_is_the_same_in_every_process_and_run(make_trial: MakeTrial) -> None:
    assert make_trial().id == make_trial().id
    assert len(make_trial().id) == 16
    int(make_trial().id, 16)


def test_numerics_change_every_id(make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_trial().id
    monkeypatch.setattr(trial_module, "NUMERICS", trial_module.NUMERICS + 1)
    assert make_trial().id != before


def test_what_a_student_writes_is_identified_by_how_it_is_drawn(
    make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, Any] = {
        "rollout": {"share": 0.5, "temperature": 1.0, "top_p": 1.0, "prompt_tokens": 4},
        "teacher": "online",
        "criterion": "reverse_kl",
        "position": {"policy": "all"},
    }
    before = make_trial(**written).id, make_trial().id
    monkeypatch.setattr(trial_module, "digest_of", lambda module: f"another {module}")
    assert make_trial(**written).id != before[0]
    assert make_trial().id == before[1]


@pytest.mark.parametrize(
    ("edited", "affected"),
    [
        ("student_ce", {"student ce", "ce ratio", "ce ratio plus student entropy"}),
        ("ce_ratio", {"ce ratio", "ce ratio plus student entropy"}),
        ("student_entropy", {"student entropy", "ce ratio plus student entropy", "weighted"}),
        ("teacher_uncertainty", {"AT-KD"}),
        ("top_k", {"student ce", "ce ratio", "ce ratio plus student entropy", "student entropy"}),
        ("cross_entropy", {"SFT (no teacher)"}),
        ("reverse_kl", set()),
    ],
)
def test_editing_one_component_changes_exactly_the_trials_that_use_it(
    edited: str,
    affected: set[str],
    write_grid: WriteGrid,
    write_workload: WriteWorkload,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries: list[Any] = [
        {
            "preset": "se_kd",
            "label": "{signal}",
            "sweep": {
                "position.signal": ["student_ce", "ce_ratio", "ce_ratio_plus_student_entropy", "student_entropy"]
            },
        },
        {"preset": "weighted_kd", "label": "weighted"},
        "at_kd", "sft", "full_kd", "random_pos", "no_kd",
    ]  # fmt: skip
    path = write_workload()
    grid, workload = load_grid(write_grid(entries, workload=str(path))), load_workload(str(path))

    def ids() -> dict[str, str]:
        return {trial.strategy.label: trial.id for trial in make_trials(grid, workload, {}) if trial.seed in (None, 1)}

    before = ids()
    assert len(set(before.values())) == len(before) == 10
    original = Component.digest.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Component, "digest", property(lambda self: "edited" if self.name == edited else original(self)))
    after = ids()
    assert {label for label in before if before[label] != after[label]} == affected


def test_a_model_as_it_is_has_no_seed(write_grid: WriteGrid, write_workload: WriteWorkload) -> None:
    path = write_workload()
    grid = load_grid(write_grid(["no_kd", "teacher", "se_kd"], workload=str(path)))
    trials = make_trials(grid, load_workload(str(path)), {})
    assert [(trial.strategy.label, trial.seed) for trial in trials] == [
        ("No KD", None), ("Teacher", None), ("SE-KD 20%", 1), ("SE-KD 20%", 2),
    ]  # fmt: skip
    assert [trial.name for trial in trials][2] == "SE-KD 20%, seed 1"
    assert len({trial.id for trial in trials}) == 4


def test_seeds_come_from_the_grid_or_the_workload(write_grid: WriteGrid, write_workload: WriteWorkload) -> None:
    workload = load_workload(str(write_workload()))
    with_seeds, without = load_grid(write_grid(["se_kd"], seeds=[7])), load_grid(write_grid(["se_kd"]))
    assert [trial.seed for trial in make_trials(with_seeds, workload, {})] == [7]
    assert [trial.seed for trial in make_trials(without, workload, {})] == [1, 2]


def test_a_trial_survives_the_way_to_a_worker(make_trial: MakeTrial) -> None:
    trial = make_trial(**{"lambda": 0.5, "criterion": {"name": "at_kd", "hard_fraction": 0.5, "easy_weight": 0.2}})
    rebuilt = from_config(json.loads(json.dumps(as_config(trial))))
    assert rebuilt == trial
    assert rebuilt.id == trial.id


def test_trials_are_chosen_by_label(write_grid: WriteGrid, write_workload: WriteWorkload) -> None:
    trials = make_trials(
        load_grid(write_grid(["full_kd", "full_kd_dense", "se_kd"])), load_workload(str(write_workload())), {}
    )
    labels = lambda *asked: [trial.strategy.label for trial in only(trials, labels=asked)]  # noqa: E731
    assert labels("full kd") == ["Full KD"] * 2
    assert labels("full") == ["Full KD"] * 2 + ["Full KD (dense logits)"] * 2
    assert labels("se", "full kd") == ["Full KD"] * 2 + ["SE-KD 20%"] * 2
    with pytest.raises(UnknownNameError, match=r"unknown strategy label 'SE-KT'\. Did you mean 'SE-KD 20%'\?"):
        only(trials, labels=["SE-KT"])


def test_trials_are_chosen_by_seed(write_grid: WriteGrid, write_workload: WriteWorkload) -> None:
    trials = make_trials(load_grid(write_grid(["no_kd", "se_kd"])), load_workload(str(write_workload())), {})
    assert [trial.seed for trial in only(trials, seeds=[2])] == [None, 2]
    assert [trial.seed for trial in only(trials, labels=["SE"], seeds=[2, 1])] == [1, 2]
    with pytest.raises(UserError, match=r"seed 3 is not one of the grid's: 1, 2"):
        only(trials, seeds=[3])


# ---- fingerprints of a real workload


@pytest.fixture
def copied(checkpoints: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(checkpoints, tmp_path / "copied"))
    assert json.loads(json.dumps(workload_fields())) == workload_fields()
    return folder


def _fingerprints(folder: Path) -> dict[str, str]:
    return fingerprints(load_workload(str(folder / "workload.yaml")))


def test_fingerprints_do_not_depend_on_the_place(copied: Path, checkpoints: Path) -> None:
    assert _fingerprints(copied) == _fingerprints(checkpoints)


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_rewritten_weights_change_one_fingerprint(model: str, copied: Path) -> None:
    before = _fingerprints(copied)
    path = copied / model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] *= 1.5
    save_file(tensors, path, metadata={"format": "pt"})
    after = _fingerprints(copied)
    assert {key for key in before if before[key] != after[key]} == {model}


def test_rewritten_documents_change_one_fingerprint(copied: Path) -> None:
    before = _fingerprints(copied)
    path = copied / "test.jsonl"
    path.write_text(path.read_text().replace("cat", "owl"))
    after = _fingerprints(copied)
    assert {key for key in before if before[key] != after[key]} == {"data"}


def test_without_a_teacher_there_is_no_fingerprint_of_one(write_workload: WriteWorkload) -> None:
    assert "teacher" not in fingerprints(load_workload(str(write_workload(teacher=None))))


_IDS = """
import json, sys
from pathlib import Path
from harness.config.expand import load_grid
from harness.config.workloads import load_workload
from harness.trial.identity import fingerprints
from harness.trial.trial import make_trials
grid = load_grid(Path(sys.argv[1]))
workload = load_workload(grid.workload)
print(json.dumps([trial.id for trial in make_trials(grid, workload, fingerprints(workload))]))
"""


@pytest.mark.slow
def test_moving_modules_changes_no_id(tmp_path: Path) -> None:
    """Move modules of evaluation, data, models and the core in a copy, and compare the ids of a whole grid."""
    checkout = Path(__file__).parents[2]
    for package in ("harness", "strategies"):
        shutil.copytree(checkout / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    moved = {
        "harness.evaluate.scores": "harness.evaluate.marks",
        "harness.data.corpus.draws": "harness.data.randomness",
        "harness.data.items": "harness.evaluate.questions",
        "harness.models.head": "harness.models.ends",
        "harness.distill.score": "harness.distill.rows",
    }
    for before, after in moved.items():
        (tmp_path / before.replace(".", "/")).with_suffix(".py").rename(
            (tmp_path / after.replace(".", "/")).with_suffix(".py")
        )
    for path in (tmp_path / "harness").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for before, after in moved.items():
            text = text.replace(f"{before} import", f"{after} import")
        path.write_text(text, encoding="utf-8")
    ids = []
    for folder in (checkout, tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", _IDS, str(checkout / "grids" / "position_axis.yaml")],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        ids.append(json.loads(done.stdout))
    assert len(set(ids[0])) == 38
    assert ids[0] == ids[1]
