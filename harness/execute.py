"""One trial from beginning to end: load, train, evaluate, account. Knows nothing of Ray, grids or reports."""

import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel

from harness import models
from harness.cache.hidden import HiddenCache
from harness.distill.objective import Objective, compile_strategy
from harness.distill.score import chunk_rows
from harness.distill.step import Core
from harness.distill.teacher import Teacher
from harness.distill.train import Training, train
from harness.evaluate.heldout import measure_heldout
from harness.evaluate.suite import evaluate
from harness.inputs import Inputs, device_of, online_hidden, prepare_inputs
from harness.meter import Clock, count_flops, count_trunk_flops, peak_gib, reset_peak
from harness.results import Cost, Failure, Metric, Record, Selection, write_record
from harness.seeds import derive
from harness.trial import Trial, core_digest

# (steps done, steps in all, loss in nats)
OnStep = Callable[[int, int, float], None]

_VERSIONS = ("torch", "transformers", "lm_eval", "datasets", "ray", "numpy")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A trial's record and the tables that lie beside it."""

    record: Record
    items: pd.DataFrame | None
    curve: pd.DataFrame | None


def run_and_write(trial: Trial, results: Path, *, on_step: OnStep | None = None) -> Record:
    """Run a trial and write its record, also when it fails; the failure is raised again afterwards."""
    started = _now()
    try:
        outcome = run_trial(trial, cache=results / "cache", on_step=on_step)
    except Exception as error:
        record = failed_record(trial, started, type(error).__name__, str(error), traceback.format_exc())
        write_record(results, record, items=None, curve=None)
        raise
    write_record(results, outcome.record, items=outcome.items, curve=outcome.curve)
    return outcome.record


def run_trial(trial: Trial, *, cache: Path, on_step: OnStep | None = None) -> Outcome:
    """Train and evaluate one trial.

    Args:
        trial: what to run.
        cache: folder of shared caches.
        on_step: called after every optimiser step.

    Raises:
        UserError: bad input.
        NotFiniteError: training diverged.
    """
    workload, strategy = trial.workload, trial.strategy
    started, device = _now(), device_of(workload)
    clock = Clock(device=device)
    torch.set_num_threads(workload.resources.cpus)
    torch.manual_seed(derive(trial.seed or 0, "global"))
    reset_peak(device)
    objective = compile_strategy(strategy) if strategy.train else None
    dtype = models.DTYPES[workload.resources.dtype]
    with clock.phase("load"):
        from_cache = objective is not None and objective.reads_teacher and strategy.teacher == "cached"
        inputs = prepare_inputs(workload, trial.fingerprints, trial.split, cache=cache, needs_train_cache=from_cache)
        source = workload.teacher if strategy.model == "teacher" else workload.student
        assert source is not None, "checked before anything runs"
        model = models.load_model(source, workload.folder, dtype=dtype, device=device)
    chunk = chunk_rows(inputs.vocab_size, workload.resources.logit_memory_mib)
    training, flops = None, {}
    if objective is not None:
        with clock.phase("load"):
            teacher, teacher_flops = _training_teacher(trial, objective, inputs, device)
        core = Core(
            student=model,
            teacher=teacher,
            objective=objective,
            vocab_size=inputs.vocab_size,
            chunk=chunk,
            seed=trial.seed or 0,
        )
        with clock.phase("train"):
            training = train(core, inputs.train, workload.optimisation, device=device, on_step=on_step)
        model.eval()
        head = models.head_of(model, inputs.vocab_size).weight
        flops = count_flops(
            training.tally,
            student_trunk=count_trunk_flops(model, workload.data.sequence_length),
            teacher_trunk=teacher_flops,
            student_head=head.numel(),
            teacher_head=teacher.head.weight.numel() if teacher is not None else 0,
        )
    peak = peak_gib(device)
    with clock.phase("eval"):
        metrics, items = _evaluate(trial, model, inputs, chunk, cache, device)
    record = Record(
        trial_id=trial.id,
        label=strategy.label,
        strategy=strategy.model_dump(mode="json", by_alias=True),
        workload=workload.model_dump(mode="json"),
        seed=trial.seed,
        sources=dict(trial.sources),
        core=core_digest(),
        status="finished",
        metrics=metrics,
        selection=_selection(training),
        cost=Cost(
            wall_s=clock.wall_s,
            peak_gib=peak,
            flops=flops,
            tokens=training.tally.sequences * workload.data.sequence_length if training else 0,
            disk_bytes={"hidden": inputs.train_cache.num_bytes} if inputs.train_cache else {},
            shared_s={"hidden": inputs.train_cache.build_s} if inputs.train_cache else {},
        ),
        environment=environment(device),
        seeds={purpose: derive(trial.seed, purpose) for purpose in ("global",)} if trial.seed is not None else {},
        started_at=started,
        finished_at=_now(),
    )
    return Outcome(record=record, items=items, curve=training.curve if training else None)


def failed_record(trial: Trial, started_at: str, kind: str, message: str, trace: str) -> Record:
    """Build the record of a trial that did not finish, so that the report can show it."""
    return Record(
        trial_id=trial.id,
        label=trial.strategy.label,
        strategy=trial.strategy.model_dump(mode="json", by_alias=True),
        workload=trial.workload.model_dump(mode="json"),
        seed=trial.seed,
        sources=dict(trial.sources),
        core=core_digest(),
        status="failed",
        started_at=started_at,
        finished_at=_now(),
        failure=Failure(kind=kind, message=message, traceback=trace),
    )


def environment(device: str) -> dict[str, str]:
    """Return the versions and the kind of machine a number was measured on; no names of machines or people."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    found |= {name: version(name) for name in _VERSIONS}
    found["device"] = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    found["threads"] = str(torch.get_num_threads())
    return found


def _training_teacher(trial: Trial, objective: Objective, inputs: Inputs, device: str) -> tuple[Teacher | None, float]:
    """Return the teacher that training reads, and what one sequence through its trunk costs if it really runs."""
    if not objective.reads_teacher:
        return None, 0.0
    if inputs.train_cache is not None:
        return _cached(inputs.train_cache, device), 0.0
    workload = trial.workload
    assert workload.teacher is not None, "checked before anything runs"
    model = models.load_model(
        workload.teacher, workload.folder, dtype=models.DTYPES[workload.resources.dtype], device=device
    )
    head = models.Head(weight=models.head_of(model, inputs.vocab_size).weight.detach())
    teacher = Teacher(hidden=online_hidden(model), head=head, online=True)
    return teacher, count_trunk_flops(model, workload.data.sequence_length)


def _cached(cache: HiddenCache, device: str) -> Teacher:
    return Teacher(hidden=cache.hidden, head=models.Head(weight=cache.head.weight.to(device)), online=False)


def _evaluate(
    trial: Trial, model: PreTrainedModel, inputs: Inputs, chunk: int, cache: Path, device: str
) -> tuple[dict[str, Metric], pd.DataFrame]:
    workload = trial.workload
    metrics = measure_heldout(
        model,
        inputs.heldout,
        _cached(inputs.heldout_cache, device) if inputs.heldout_cache is not None else None,
        vocab_size=inputs.vocab_size,
        batch_size=workload.evaluation.batch_size,
        chunk=chunk,
        device=device,
    )
    suite = evaluate(
        model,
        inputs.tokenizer,
        suite=workload.evaluation.suite,
        split=trial.split,
        num_items=workload.evaluation.num_items,
        batch_size=workload.evaluation.batch_size,
        data_dir=cache,
    )
    return metrics | suite.metrics, suite.items


def _selection(training: Training | None) -> Selection | None:
    if training is None:
        return None
    tally = training.tally
    return Selection(
        valid_positions=tally.valid,
        supervised_positions=tally.supervised,
        realised_fraction=tally.supervised / max(tally.valid, 1),
        classes_per_position=tally.classes / max(tally.student_trained, 1) if tally.classes else None,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
