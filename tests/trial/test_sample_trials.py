"""Trials that use the sample axis: what they train on, what they record, what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import caches_in
from rich.console import Console
from safetensors.torch import load_file, save_file
from sampling import sampled

from harness import models
from harness.config import Workload
from harness.config.errors import UserError
from harness.config.expand import load_grid, presets
from harness.config.labels import describe
from harness.config.legality import check, check_strategy, components
from harness.config.strategy import read_strategy
from harness.config.workloads import load_workload
from harness.distill import train as train_module
from harness.distill.train import data_order
from harness.records.layout import Results
from harness.records.store import read_record
from harness.run.attempt import run_and_write
from harness.run.plan import Plan, make_plan, reads_cache
from harness.run.prepare import prepare_plan
from harness.teacher.inputs import prepare_inputs
from harness.teacher.source import Source
from harness.trial import samples
from harness.trial.execute import Outcome, run_trial
from harness.trial.flops import predict_flops
from harness.trial.identity import fingerprints
from harness.trial.trial import Trial, as_config, from_config, make_trials
from strategies.noise import streams, uniform
from strategies.registry import SAMPLES, Component

TOP = {"signal": "student_entropy", "policy": "top", "budget": 0.5}
FULL_KD = {"label": "x", "position": {"policy": "all"}, "criterion": "forward_kl"}


@pytest.fixture(scope="module")
def workload(workload_file: Path) -> Workload:
    return load_workload(str(workload_file))


@pytest.fixture(scope="module")
def marks(workload: Workload) -> dict[str, str]:
    return fingerprints(workload)


@pytest.fixture(scope="module")
def make_trial(workload: Workload, marks: dict[str, str]) -> Callable[..., Trial]:
    def make(
        chosen: dict[str, Any] | None = TOP, *, seed: int = 1, loaded: Workload | None = None, **other: Any
    ) -> Trial:
        strategy = read_strategy({**FULL_KD, "samples": chosen, **other})
        check_strategy(strategy)
        return Trial(
            strategy=strategy,
            workload=loaded or workload,
            seed=seed,
            split="validation",
            sources={f"{part.kind} {part.name}": part.digest for part in components(strategy)},
            fingerprints=marks if loaded is None else fingerprints(loaded),
        )

    return make


MakeTrial = Callable[..., Trial]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, workload: Workload, marks: dict[str, str]) -> Path:
    """A cache folder that has everything but prepasses."""
    folder = tmp_path_factory.mktemp("shared")
    prepare_inputs(workload, marks, "validation", results=caches_in(folder), needs_train_cache=True)
    return folder


@pytest.fixture
def cache(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared, tmp_path / "cache"))


def values(outcome: Outcome) -> dict[str, float]:
    return {name: metric.value for name, metric in outcome.record.metrics.items()}


def kept_of(outcome: Outcome) -> list[int]:
    return [int(index) for index in outcome.tables["samples"]["index"][outcome.tables["samples"]["kept"]]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Indices of the sequences of every global batch that is trained on."""
    batches: list[list[int]] = []
    original = train_module.accumulate

    def spy(core: Any, micro_batches: Any, *args: Any, **kwargs: Any) -> Any:
        batches.append([int(index) for batch in micro_batches for index in batch.index])
        return original(core, micro_batches, *args, **kwargs)

    monkeypatch.setattr(train_module, "accumulate", spy)
    return batches


# ---- what is trained on


def test_training_meets_the_kept_sequences_and_no_others(
    make_trial: MakeTrial, cache: Path, write_workload: Callable[..., Path], seen: list[list[int]]
) -> None:
    loaded = load_workload(str(write_workload(optimisation__epochs=4)))
    outcome = run_trial(make_trial(loaded=loaded), results=caches_in(cache))
    kept = kept_of(outcome)
    assert len(kept) == 6  # of 12
    assert [len(batch) for batch in seen] == [4] * 6  # 6 sequences, 4 epochs, batches of 4
    met = [index for batch in seen for index in batch]
    assert all(sorted(met[start : start + 6]) == kept for start in range(0, 24, 6))
    assert outcome.record.cost.tokens == 24 * 32
    assert len(outcome.tables["curve"]) == 6


def test_the_order_of_kept_sequences_is_theirs_among_all() -> None:
    whole, kept = data_order(20, 3, 7), torch.tensor([1, 4, 5, 11, 19])
    some = data_order(20, 3, 7, kept)
    assert some.view(3, 5).sort(dim=1).values.tolist() == [kept.tolist()] * 3
    assert some.tolist() == [index for index in whole.tolist() if index in kept.tolist()]
    assert torch.equal(data_order(20, 3, 7, torch.arange(20)), whole)
    assert not torch.equal(data_order(20, 3, 8, kept), some)


def test_keeping_everything_is_the_strategy_without_samples(make_trial: MakeTrial, cache: Path) -> None:
    plain = run_trial(make_trial(None), results=caches_in(cache))
    assert plain.record.samples is None
    assert "samples" not in plain.tables
    assert not any(part.startswith("prepass") for part in plain.record.cost.flops)
    for chosen in ({**TOP, "budget": 1.0}, {"policy": "random", "budget": 1.0}):
        outcome = run_trial(make_trial(chosen), results=caches_in(cache))
        assert values(outcome) == values(plain)
        assert outcome.tables["curve"].equals(plain.tables["curve"])


def test_the_kept_sequences_are_those_the_policy_chooses(make_trial: MakeTrial, cache: Path) -> None:
    noise = uniform(streams(samples.derive(1, "samples"), torch.arange(12)), 1)[:, 0]
    for name, options in (("top", {}), ("bottom", {}), ("stratified", {"bins": 3})):
        chosen = {**TOP, "policy": {"name": name, **options}}
        outcome = run_trial(make_trial(chosen), results=caches_in(cache))
        scores = torch.tensor(outcome.tables["samples"]["score"].to_numpy())
        assert kept_of(outcome) == SAMPLES[name].build(**options).choose(scores, 0.5, noise).tolist()
    scores = torch.zeros(12)
    random = run_trial(make_trial({"policy": "random", "budget": 0.5}), results=caches_in(cache))
    assert kept_of(random) == SAMPLES["random"].build().choose(scores, 0.5, noise).tolist()


@pytest.mark.slow
def test_random_samples_differ_by_seed_and_ranked_ones_do_not(make_trial: MakeTrial, cache: Path) -> None:
    drawn = [
        kept_of(run_trial(make_trial({"policy": "random", "budget": 0.5}, seed=seed), results=caches_in(cache)))
        for seed in (1, 1, 2)
    ]
    ranked = [kept_of(run_trial(make_trial(seed=seed), results=caches_in(cache))) for seed in (1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert ranked[0] == ranked[1]


# ---- what is recorded


def test_the_record_states_the_choice_and_its_cost(make_trial: MakeTrial, cache: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(cache, results / "cache")
    first, second = (make_trial(seed=seed) for seed in (1, 2))
    for trial, source in ((first, "built"), (second, "reused")):
        run_and_write(trial, Results(results))
        record = read_record(Results(results).record(trial.id))
        assert record.samples is not None
        assert record.samples.model_dump() == {"num_samples": 12, "kept_samples": 6, "prepass": source}
        assert {"load", "prepass", "cache", "train", "eval"} <= record.cost.wall_s.keys()
        assert record.cost.disk_bytes["prepass"] > 0
        assert ("prepass" in record.cost.shared_s) == (source == "reused")
        assert record.cost.flops["prepass_student_trunk"] > 0
        assert record.cost.flops["prepass_teacher_head"] == record.cost.flops["prepass_teacher_trunk"] == 0
        assert record.seeds.keys() == {"global", "samples"}
        assert record.sources.keys() >= {"sample policy top", "signal student_entropy", "policy all"}
        table = pd.read_parquet(Results(results).trial(trial.id) / "samples.parquet")
        assert list(table.columns) == ["index", "score", "kept"]
        assert table["index"].tolist() == list(range(12))
        assert table["kept"].sum() == 6
        assert table["score"][table["kept"]].min() >= table["score"][~table["kept"]].max()
    assert len(list((results / "cache").glob("prepass-*"))) == 1


def test_a_policy_without_scores_has_no_prepass(make_trial: MakeTrial, cache: Path) -> None:
    outcome = run_trial(make_trial({"policy": "random", "budget": 0.5}), results=caches_in(cache))
    assert outcome.record.samples is not None
    assert outcome.record.samples.prepass is None
    assert outcome.tables["samples"]["score"].isna().all()
    assert not any(part.startswith("prepass") for part in outcome.record.cost.flops)
    assert not list(cache.glob("prepass-*"))


SHARED = [
    TOP,
    {**TOP, "budget": 0.4},
    {**TOP, "policy": "bottom"},
    {**TOP, "policy": {"name": "stratified", "bins": 2}},
]


@pytest.mark.slow
def test_policies_budgets_and_strategies_share_a_prepass(make_trial: MakeTrial, cache: Path) -> None:
    trials = [make_trial(chosen) for chosen in SHARED]
    trials.append(make_trial(position={"signal": "kl", "policy": "top_k", "budget": 0.3}))
    sources = [run_trial(trial, results=caches_in(cache)).record.samples for trial in trials]
    assert [found.prepass for found in sources if found is not None] == ["built"] + ["reused"] * 4
    assert len(list(cache.glob("prepass-*"))) == 1
    run_trial(make_trial({**TOP, "signal": "student_ce"}), results=caches_in(cache))
    assert len(list(cache.glob("prepass-*"))) == 2


@pytest.mark.parametrize("name", ["shard-00000.safetensors", "meta.json"])
def test_a_damaged_prepass_is_refused_by_name(name: str, make_trial: MakeTrial, cache: Path) -> None:
    run_trial(make_trial(), results=caches_in(cache))
    (path,) = cache.glob(f"prepass-*/{name}")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(UserError, match="is damaged") as caught:
        run_trial(make_trial(seed=2), results=caches_in(cache))
    assert str(path) in str(caught.value)
    shutil.rmtree(path.parent)
    found = run_trial(make_trial(seed=2), results=caches_in(cache)).record.samples
    assert found is not None
    assert found.prepass == "built"


# ---- the teacher


def test_a_student_only_prepass_loads_no_teacher(
    make_trial: MakeTrial, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, loaded = models.load_model, []

    def spy(source: Any, *args: Any, **kwargs: Any) -> Any:
        loaded.append(Path(source.path).name)
        return original(source, *args, **kwargs)

    monkeypatch.setattr(models, "load_model", spy)
    run_trial(make_trial(criterion="cross_entropy", teacher="online"), results=caches_in(cache))
    assert loaded == ["student"]
    loaded.clear()
    run_trial(make_trial({**TOP, "signal": "kl"}), results=caches_in(cache))  # the teacher's states come from the cache
    assert loaded == ["student"]
    loaded.clear()
    run_trial(
        make_trial({**TOP, "signal": "reverse_kl"}, criterion="cross_entropy", teacher="online"),
        results=caches_in(cache.with_name("empty")),
    )
    assert loaded == ["teacher", "student", "teacher"], "its states of the held-out text, then the prepass"


def test_cached_and_online_teachers_choose_the_same_and_each_is_charged_for_its_own(
    make_trial: MakeTrial, cache: Path, shared: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(shared, tmp_path / "other"))
    by_kl = {**TOP, "signal": "kl"}
    cached = run_trial(make_trial(by_kl), results=caches_in(cache))
    online = run_trial(make_trial(by_kl, teacher="online"), results=caches_in(other))
    reusing = run_trial(make_trial(by_kl, teacher="online"), results=caches_in(cache))
    assert reusing.record.samples is not None
    assert reusing.record.samples.prepass == "reused"
    assert cached.tables["samples"].equals(online.tables["samples"])
    assert values(cached) == values(online) == values(reusing)
    assert cached.record.cost.flops["prepass_teacher_trunk"] == 0
    assert online.record.cost.flops["prepass_teacher_trunk"] > 0
    assert online.record.cost.flops == reusing.record.cost.flops


def test_the_kept_indices_reach_the_preparation_of_the_teachers_states(
    make_trial: MakeTrial, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import harness.trial.stages as training

    asked: list[list[int]] = []
    original = training.provide_teacher

    def spy(workload: Workload, source: Source, **named: Any) -> Any:
        asked.append(source.sequences.tolist())
        return original(workload, source, **named)

    monkeypatch.setattr(training, "provide_teacher", spy)
    outcome = run_trial(make_trial(), results=caches_in(cache))
    assert asked == [kept_of(outcome)]


# ---- costs


@pytest.mark.parametrize(
    "changes",
    sampled(
        [
            {"chosen": {"policy": "random", "budget": 0.5}},
            {"chosen": {**TOP, "signal": "ce_ratio"}},
            {"chosen": {**TOP, "signal": "teacher_entropy", "policy": "bottom"}, "teacher": "online"},
            {"chosen": TOP, "position": {"signal": "student_entropy", "policy": "top_k", "budget": 0.2}},
            {"chosen": {**TOP, "signal": "kl"}, "criterion": "cross_entropy"},
        ],
        [2, 3],
    ),
)
def test_predicted_operations_are_those_recorded(
    changes: dict[str, Any], make_trial: MakeTrial, write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    # With separators supervised every position but the last is valid, as predicted.
    loaded = load_workload(str(write_workload(data__cross_document_targets=True)))
    trial = make_trial(loaded=loaded, **changes)
    measured = run_trial(trial, results=Results(tmp_path)).record.cost.flops
    predicted = predict_flops(trial)
    assert predicted.keys() == measured.keys()
    assert predicted == pytest.approx(measured, rel=1e-12)


def test_a_prepass_that_reads_the_teacher_needs_its_cache(make_trial: MakeTrial) -> None:
    by_kl = {**TOP, "signal": "kl"}
    assert reads_cache(make_trial(by_kl, criterion="cross_entropy"))
    assert not reads_cache(make_trial(TOP, criterion="cross_entropy"))
    assert not reads_cache(make_trial(by_kl, criterion="cross_entropy", teacher="online"))


def test_a_grid_builds_each_prepass_once_before_its_trials(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    entries = [
        "full_kd",
        {"preset": "random_smp", "samples": {"budget": 0.5}},
        {"preset": "topsmp", "label": "{sample_signal}", "samples": {"budget": 0.5},
         "sweep": {"samples.signal": ["student_entropy", "kl"]}},
    ]  # fmt: skip
    plan = make_plan(write_grid(entries, workload=str(workload_file)), Results(tmp_path))
    assert isinstance(plan, Plan)
    prepare_plan(plan, Results(tmp_path), Console(quiet=True))
    assert len(list((tmp_path / "cache").glob("prepass-*"))) == 2
    found = run_trial(plan.todo[-1], results=Results(tmp_path)).record.samples
    assert found is not None
    assert found.prepass == "reused"


def test_a_student_that_gives_no_numbers_fails_its_trials_not_the_grid(
    checkpoints: Path, write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoints / "student", tmp_path / "student"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][:] = 1e38
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = write_workload(student={"path": str(folder)})
    plan = make_plan(
        write_grid([{"preset": "topsmp", "samples": {"budget": 0.5}}], workload=str(path)), Results(tmp_path)
    )
    prepare_plan(plan, Results(tmp_path), Console(quiet=True))
    with pytest.raises(FloatingPointError):
        run_and_write(plan.todo[0], Results(tmp_path))
    record = read_record(Results(tmp_path).record(plan.todo[0].id))
    assert record.failure is not None
    assert "signal 'student_entropy' scores 12 of 12 training sequences as not finite" in record.failure.message


# ---- identity


def test_strategies_without_samples_have_no_trace_of_them(make_trial: MakeTrial) -> None:
    assert "samples" not in make_trial(None).strategy.identity()
    assert make_trial({"policy": "random", "budget": 0.5}).strategy.identity()["samples"] == {
        "policy": {"name": "random", "options": {}}, "budget": 0.5,
    }  # fmt: skip


def test_what_is_kept_is_part_of_a_trials_identity(make_trial: MakeTrial) -> None:
    trials = [
        make_trial(None),
        make_trial(TOP),
        make_trial({**TOP, "budget": 0.4}),
        make_trial({**TOP, "policy": "bottom"}),
        make_trial({**TOP, "signal": "student_ce"}),
        make_trial({**TOP, "signal": "ce_ratio"}),
        make_trial({**TOP, "signal": {"name": "ce_ratio", "eps": 0.1}}),
        make_trial({**TOP, "policy": {"name": "stratified", "bins": 2}}),
        make_trial({**TOP, "policy": {"name": "stratified", "bins": 3}}),
        make_trial({"policy": "random", "budget": 0.5}),
    ]
    assert len({trial.id for trial in trials}) == len(trials)
    assert make_trial(TOP, label="another name").id == make_trial(TOP).id
    assert from_config(as_config(trials[6])) == trials[6]


@pytest.mark.parametrize(
    ("kind", "edited", "affected"),
    [
        ("sample policy", "top", {"topsmp", "se_kd_topsmp"}),
        ("sample policy", "random", {"random_smp"}),
        ("signal", "student_entropy", {"topsmp", "se_kd_topsmp", "se_kd"}),
    ],
)
def test_editing_a_component_changes_the_trials_that_use_it(
    kind: str, edited: str, affected: set[str], write_grid: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["full_kd", "se_kd", "random_pos", "random_smp", "topsmp", "se_kd_topsmp"]
    grid = load_grid(write_grid([{"preset": name, "label": name} for name in names], seeds=[1]))
    workload = load_workload("tiny")

    def ids() -> dict[str, str]:
        return {trial.strategy.label: trial.id for trial in make_trials(grid, workload, {})}

    before = ids()
    assert before.keys() == set(names)
    original = Component.digest.fget  # type: ignore[attr-defined]

    def digest(self: Component) -> str:
        return "edited" if (self.kind, self.name) == (kind, edited) else str(original(self))

    monkeypatch.setattr(Component, "digest", property(digest))
    after = ids()
    assert {label for label in before if before[label] != after[label]} == affected


# ---- what is refused


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ({"policy": "top", "budget": 0.2}, "sample policy 'top' ranks sequences, so samples.signal must name a signal"),
        ({"policy": "bottom", "budget": 0.2}, "samples.signal must name a signal"),
        ({"policy": {"name": "stratified", "bins": 4}, "budget": 0.2}, "samples.signal must name a signal"),
        ({**TOP, "policy": "random"}, "reads no scores, so signal 'student_entropy' would do nothing"),
        ({**TOP, "signal": "teacher_uncertainty_rank"}, "compares the positions of a batch"),
        ({**TOP, "signal": "student_entrpy"}, "Did you mean 'student_entropy'"),
        ({**TOP, "policy": "tops"}, "unknown sample policy 'tops'. Did you mean 'top'"),
        ({**TOP, "policy": "stratified"}, "needs the option 'bins'"),
        ({**TOP, "policy": {"name": "stratified", "bins": 0}}, "bins must be at least 1, it is 0"),
        ({**TOP, "policy": {"name": "stratified", "bins": 2.5}}, "must be int, it is 2.5"),
        ({**TOP, "policy": {"name": "top", "bins": 4}}, "unknown option of sample policy 'top' 'bins'"),
        ({**TOP, "signal": {"name": "ce_ratio", "ep": 0.1}}, "Did you mean 'eps'"),
    ],
)
def test_a_choice_that_means_nothing_is_refused_with_the_reason(chosen: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=r"strategy: |unknown") as caught:
        check_strategy(read_strategy({**FULL_KD, "samples": chosen}))
    assert reason in str(caught.value)


@pytest.mark.parametrize("budget", [0, -0.1, 1.1, None])
def test_a_budget_is_a_share(budget: object, write_grid: Callable[..., Path]) -> None:
    fields = {**FULL_KD, "samples": {**TOP, "budget": budget}}
    with pytest.raises(UserError, match=r"samples\.budget"):
        load_grid(write_grid([fields]))


def test_samples_without_training_are_refused() -> None:
    with pytest.raises(UserError, match="train is false, so samples would do nothing"):
        check_strategy(read_strategy({"label": "x", "train": False, "samples": TOP}))


def test_a_sample_signal_that_reads_the_teacher_needs_one(write_workload: Callable[..., Path]) -> None:
    workload = load_workload(str(write_workload(teacher=None)))
    sft = {**FULL_KD, "criterion": "cross_entropy"}
    with pytest.raises(UserError, match="signal 'teacher_ce' reads the teacher, and workload 'variant' has none"):
        check(read_strategy({**sft, "samples": {**TOP, "signal": "teacher_ce"}}), workload)
    check(read_strategy({**sft, "samples": TOP}), workload)


def test_fewer_sequences_than_a_batch_are_refused_before_anything_runs(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    grid = write_grid([{"preset": "topsmp", "samples": {"budget": 0.2}}], workload=str(workload_file))
    with pytest.raises(UserError) as caught:
        make_plan(grid, Results(tmp_path))
    assert str(caught.value) == (
        "strategy 'TopSmp 20%': samples.budget 0.2 keeps 2 of the 12 training sequences of workload 'workload': "
        "2 sequences do not fill one batch of 4"
    )


def test_the_core_refuses_them_too(make_trial: MakeTrial, cache: Path) -> None:
    with pytest.raises(ValueError, match="2 sequences do not fill one batch of 4"):
        run_trial(make_trial({**TOP, "budget": 0.2}), results=caches_in(cache))


# ---- names


def test_labels_name_the_samples() -> None:
    strategy = read_strategy({**FULL_KD, "samples": TOP})
    assert describe(strategy) == "all, forward kl, samples student entropy top 50%"
    assert describe(strategy, "{sample_policy} {sample_budget} by {sample_signal}") == "top 50% by student entropy"
    assert describe(presets()["full_kd"], "[{sample_signal}{sample_policy}{sample_budget}]") == "[]"
    assert describe(presets()["random_smp"]) == "all, forward kl, samples random 20%"


def test_the_presets_are_the_papers() -> None:
    for name in ("random_smp", "topsmp", "se_kd_topsmp"):
        check_strategy(presets()[name])
    topsmp = presets()["topsmp"].samples
    assert topsmp is not None
    assert topsmp.signal is not None
    assert (topsmp.signal.name, topsmp.policy.name, topsmp.budget) == ("student_entropy", "top", 0.2)
    assert presets()["se_kd_topsmp"].position == presets()["se_kd"].position
    assert presets()["se_kd_topsmp"].samples == topsmp
