"""One trial from beginning to end: load, train, evaluate, account. Knows nothing of Ray, grids or reports."""

import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from transformers import PreTrainedModel

from harness import models
from harness.distill.objective import Objective, compile_strategy
from harness.distill.score import chunk_rows
from harness.distill.step import Core
from harness.distill.teacher import Teacher
from harness.distill.train import Training, train
from harness.evaluate.heldout import measure_heldout
from harness.evaluate.suite import evaluate
from harness.inputs import (
    Inputs,
    cached_teacher,
    device_of,
    online_teacher,
    prepare_inputs,
    prepare_train_cache,
)
from harness.meter import Clock, LiveBytes, count_flops, count_trunk_flops, peak_gib, reset_peak, shape_of
from harness.results import Cost, Failure, Metric, Record, Selection, write_record
from harness.samples import Chosen, choose_samples, prepass_flops, prepass_reads_cache
from harness.seeds import derive
from harness.targets import Stored, count_valid, prepare_stored, stored_flops
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
    samples: pd.DataFrame | None = None


def run_and_write(trial: Trial, results: Path, *, on_step: OnStep | None = None) -> Record:
    """Run a trial and write its record, also when it fails; the failure is raised again afterwards."""
    started = _now()
    try:
        outcome = run_trial(trial, cache=results / "cache", on_step=on_step)
    except Exception as error:
        record = failed_record(trial, started, type(error).__name__, str(error), traceback.format_exc())
        write_record(results, record, items=None, curve=None)
        raise
    write_record(results, outcome.record, items=outcome.items, curve=outcome.curve, samples=outcome.samples)
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
        # Without a prepass that reads the teacher, which of its states are needed is known after the choice only.
        whole = prepass_reads_cache(strategy) or (from_cache and strategy.samples is None)
        inputs = prepare_inputs(workload, trial.fingerprints, trial.split, cache=cache, needs_train_cache=whole)
        source = workload.teacher if strategy.model == "teacher" else workload.student
        assert source is not None, "checked before anything runs"
        model = models.load_model(source, workload.folder, dtype=dtype, device=device)
    chunk = chunk_rows(inputs.vocab_size, workload.resources.logit_memory_mib)
    training, chosen, teacher, flops, live = None, None, None, {}, None
    if strategy.samples is not None:
        with clock.phase("prepass"):
            chosen = choose_samples(trial, inputs, cache=cache, student=lambda: model, device=device)
        if from_cache and inputs.train_cache is None:
            with clock.phase("cache"):
                states = prepare_train_cache(workload, trial.fingerprints, inputs.train, cache=cache, only=chosen.kept)
                inputs = replace(inputs, train_cache=states)
    stored = None
    if strategy.stored:
        with clock.phase("cache"):
            stored = prepare_stored(trial, inputs, cache=cache, only=chosen.kept if chosen is not None else None)
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
            targets=stored.targets if stored is not None else None,
        )
        with clock.phase("train"):
            live = LiveBytes()
            training = train(
                core,
                inputs.train,
                workload.optimisation,
                only=chosen.kept if chosen is not None else None,
                device=device,
                on_step=on_step,
                watch=live,
            )
        model.eval()
        head = models.head_of(model, inputs.vocab_size).weight
        flops = count_flops(
            training.tally,
            student_trunk=count_trunk_flops(model, workload.data.sequence_length),
            teacher_trunk=teacher_flops,
            student_head=head.numel(),
            teacher_head=teacher.head.weight.numel() if teacher is not None else 0,
        )
        if chosen is not None and chosen.prepass is not None:
            flops |= prepass_flops(
                strategy,
                workload,
                num_sequences=chosen.num_samples,
                num_positions=chosen.prepass.num_positions,
                vocab_size=inputs.vocab_size,
            )
        if stored is not None:
            flops |= stored_flops(
                workload,
                num_sequences=stored.store.meta.num_tokens // workload.data.sequence_length,
                num_positions=count_valid(inputs.train, chosen.kept if chosen is not None else None),
                vocab_size=inputs.vocab_size,
            )
    # Evaluation holds what lm-eval's batches need, the same for every strategy: not what is compared.
    peak = {} if live is None else peak_gib(device) | {"step": live.peak / 2**30}
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
        samples=chosen.summary if chosen is not None else None,
        teacher_in_training=_teacher_in_training(teacher),
        cost=Cost(
            wall_s=clock.wall_s,
            peak_gib=peak,
            flops=flops,
            tokens=training.tally.sequences * workload.data.sequence_length if training else 0,
            disk_bytes=_disk_bytes(inputs, chosen, stored),
            shared_s=_shared_s(inputs, chosen, stored),
        ),
        environment=environment(device),
        seeds=_seeds(trial),
        started_at=started,
        finished_at=_now(),
    )
    return Outcome(
        record=record,
        items=items,
        curve=training.curve if training else None,
        samples=chosen.table if chosen is not None else None,
    )


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
    if not objective.reads_teacher or trial.strategy.stored:
        return None, 0.0
    if trial.strategy.teacher == "cached":
        assert inputs.train_cache is not None, "prepared before training"
        return cached_teacher(inputs.train_cache, device), 0.0
    workload = trial.workload
    assert workload.teacher is not None, "checked before anything runs"
    teacher = online_teacher(workload, inputs.vocab_size, device)
    return teacher, shape_of(workload.teacher, workload.folder, workload.data.sequence_length).trunk_flops


def _evaluate(
    trial: Trial, model: PreTrainedModel, inputs: Inputs, chunk: int, cache: Path, device: str
) -> tuple[dict[str, Metric], pd.DataFrame]:
    workload = trial.workload
    metrics = measure_heldout(
        model,
        inputs.heldout,
        cached_teacher(inputs.heldout_cache, device) if inputs.heldout_cache is not None else None,
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


def _disk_bytes(inputs: Inputs, chosen: Chosen | None, stored: Stored | None) -> dict[str, int]:
    found = {"hidden": inputs.train_cache.num_bytes} if inputs.train_cache else {}
    if chosen is not None and chosen.prepass is not None:
        found["prepass"] = chosen.prepass.num_bytes
    if stored is not None:
        found[stored.store.meta.kind] = stored.store.meta.num_bytes
    return found


def _shared_s(inputs: Inputs, chosen: Chosen | None, stored: Stored | None) -> dict[str, float]:
    """Return the seconds of what is shared; what this trial built itself is in its own wall time already."""
    found = {"hidden": inputs.train_cache.build_s} if inputs.train_cache else {}
    if chosen is not None and chosen.prepass is not None and not chosen.built:
        found["prepass"] = chosen.prepass.build_s
    if stored is not None and not stored.built:
        found[stored.store.meta.kind] = stored.store.meta.build_s
    return found


def _teacher_in_training(teacher: Teacher | None) -> Literal["none", "head", "model"]:
    if teacher is None:
        return "none"
    return "model" if teacher.online else "head"


def _seeds(trial: Trial) -> dict[str, int]:
    if trial.seed is None:
        return {}
    purposes = ("global",) if trial.strategy.samples is None else ("global", "samples")
    return {purpose: derive(trial.seed, purpose) for purpose in purposes}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
