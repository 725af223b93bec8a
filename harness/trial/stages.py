"""The first half of a trial: load models, data and the teacher's states, and train the student."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from harness import models
from harness.config.seeds import derive
from harness.distill.diagnostics import Watch
from harness.distill.feature import make_projection
from harness.distill.group import ALONE, Group
from harness.distill.objective import Objective
from harness.distill.shards import Weights, assemble, shard
from harness.distill.state import Resumable
from harness.distill.step import Core
from harness.distill.train import Training, train
from harness.evaluate.evaluation import prepare_items
from harness.models.devices import chunk_of, device_of
from harness.models.lora import PURPOSE, adapt
from harness.teacher.inputs import Inputs, prepare_inputs, teacher_source
from harness.teacher.interface import Targets, Teacher
from harness.teacher.kinds.scores import PositionScores, SignalScores
from harness.teacher.live import cached_teacher, online_teacher, provide_rows, provide_teacher
from harness.teacher.provide import Stored
from harness.teacher.targets import targets_of
from harness.trial.checkpoint import Keeper
from harness.trial.flops import Reading, price, shapes_of, work_of
from harness.trial.meter import Clock, LiveBytes, reset_peak
from harness.trial.rollouts import make_writer
from harness.trial.samples import Chosen, choose_samples, prepass_reads_cache
from harness.trial.trial import Trial
from harness.trial.watch import watch_training

# (steps done, steps in all, loss in nats)
OnStep = Callable[[int, int, float], None]
# From the device, the meters whose readings go into a checkpoint, and the processes that train together
Keep = Callable[[str, Mapping[str, Resumable], Group], Keeper]


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """What a trial has before it is evaluated.

    Attributes:
        model: the student, trained if the strategy trains it, or the teacher. A student that was sharded is whole in
            the first process, and of no use in the others.
        inputs: tokenizer, data and the teacher's states.
        chosen: the sequences that the sample axis kept, None without that axis.
        stored: targets that were stored before training, None if none were.
        scored: scores that were, by signal.
        teacher: what training read of the teacher, None if nothing.
        training: what training left, None if nothing was trained.
        watch: diagnostics, None without.
        live: bytes of tensors in the first step, None if nothing was trained, or not in one process: what a sharded
            student's layers fetch and drop is not seen.
        flops: operations by purpose, of all processes together.
        clock: seconds by phase so far.
        device: where the model is.
        chunk: rows of logits that exist at a time.
    """

    model: PreTrainedModel
    inputs: Inputs
    chosen: Chosen | None
    stored: Stored[Targets] | None
    scored: Mapping[str, Stored[PositionScores]]
    teacher: Teacher | None
    training: Training | None
    watch: Watch | None
    live: LiveBytes | None
    flops: Mapping[str, float]
    clock: Clock
    device: str
    chunk: int


def distil(trial: Trial, *, cache: Path, on_step: OnStep | None, keep: Keep | None, group: Group = ALONE) -> Distilled:
    """Load what a trial needs, and train its student if it trains one.

    Args:
        trial: what to run.
        cache: folder of shared caches.
        on_step: called after every optimiser step.
        keep: makes what saves and restores training; no checkpoints if None.
        group: the processes that train the student together; each calls this.

    Raises:
        UserError: bad input.
        NotFiniteError: training diverged.
        RankLostError: another process of the group ended.
        Stopped: the keeper was asked to stop.
    """
    workload, strategy, device = trial.workload, trial.strategy, device_of(trial.workload)
    clock = Clock(device=device)
    torch.set_num_threads(workload.resources.cpus)
    _seed_generators(derive(trial.seed or 0, "global"))
    reset_peak(device)
    objective = trial.objective if strategy.train else None
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
    training, chosen, teacher, watch, flops, counted = None, None, None, None, {}, None
    if strategy.samples is not None:
        with clock.phase("prepass"):
            chosen = choose_samples(trial, inputs, cache=cache, student=lambda: model, device=device)
        if from_cache and inputs.train_cache is None:
            with clock.phase("cache"):
                kept = teacher_source(workload, trial.fingerprints, inputs.train, data="train", only=chosen.kept)
                states = provide_teacher(workload, kept, folder=cache)
                inputs = replace(inputs, train_cache=states)
    stored, scored = None, {}
    only = chosen.kept if chosen is not None else None
    met = teacher_source(workload, trial.fingerprints, inputs.train, data="train", only=only)
    if strategy.stored:
        with clock.phase("cache"):
            stored = provide_rows(targets_of(strategy, inputs.vocab_size), workload, met, folder=cache)
    if objective is not None:
        signals = objective.stored_scores
        if signals:
            with clock.phase("cache"):
                scored = {
                    name: provide_rows(SignalScores(signal=name), workload, met, folder=cache) for name in signals
                }
        with clock.phase("load"):
            teacher = _training_teacher(trial, objective, inputs, scored, device)
        adapted = None
        if workload.lora is not None:
            adapted = adapt(model, workload.lora, seed=derive(trial.seed or 0, PURPOSE))
        if group.sharded:
            shard(model)
        core = Core(
            student=model,
            teacher=teacher,
            objective=objective,
            vocab_size=inputs.vocab_size,
            chunk=chunk,
            seed=trial.seed or 0,
            targets=stored.read if stored is not None else None,
            projection=_projection(objective, model, teacher, trial.seed or 0),
            compile=workload.resources.compile,
            group=group,
        )
        if workload.resources.checkpoint_activations:
            models.compute_activations_anew(model)
        live = LiveBytes()
        counted = None if group.sharded else live
        watch = watch_training(trial, core, inputs, device, clock=clock, live=live)
        with clock.phase("train"):
            training = train(
                core,
                inputs.train,
                workload.optimisation,
                only=chosen.kept if chosen is not None else None,
                device=device,
                on_step=on_step,
                watch=counted,
                observer=watch,
                keeper=None if keep is None else keep(device, _parts(clock, live, watch, core), group),
                writer=make_writer(trial, inputs.train, inputs.vocab_size, aside=lambda: clock.phase("rollout")),
            )
        if group.sharded:
            load = partial(models.load_model, source, workload.folder, dtype=dtype, device=device)
            model = assemble(model, load, group)
        flops = _price(trial, training, inputs, chosen)
        if adapted is not None:
            model = adapted.merge()
    return Distilled(
        model=model,
        inputs=inputs,
        chosen=chosen,
        stored=stored,
        scored=scored,
        teacher=teacher,
        training=training,
        watch=watch,
        live=counted,
        flops=flops,
        clock=clock,
        device=device,
        chunk=chunk,
    )


def _training_teacher(
    trial: Trial, objective: Objective, inputs: Inputs, scored: Mapping[str, Stored[PositionScores]], device: str
) -> Teacher | None:
    """Return the teacher that training reads, None where it reads none."""
    if not objective.reads_teacher or trial.strategy.stored:
        return None
    if trial.strategy.teacher == "cached":
        assert inputs.train_cache is not None, "prepared before training"
        return cached_teacher(inputs.train_cache, device, scored)
    return online_teacher(trial.workload, inputs.vocab_size, device)


def _price(trial: Trial, training: Training, inputs: Inputs, chosen: Chosen | None) -> dict[str, float]:
    num_valid = inputs.train.num_valid
    every = Reading(sequences=len(num_valid), rows=int(num_valid.sum()))
    kept = every
    if chosen is not None:
        kept = Reading(sequences=len(chosen.kept), rows=int(num_valid[chosen.kept.numpy()].sum()))
    work = work_of(trial, training.tally, every=every, kept=kept)
    return price(work, shapes_of(trial, inputs.vocab_size))


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


def _seed_generators(seed: int) -> None:
    """Seed every generator of the process: a warm worker must not hand one trial's on to the next."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
