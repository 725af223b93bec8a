"""The stages of a trial before its evaluation: load, choose, teach, train, price."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from harness import models
from harness.config import ModelSource
from harness.config.annotations import PreTrainedModel
from harness.config.seeds import derive
from harness.data.encode import token_text
from harness.distill.compare import row_losses
from harness.distill.diagnostics import Watch
from harness.distill.feature import make_projection
from harness.distill.group import ALONE, Group
from harness.distill.loss import compiled_losses
from harness.distill.rollout import Writer
from harness.distill.shards import Weights, assemble, shard
from harness.distill.state import Resumable
from harness.distill.step import Core
from harness.distill.train import Training, train
from harness.evaluate.evaluation import prepare_items
from harness.models.devices import chunk_of, device_of
from harness.models.lora import PURPOSE, adapt
from harness.records.layout import Results
from harness.teacher.inputs import Inputs, prepare_inputs, teacher_source
from harness.teacher.interface import Targets, Teacher
from harness.teacher.kinds.scores import PositionScores, SignalScores
from harness.teacher.live import StoredTeacher, cached_teacher, online_teacher, provide_rows, provide_teacher
from harness.teacher.provide import Stored
from harness.teacher.targets import targets_of
from harness.trial.checkpoint import Keeper
from harness.trial.flops import Reading, price, shapes_of, work_of
from harness.trial.meter import Clock, LiveBytes, reset_peak
from harness.trial.samples import Chosen, choose_samples, prepass_reads_cache
from harness.trial.trial import Trial

# (steps done, steps in all, loss in nats)
OnStep = Callable[[int, int, float], None]
# From the device, the meters whose readings go into a checkpoint, and the processes that train together
Keep = Callable[[str, Mapping[str, Resumable], Group], Keeper]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a trial begins with.

    Attributes:
        model: the student before its first step, or the teacher where that is evaluated.
        inputs: tokenizer, data and the teacher's states, as far as they are needed whole.
        results: where what trials share is kept.
        clock: seconds by phase.
        device: where the model is.
        chunk: rows of logits that exist at a time.
    """

    model: PreTrainedModel
    inputs: Inputs
    results: Results
    clock: Clock
    device: str
    chunk: int


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What training reads of the teacher.

    Attributes:
        teacher: its states and head, or the teacher itself; None if nothing is read, or rows alone.
        states: its states on the disk, None if there are none of the training text.
        targets: rows stored before training, None if none were.
        scores: scores stored before training, by signal.
    """

    teacher: Teacher | None = None
    states: StoredTeacher | None
    targets: Stored[Targets] | None = None
    scores: Mapping[str, Stored[PositionScores]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training leaves.

    Attributes:
        model: the student. One that was sharded is whole in the first process, and of no use in the others.
        training: counts, curve and the policy's state.
        flops: operations by purpose, of all processes together.
        watch: diagnostics, None without.
        live: bytes of tensors in the first step, None where not all are seen: layers are sharded, or losses compiled.
    """

    model: PreTrainedModel
    training: Training
    flops: Mapping[str, float]
    watch: Watch | None
    live: LiveBytes | None


@dataclass(frozen=True, kw_only=True)
class Stages:
    """All that a trial has before it is evaluated; `trained` is None for a model as it is."""

    loaded: Loaded
    chosen: Chosen
    taught: Taught
    trained: Trained | None


def run_stages(
    trial: Trial, *, results: Results, on_step: OnStep | None, keep: Keep | None, group: Group = ALONE
) -> Stages:
    """Load what a trial needs, and train its student if it trains one.

    Args:
        trial: what to run.
        results: where what trials share is kept.
        on_step: called after every optimiser step.
        keep: makes what saves and restores training; no checkpoints if None.
        group: the processes that train the student together; each calls this.

    Raises:
        UserError: bad input.
        NotFiniteError: training diverged.
        RankLostError: another process of the group ended.
        Stopped: the keeper was asked to stop.
    """
    loaded = load(trial, results)
    chosen = choose(trial, loaded)
    taught = teach(trial, loaded, chosen)
    trained = None
    if trial.strategy.train:
        trained = train_student(trial, loaded, chosen, taught, on_step=on_step, keep=keep, group=group)
    return Stages(loaded=loaded, chosen=chosen, taught=taught, trained=trained)


def load(trial: Trial, results: Results) -> Loaded:
    """Load the model, the data, and the teacher's states where they are read whatever is chosen."""
    workload, strategy, device = trial.workload, trial.strategy, device_of(trial.workload)
    clock = Clock(device=device)
    torch.set_num_threads(workload.resources.cpus)
    _seed_generators(derive(trial.seed or 0, "global"))
    reset_peak(device)
    with clock.phase("load"):
        # Without a prepass that reads the teacher, which of its states are needed is known after the choice only.
        whole = prepass_reads_cache(strategy) or (_reads_states(trial) and strategy.samples is None)
        inputs = prepare_inputs(workload, trial.fingerprints, trial.split, results=results, needs_train_cache=whole)
        # Before training: a data set that cannot be had must not cost hours first.
        prepare_items(workload.evaluation, workload.folder, trial.split, results)
        source = workload.teacher if strategy.model == "teacher" else workload.student
        assert source is not None, "checked before anything runs"
        model = _model(trial, source, device)
    chunk = chunk_of(workload, inputs.vocab_size)
    return Loaded(model=model, inputs=inputs, results=results, clock=clock, device=device, chunk=chunk)


def choose(trial: Trial, loaded: Loaded) -> Chosen:
    """Choose the sequences that the trial learns from."""
    if trial.strategy.samples is None:
        return Chosen(kept=None, num_samples=len(loaded.inputs.train))
    with loaded.clock.phase("prepass"):
        return choose_samples(trial, loaded.inputs.train, results=loaded.results, student=loaded.model)


def teach(trial: Trial, loaded: Loaded, chosen: Chosen) -> Taught:
    """Store what training reads of the teacher, or find it stored; load the teacher where it has to run."""
    workload, strategy, inputs, clock = trial.workload, trial.strategy, loaded.inputs, loaded.clock
    states = inputs.train_cache
    if not strategy.train:
        return Taught(states=states)
    source = teacher_source(workload, trial.fingerprints, inputs.train, data="train", only=chosen.kept)
    teacher = targets = None
    scores: dict[str, Stored[PositionScores]] = {}
    if _reads_states(trial) and states is None:
        with clock.phase("cache"):
            states = provide_teacher(workload, source, results=loaded.results)
    if strategy.stored:
        with clock.phase("cache"):
            targets = provide_rows(targets_of(strategy, inputs.vocab_size), workload, source, results=loaded.results)
    for name in trial.objective.stored_scores:
        with clock.phase("cache"):
            scores[name] = provide_rows(SignalScores(signal=name), workload, source, results=loaded.results)
    with clock.phase("load"):
        if _reads_states(trial):
            assert states is not None, "opened or built above"
            teacher = cached_teacher(states, loaded.device, scores)
        elif trial.objective.reads_teacher and not strategy.stored:
            teacher = online_teacher(workload, inputs.vocab_size, loaded.device)
    return Taught(teacher=teacher, states=states, targets=targets, scores=scores)


def train_student(
    trial: Trial,
    loaded: Loaded,
    chosen: Chosen,
    taught: Taught,
    *,
    on_step: OnStep | None,
    keep: Keep | None,
    group: Group,
) -> Trained:
    """Train the student, and price what the trial did; arguments as in `run_stages`."""
    workload, inputs, model, clock = trial.workload, loaded.inputs, loaded.model, loaded.clock
    adapted = None
    if workload.lora is not None:
        adapted = adapt(model, workload.lora, seed=derive(trial.seed or 0, PURPOSE))
    if group.sharded:
        shard(model)
    core = _core(trial, loaded, taught, group)
    if workload.resources.checkpoint_activations:
        models.compute_activations_anew(model)
    live = LiveBytes()
    # What sharded layers fetch and compiled kernels write is not seen there, and nothing is compiled inside it.
    counted = not (group.sharded or workload.resources.compile)
    watch = _watch(trial, core, loaded, live)
    with clock.phase("train"):
        training = train(
            core,
            inputs.train,
            workload.optimisation,
            only=chosen.kept,
            filtered=trial.method.filtered,
            device=loaded.device,
            on_step=on_step,
            meter=live if counted else None,
            observer=watch,
            keeper=None if keep is None else keep(loaded.device, _parts(clock, live, watch, core), group),
            writer=_writer(trial, loaded),
        )
    if group.sharded:
        model = assemble(model, partial(_model, trial, workload.student, loaded.device), group)
    return Trained(
        model=model if adapted is None else adapted.merge(),
        training=training,
        flops=_price(trial, training, inputs, chosen),
        watch=watch,
        live=live if counted else None,
    )


def _reads_states(trial: Trial) -> bool:
    """Whether training reads the teacher's states from a cache."""
    return trial.strategy.train and trial.strategy.teacher == "cached" and trial.objective.reads_teacher


def _model(trial: Trial, source: ModelSource, device: str) -> PreTrainedModel:
    workload = trial.workload
    dtype = models.DTYPES[workload.resources.dtype]
    return models.load_model(source, workload.folder, dtype=dtype, device=device)


def _core(trial: Trial, loaded: Loaded, taught: Taught, group: Group) -> Core:
    objective, projection = trial.objective, None
    if objective.feature is not None:
        assert taught.teacher is not None, "an objective with a feature branch reads the teacher"
        sizes = int(loaded.model.config.hidden_size), taught.teacher.head.weight.shape[1]
        projection = make_projection(objective, *sizes, trial.seed or 0).to(loaded.model.device)
    scorer = None
    if trial.method.position.frozen:
        scorer = _model(trial, trial.workload.student, loaded.device).requires_grad_(False)
    return Core(
        student=loaded.model,
        teacher=taught.teacher,
        objective=objective,
        vocab_size=loaded.inputs.vocab_size,
        chunk=loaded.chunk,
        seed=trial.seed or 0,
        targets=taught.targets.read if taught.targets is not None else None,
        scorer=scorer,
        projection=projection,
        losses=compiled_losses() if trial.workload.resources.compile else row_losses,
        group=group,
    )


def _watch(trial: Trial, core: Core, loaded: Loaded, live: LiveBytes) -> Watch | None:
    """Return what watches a trial's training, None where its grid asks for no diagnostics.

    The first held-out sequences are shown: the same for every strategy and seed of a workload and split, never trained
    on, and with the teacher's states in a cache whether the strategy reads them or not. The time of looking is a phase
    of its own, and what it brings to life is not counted.
    """
    settings, inputs, device = trial.diagnostics, loaded.inputs, loaded.device
    cache = inputs.heldout_cache
    if settings is None:
        return None

    @contextmanager
    def aside() -> Iterator[None]:
        with loaded.clock.phase("diagnostics"), live.paused():
            yield

    return Watch(
        core=core,
        settings=settings,
        shown=inputs.heldout.batch(torch.arange(min(settings.sequences, len(inputs.heldout)))).to(device),
        teacher=None if cache is None else lambda: cached_teacher(cache, device),
        text=token_text(inputs.tokenizer),
        aside=aside,
    )


def _writer(trial: Trial, loaded: Loaded) -> Writer | None:
    """Return what writes a trial's sequences, None for a trial that trains on the data alone."""
    settings, inputs, clock = trial.strategy.rollout, loaded.inputs, loaded.clock
    if settings is None:
        return None
    return Writer(
        settings=settings,
        tokens=inputs.train,
        vocab_size=inputs.vocab_size,
        seed=trial.seed or 0,
        aside=lambda: clock.phase("rollout"),
    )


def _price(trial: Trial, training: Training, inputs: Inputs, chosen: Chosen) -> dict[str, float]:
    num_valid = inputs.train.num_valid
    every = kept = Reading(sequences=len(num_valid), rows=int(num_valid.sum()))
    if chosen.kept is not None:
        kept = Reading(sequences=len(chosen.kept), rows=int(num_valid[chosen.kept.numpy()].sum()))
    work = work_of(trial, training.tally, every=every, kept=kept)
    return price(work, shapes_of(trial, inputs.vocab_size))


def _parts(clock: Clock, live: LiveBytes, watch: Watch | None, core: Core) -> dict[str, Resumable]:
    """Return what a checkpoint holds besides the student and its training."""
    parts: dict[str, Resumable] = {"seconds": clock, "live": live}
    if watch is not None:
        parts["diagnostics"] = watch
    if core.projection is not None:
        parts["projection"] = Weights(core.projection)
    return parts


def _seed_generators(seed: int) -> None:
    """Seed every generator of the process: a warm worker must not hand one trial's on to the next."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
