"""One trial from beginning to end: load, train, evaluate, account. Knows nothing of Ray, grids or reports."""

import platform
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness import models
from harness.distill.checkpoint import Keeper
from harness.distill.diagnostics import Watch
from harness.distill.feature import PURPOSE, make_projection
from harness.distill.objective import Objective, compile_strategy
from harness.distill.optimiser import name_of
from harness.distill.parts import Resumable, Weights
from harness.distill.step import Core
from harness.distill.teacher import Teacher
from harness.distill.train import Training, train
from harness.evaluate.evaluation import Scores, evaluate, prepare_items
from harness.evaluate.heldout import Heldout, measure_heldout
from harness.inputs import (
    Inputs,
    cached_teacher,
    chunk_of,
    device_of,
    online_teacher,
    prepare_inputs,
    prepare_train_cache,
)
from harness.meter import Clock, LiveBytes, count_flops, count_trunk_flops, peak_gib, reset_peak, shape_of
from harness.results import Cost, Record, Selection
from harness.rollouts import make_writer, rollout_flops, summary
from harness.samples import Chosen, choose_samples, prepass_flops, prepass_reads_cache
from harness.seeds import derive
from harness.targets import Stored, count_valid, prepare_stored, stored_flops
from harness.trial import Trial, core_digest
from harness.watch import watch_training

# (steps done, steps in all, loss in nats)
OnStep = Callable[[int, int, float], None]
# From the device, and the meters whose readings go into a checkpoint
Keep = Callable[[str, Mapping[str, Resumable]], Keeper]
# (trained student, tokenizer)
KeepStudent = Callable[[PreTrainedModel, PreTrainedTokenizerBase], None]

_VERSIONS = ("torch", "transformers", "lm_eval", "datasets", "ray", "numpy")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A trial's record and the tables that lie beside it, by a name in `harness.results.TABLES`."""

    record: Record
    tables: Mapping[str, pd.DataFrame]


def run_trial(
    trial: Trial,
    *,
    cache: Path,
    on_step: OnStep | None = None,
    keep: Keep | None = None,
    keep_student: KeepStudent | None = None,
) -> Outcome:
    """Train and evaluate one trial.

    Args:
        trial: what to run.
        cache: folder of shared caches.
        on_step: called after every optimiser step.
        keep: makes what saves and restores training; no checkpoints if None.
        keep_student: handed the student once it is trained; its weights go with the process if None.

    Raises:
        UserError: bad input.
        NotFiniteError: training diverged.
        Stopped: the keeper was asked to stop.
    """
    workload, strategy = trial.workload, trial.strategy
    started, device = now(), device_of(workload)
    clock = Clock(device=device)
    torch.set_num_threads(workload.resources.cpus)
    _seed_generators(derive(trial.seed or 0, "global"))
    reset_peak(device)
    objective = compile_strategy(strategy) if strategy.train else None
    dtype = models.DTYPES[workload.resources.dtype]
    with clock.phase("load"):
        from_cache = objective is not None and objective.reads_teacher and strategy.teacher == "cached"
        # Without a prepass that reads the teacher, which of its states are needed is known after the choice only.
        whole = prepass_reads_cache(strategy) or (from_cache and strategy.samples is None)
        inputs = prepare_inputs(workload, trial.fingerprints, trial.split, cache=cache, needs_train_cache=whole)
        # Before training: a data set that cannot be had must not cost hours first.
        prepare_items(workload.evaluation, workload.folder, trial.split, cache)
        source = workload.teacher if strategy.model == "teacher" else workload.student
        assert source is not None, "checked before anything runs"
        model = models.load_model(source, workload.folder, dtype=dtype, device=device)
    chunk = chunk_of(workload, inputs.vocab_size)
    training, chosen, teacher, watch, flops, live = None, None, None, None, {}, None
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
            projection=_projection(objective, model, teacher, trial.seed or 0),
            compile=workload.resources.compile,
        )
        if workload.resources.checkpoint_activations:
            models.compute_activations_anew(model)
        live = LiveBytes()
        watch = watch_training(trial, core, inputs, device, clock=clock, live=live)
        with clock.phase("train"):
            training = train(
                core,
                inputs.train,
                workload.optimisation,
                only=chosen.kept if chosen is not None else None,
                device=device,
                on_step=on_step,
                watch=live,
                observer=watch,
                keeper=None if keep is None else keep(device, _parts(clock, live, watch, core)),
                writer=make_writer(trial, inputs.train, inputs.vocab_size, aside=lambda: clock.phase("rollout")),
            )
        model.eval()
        if keep_student is not None:
            keep_student(model, inputs.tokenizer)
        head = models.head_of(model, inputs.vocab_size).weight
        flops = count_flops(
            training.tally,
            student_trunk=count_trunk_flops(model, workload.data.sequence_length),
            teacher_trunk=teacher_flops,
            student_head=head.numel(),
            teacher_head=teacher.head.weight.numel() if teacher is not None else 0,
            projection=sum(each.numel() for each in core.projection.parameters()) if core.projection else 0,
            recomputed=workload.resources.checkpoint_activations,
        )
        flops |= rollout_flops(training.tally, workload, inputs.vocab_size)
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
        heldout, scores = _evaluate(trial, model, inputs, chunk, cache, device)
    record = Record(
        trial_id=trial.id,
        label=strategy.label,
        strategy=strategy.model_dump(mode="json", by_alias=True),
        workload=workload.model_dump(mode="json"),
        seed=trial.seed,
        sources=dict(trial.sources),
        core=core_digest(),
        status="finished",
        metrics=heldout.metrics | scores.metrics,
        selection=_selection(training),
        samples=chosen.summary if chosen is not None else None,
        rollouts=summary(training.tally, strategy) if training is not None else None,
        diagnostics=watch.settings.model_dump() if watch is not None else None,
        evaluation=scores.tasks,
        teacher_in_training=_teacher_in_training(teacher),
        cost=Cost(
            wall_s=clock.wall_s,
            peak_gib=peak,
            flops=flops,
            tokens=training.tally.sequences * workload.data.sequence_length if training else 0,
            disk_bytes=_disk_bytes(inputs, chosen, stored),
            shared_s=_shared_s(inputs, chosen, stored),
        ),
        environment=environment(device)
        | ({"optimiser": name_of(workload.optimisation)} if training is not None else {}),
        seeds=_seeds(trial),
        started_at=started,
        finished_at=now(),
    )
    reliability = pd.concat([scores.reliability, heldout.reliability.assign(source="tokens")], ignore_index=True)
    items = pd.concat([scores.items, heldout.items], ignore_index=True)
    tables = {"items": items, "reliability": reliability[["source", *heldout.reliability.columns]]}
    if training is not None:
        tables["curve"] = training.curve
    if watch is not None:
        tables |= watch.tables
    if chosen is not None:
        tables["samples"] = chosen.table
    return Outcome(record=record, tables=tables)


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


def _parts(clock: Clock, live: LiveBytes, watch: Watch | None, core: Core) -> dict[str, Resumable]:
    """Return what a checkpoint holds besides the student and its training."""
    parts: dict[str, Resumable] = {"clock": clock, "live": live}
    if watch is not None:
        parts["diagnostics"] = watch
    if core.projection is not None:
        parts["projection"] = Weights(core.projection)
    return parts


def _projection(
    objective: Objective, student: PreTrainedModel, teacher: Teacher | None, seed: int
) -> torch.nn.ModuleList | None:
    if objective.feature is None:
        return None
    assert teacher is not None, "an objective with a feature branch reads the teacher"
    student_size = int(student.config.hidden_size)
    return make_projection(objective, student_size, teacher.head.weight.shape[1], seed).to(student.device)


def _evaluate(
    trial: Trial, model: PreTrainedModel, inputs: Inputs, chunk: int, cache: Path, device: str
) -> tuple[Heldout, Scores]:
    workload = trial.workload
    heldout = measure_heldout(
        model,
        inputs.heldout,
        cached_teacher(inputs.heldout_cache, device) if inputs.heldout_cache is not None else None,
        vocab_size=inputs.vocab_size,
        batch_size=workload.evaluation.batch_size,
        chunk=chunk,
        device=device,
    )
    scores = evaluate(
        model, inputs.tokenizer, workload.evaluation, folder=workload.folder, split=trial.split, data_dir=cache
    )
    return heldout, scores


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


def _seed_generators(seed: int) -> None:
    """Seed every generator of the process: a warm worker must not hand one trial's on to the next."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _seeds(trial: Trial) -> dict[str, int]:
    if trial.seed is None:
        return {}
    strategy = trial.strategy
    purposes = ["global", *(["samples"] if strategy.samples else []), *([PURPOSE] if strategy.feature else [])]
    purposes += ["rollout"] if strategy.rollout else []
    return {purpose: derive(trial.seed, purpose) for purpose in purposes}


def now() -> str:
    """Return the time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
