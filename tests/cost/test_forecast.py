"""`harness plan --gpu`: what is forecast is what trials then take."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from sampling import sampled

from harness.config import ModelSource, Optimisation, Strategy, Workload
from harness.config.errors import UnknownNameError, UserError
from harness.config.expand import presets
from harness.config.workloads import ASSETS, load_workload
from harness.cost.accounting import GIB
from harness.cost.forecast import calibrate
from harness.cost.forecast.advice import changes_that_help
from harness.cost.forecast.calibrate import Calibrated, measure
from harness.cost.forecast.disk import caches
from harness.cost.forecast.forecast import MFU, make_forecast
from harness.cost.forecast.gpus import GPUS, Gpu, gpu_named, usable_gib
from harness.cost.forecast.memory import changed, countable, footprint
from harness.cost.forecast.show import print_forecast
from harness.data.tokens import Tokens, find_prepared
from harness.distill.compare import row_losses
from harness.distill.step import Core
from harness.distill.train import Training, train
from harness.models import layers_of, load_model
from harness.models.shapes import configuration
from harness.models.vocabulary import num_tokens, read_vocabulary
from harness.records.layout import Results
from harness.trial.execute import run_trial
from harness.trial.flops import exactness, predict_flops
from harness.trial.identity import fingerprints
from harness.trial.trial import Trial
from strategies.registry import POLICIES

SMALL = Gpu(name="small", memory_gib=1.1, tflops={"float32": 1.0})


@pytest.fixture
def tiny(write_workload: Callable[..., Path], tmp_path: Path) -> Workload:
    """The embedded models at the embedded workload's sizes, on a few made-up sentences."""
    names = ("Ann", "the old miller", "a fox")
    for split, num in (("train", 900), ("validation", 60), ("test", 60)):
        lines = [json.dumps({"text": f"{names[n % 3]} had {n} apples and gave {n % 7} away."}) for n in range(num)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = write_workload(
        "embedded",
        teacher={"path": str(ASSETS / "teacher")},
        student={"path": str(ASSETS / "student")},
        data__data_files={split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")},
        data__sequence_length=128,
        data__train_tokens=2 * 8 * 128,
        data__heldout_tokens=128,
        optimisation__batch_size=8,
        optimisation__micro_batch_size=8,
        resources__logit_memory_mib=4,
        evaluation={"suite": "tiny", "num_items": 1, "batch_size": 4},
    )
    return load_workload(str(path))


def trial_of(strategy: Strategy, workload: Workload, seed: int = 1) -> Trial:
    return Trial(
        strategy=strategy,
        workload=workload,
        seed=seed,
        split="validation",
        sources={},
        fingerprints=fingerprints(workload),
    )


@pytest.mark.parametrize("preset", sampled(["se_kd", "full_kd_dense"], [0]))
def test_memory_and_operations_are_those_of_the_trial(preset: str, tiny: Workload, tmp_path: Path) -> None:
    trial = trial_of(presets()[preset], tiny)
    record = run_trial(trial, results=Results(tmp_path)).record
    found = footprint(trial.strategy, tiny)
    assert found.step == pytest.approx(record.cost.peak_gib["step"] * GIB, rel=0.05)
    student = load_model(tiny.student, tiny.folder, dtype=torch.float32)
    assert found.parameters == sum(each.numel() * 4 for each in student.parameters())
    # Two moments of the same size, and a counter for each parameter.
    assert found.optimiser == pytest.approx(2 * found.parameters, rel=0.001)
    key = f"{trial.fingerprints['data']}-{read_vocabulary(tiny.student, tiny.folder).fingerprint}"
    tokens = find_prepared(tiny.data, "train", source_key=key, results=Results(tmp_path))
    assert tokens is not None
    # Separators have no target here, so only the packed text tells how many positions there are.
    assert exactness(trial, tokens) == "exact"
    assert predict_flops(trial, tokens) == record.cost.flops
    assert exactness(trial) == "at most"
    assert sum(predict_flops(trial).values()) >= sum(record.cost.flops.values())
    disk = {each.kind: each.num_bytes for each in caches(trial.strategy, tiny)}
    assert disk["hidden"] + disk["head"] == pytest.approx(record.cost.disk_bytes["hidden"], rel=0.01)


@pytest.mark.parametrize("preset", ["rs_kd", "tip", "egad"])
def test_every_kind_of_strategy_can_be_counted(preset: str, workload_file: Path) -> None:
    strategy, workload = presets()[preset], load_workload(str(workload_file))
    found = footprint(strategy, workload)
    assert found.total == found.teacher + found.parameters + found.optimiser + found.gradients + found.activations
    position = countable(strategy).position
    assert position is not None
    assert POLICIES[position.policy.name].traits["keeps"] != "varies"


def test_what_is_counted_on_shapes_is_counted_on_tensors(workload_file: Path) -> None:
    strategy, workload = presets()["se_kd"], load_workload(str(workload_file))
    assert footprint(strategy, workload) == footprint(strategy, workload, fake=False)


def test_master_weights_and_bits_are_in_the_memory(workload_file: Path) -> None:
    workload = changed(load_workload(str(workload_file)), resources__dtype="bfloat16")
    strategy = presets()["full_kd"]
    plain = footprint(strategy, workload)
    masters = footprint(strategy, changed(workload, optimisation__master_weights=True))
    # Weights and two moments in four bytes each instead of two moments in two.
    assert masters.optimiser == pytest.approx(3 * plain.optimiser, rel=0.02)
    eight = footprint(strategy, changed(workload, optimisation__optimiser="adamw_8bit"))
    assert eight.total != plain.total


def test_a_process_has_its_share_of_a_sharded_student(tiny: Workload) -> None:
    strategy = presets()["se_kd"]
    workload = changed(tiny, optimisation__micro_batch_size=2)
    whole = footprint(strategy, workload)
    student = load_model(tiny.student, tiny.folder, dtype=torch.float32)
    sizes = [sum(4 * each.numel() for each in layer.parameters()) for layer in layers_of(student)]
    for processes in (2, 4):
        sharded = changed(workload, resources__data_parallel=processes, resources__shard_student=True)
        found = footprint(strategy, sharded)
        assert found.parameters == whole.parameters - sum(sizes) + sum(sizes) // processes
        assert found.optimiser == pytest.approx(whole.optimiser / processes, abs=1)
        # At its peak all gradients are there; layers are whole one at a time.
        spared = whole.total - found.total
        static = (whole.parameters - found.parameters) + (whole.optimiser - found.optimiser)
        assert static <= spared + 4 * max(sizes) <= static + sum(sizes)
        assert found.checkpoint == whole.checkpoint, "which holds all of it"
        assert found.step < whole.step


@pytest.mark.slow
def test_a_student_that_does_not_fit_may_be_shared_out(tiny: Workload) -> None:
    strategy = presets()["full_kd"]
    # So short a text that little but the state is left.
    workload = changed(tiny, data__sequence_length=8, optimisation__micro_batch_size=1)
    whole = footprint(strategy, workload)
    sharded = changed(workload, resources__data_parallel=4, resources__shard_student=True)
    room = footprint(strategy, sharded).total / GIB
    gpu = Gpu(name="small", memory_gib=1.0 + room / 0.94, tflops={"float32": 1.0})
    assert usable_gib(gpu) >= room
    changes = {each.what: each for each in changes_that_help(strategy, workload, whole, gpu)}
    assert changes["resources.shard_student: true on 4 GPUs (resources.data_parallel)"].fits
    assert "resources.shard_student: true on 2 GPUs (resources.data_parallel)" not in changes, "which is not enough"
    written = presets()["gkd_on_policy"]
    told = [each.what for each in changes_that_help(written, workload, whole, gpu)]
    assert not any("shard_student" in what for what in told), "a batch is generated in one process"
    told = [each.what for each in changes_that_help(strategy, sharded, whole, gpu)]
    assert not any("adamw_8bit" in what for what in told), "which a sharded student cannot have"


def test_the_papers_workload_is_planned_without_its_models(tmp_path: Path) -> None:
    workload = load_workload("qwen3_fineweb")
    assert (workload.teacher, workload.student) == (
        ModelSource(path="Qwen/Qwen3-8B"), ModelSource(path="Qwen/Qwen3-1.7B")
    )  # fmt: skip
    assert num_tokens(workload.student, workload.folder) == 151669
    trial = Trial(
        strategy=presets()["full_kd"], workload=workload, seed=1337, split="test", sources={}, fingerprints={}
    )
    flops = predict_flops(trial)
    config = configuration(workload.student, workload.folder)
    head = 151669 * config.hidden_size
    steps = 80_000_000 // 512 // 16
    assert flops["student_head_training"] == 6.0 * head * steps * 16 * 511
    # The layers' matrices have 1.41e9 elements; four passes, as activations are computed anew, and attention.
    assert flops["student_trunk"] / (8 * 1.41e9 * steps * 16 * 512) == pytest.approx(1.0, abs=0.1)
    disk = {each.kind: each.num_bytes for each in caches(trial.strategy, workload)}
    assert disk["hidden"] == 80_000_000 // 512 * 512 * 4096 * 2
    assert disk["head"] == 151669 * 4096 * 2
    sampled = {each.kind: each for each in caches(presets()["se_kd_3x"], workload)}["sampled"]
    assert sampled.at_most
    assert sampled.num_bytes == 31250 * (511 * 64 * 3 + 512)


@pytest.fixture
def longer(write_workload: Callable[..., Path]) -> str:
    """Enough text for a fifth of it to fill a batch."""
    return str(write_workload(data__train_tokens=3200))


def test_what_does_not_fit_says_what_would(
    longer: str, write_grid: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    found = make_forecast(write_grid(["full_kd", "se_kd_3x"]), longer, gpu=SMALL, mfu=0.5, results=Results(tmp_path))
    console = Console(width=200)
    print_forecast(console, found)
    printed = capsys.readouterr().out
    assert "at 50% (--mfu) of 1 TFLOP/s" in printed
    assert all(found.fits(row) for row in found.rows)
    row = found.rows[1]
    assert found.hours_of(row) == pytest.approx(row.own_flops / 0.5e12 / 3600)
    shared = {each.kind for each in found.disk.values()}
    assert {"head", "hidden", "sampled", "prepass", "tokens", "heldout states"} <= shared
    # A GPU that holds nothing: everything is tried, nothing is enough, and a larger one is named.
    none = replace(SMALL, memory_gib=1.0)
    tight = make_forecast(write_grid(["full_kd", "full_kd_dense"]), longer, gpu=none, results=Results(tmp_path))
    most = max(range(2), key=lambda number: tight.rows[number].fullest)
    assert not tight.rows[1 - most].changes, "what helps the largest helps all"
    changes = {each.what: each for each in tight.rows[most].changes}
    assert not changes["optimisation.micro_batch_size: 1"].fits
    assert changes["optimisation.micro_batch_size: 1"].gib < tight.rows[most].memory.total / GIB  # type: ignore[union-attr]
    assert changes["--gpu t4"].fits, "which has float32"
    half = changed(load_workload(longer), resources__dtype="bfloat16")
    told = changes_that_help(presets()["full_kd"], half, tight.rows[most].memory, none)  # type: ignore[arg-type]
    assert "--gpu a10" in {each.what for each in told}, "the smallest with bfloat16"
    print_forecast(console, tight)
    printed = capsys.readouterr().out
    assert "does not fit. In GiB: optimisation.micro_batch_size: 1 gives" in printed
    assert printed.count("does not fit. In GiB") == 1
    assert "It takes the most of 2 that do not." in printed


def test_a_trial_of_several_processes_takes_a_share_of_the_hours(
    longer: str, write_grid: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    grid = write_grid(["full_kd"])
    alone = make_forecast(grid, longer, gpu=SMALL, results=Results(tmp_path))
    resources = alone.workload.resources.model_copy(update={"data_parallel": 4})
    shared = replace(alone, workload=alone.workload.model_copy(update={"resources": resources}))
    hours, fourth = (found.hours_of(found.rows[0]) for found in (alone, shared))
    assert hours is not None
    assert fourth == hours / 4
    print_forecast(Console(width=200), shared)
    assert "Its hours are those of 1/4 of its work" in capsys.readouterr().out


def test_calibration_measures_steps_and_predicts_from_them(
    longer: str, write_grid: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    workload, trained = load_workload(longer), []

    def slow(core: Core, tokens: Tokens, optimisation: Optimisation, **options: Any) -> Training:
        trained.append((core, optimisation.batch_size, len(tokens)))

        def on_step(done: int, total: int, loss_nats: float) -> None:
            time.sleep(2.0 if done <= 2 else 0.05)
            options["on_step"](done, total, loss_nats)

        return train(core, tokens, optimisation, **{**options, "on_step": on_step})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(calibrate, "train", slow)
        took = measure(presets()["se_kd"], workload, steps=3)
    ((core, size, num),) = trained
    assert core.losses is row_losses
    assert (size, num) == (workload.optimisation.batch_size, 5 * workload.optimisation.batch_size)
    assert 0.05 < took.step_s < 2.0, "the first two steps do not count"
    assert 0 <= took.peak_gib < 4
    given = Calibrated(step_s=7.0, peak_gib=1.25)
    found = make_forecast(
        write_grid(["full_kd"]), longer, gpu=None, results=Results(tmp_path), measured=lambda *_: given
    )
    assert found.hours_of(found.rows[0]) == 7.0 * 25 / 3600
    print_forecast(Console(width=250), found)
    table = capsys.readouterr().out
    assert "peak GiB, measured" in table
    assert "1.25" in table
    with pytest.raises(UserError, match="finds no GPU here"):
        measure(presets()["se_kd"], changed(workload, resources__gpus=1.0), steps=3)


def test_what_is_compiled_is_calibrated_compiled(longer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compiled() -> Callable[..., Any]:
        return lambda *arguments, **options: (calls.append(1), row_losses(*arguments, **options))[1]

    monkeypatch.setattr(calibrate, "compiled_losses", compiled)
    measure(presets()["se_kd"], changed(load_workload(longer), resources__compile=True), steps=1)
    assert len(calls) >= 3, "in every step"


def test_the_predicted_share_of_a_peak_is_that_of_workloads_as_shipped(
    longer: str, write_grid: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    for mfu, said in ((MFU, True), (0.35, False)):
        print_forecast(
            Console(width=250),
            make_forecast(write_grid(["full_kd"]), longer, gpu=SMALL, mfu=mfu, results=Results(tmp_path)),
        )
        assert ("an estimate for workloads as shipped" in capsys.readouterr().out) == said


def test_the_table_of_gpus_is_in_order() -> None:
    assert gpu_named("h100").peak("bfloat16") == 989.4e12
    assert usable_gib(gpu_named("h100")) < gpu_named("h100").memory_gib < usable_gib(gpu_named("h200"))
    for gpu in GPUS.values():
        has_bfloat16 = gpu.name != "t4"
        assert (gpu.tflops["bfloat16"] > gpu.tflops["float32"]) == has_bfloat16
        assert gpu.tflops["float32"] >= gpu.tflops["float64"] > 0
    with pytest.raises(UserError, match="t4 has no bfloat16 arithmetic to speak of"):
        gpu_named("t4").peak("bfloat16")
    with pytest.raises(UnknownNameError, match="h100"):
        gpu_named("h10")


def test_bad_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes a grid file, or --workload"):
        make_forecast(None, None, gpu=None, results=Results(tmp_path))
    with pytest.raises(UserError, match=r"in \(0, 1\]; it is 35"):
        make_forecast(None, "tiny", gpu=None, mfu=35, results=Results(tmp_path))
