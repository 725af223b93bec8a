"""What a grid, or a few presets, take: operations, hours, memory, disk, and what to change where it does not fit."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.config import Method, Strategy, Workload
from harness.config.errors import UserError
from harness.config.expand import load_grid, presets, taught
from harness.config.legality import check, kept_samples
from harness.config.overrides import NOTHING, Overrides
from harness.config.workloads import load_workload, load_workloads
from harness.cost.accounting import GIB
from harness.cost.forecast.advice import Change, changes_that_help
from harness.cost.forecast.calibrate import Calibrated
from harness.cost.forecast.disk import Cached, caches
from harness.cost.forecast.gpus import Gpu, usable_gib
from harness.cost.forecast.memory import Footprint, cache_footprint, footprint, fullest
from harness.data import text
from harness.data.tokens import Tokens, find_prepared
from harness.distill.train import expected_steps
from harness.models.operations import shape_of
from harness.models.vocabulary import read_vocabulary
from harness.records.layout import Results
from harness.trial.flops import Exactness, exactness, predict_flops
from harness.trial.trial import Trial, make_trials

# Without a grid: the paper's main rows, from the dearest to the cheapest.
PRESETS = ("full_kd_dense", "full_kd", "se_kd", "rs_kd", "se_kd_3x")

# Share of a GPU's peak that training is taken to reach, if nobody says otherwise. An estimate for the workloads as
# shipped, from a count of their kernels (small micro-batches and chunks, no compilation); tuned ones might reach 0.35.
MFU = 0.2

_PREPASS, _CACHE = "prepass_", "cache_"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one strategy takes.

    Attributes:
        label: the strategy's.
        num_trials: one per seed.
        num_steps: optimiser steps of a trial; 0 where nothing is trained.
        flops: operations of one trial by part, as its record will state them.
        exactness: what `flops` are worth.
        memory: bytes of a step, None where nothing is trained.
        fullest: bytes on the fullest GPU, where a teacher may have some of its own.
        caches: what has to be stored first.
        measured: seconds of a step and its peak on the device that is there, None without calibration.
        changes: what to change where it takes the most and does not fit, with the peak that each change gives.
    """

    label: str
    num_trials: int
    num_steps: int
    flops: dict[str, float]
    exactness: Exactness
    memory: Footprint | None
    caches: tuple[Cached, ...]
    fullest: int = 0
    measured: Calibrated | None = None
    changes: tuple[Change, ...] = ()

    @property
    def own_flops(self) -> float:
        """Operations that no other trial shares."""
        return sum(each for name, each in self.flops.items() if not name.startswith((_PREPASS, _CACHE)))


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a grid takes on a workload.

    Attributes:
        name: what is forecast.
        workload: what it is applied to.
        gpu: what it would run on; None for no GPU.
        mfu: the share of the GPU's peak that is taken to be reached.
        rows: one per strategy.
        shared_flops: operations of what trials share, each once: caches and prepasses.
        cache_bytes: peak of building the teacher's cache; 0 without a teacher.
        free_bytes: of the disk that results would go to.
    """

    name: str
    workload: Workload
    gpu: Gpu | None
    mfu: float
    rows: tuple[Row, ...]
    shared_flops: float
    cache_bytes: int
    free_bytes: int

    @property
    def total_flops(self) -> float:
        """Operations of the whole grid, what is shared counted once."""
        return self.shared_flops + sum(row.num_trials * row.own_flops for row in self.rows)

    @property
    def disk(self) -> dict[str, Cached]:
        """What lies on the disk in the end, each thing once."""
        return {f"{each.kind} {each.what}": each for row in self.rows for each in row.caches}

    def hours(self, flops: float) -> float | None:
        """Return how long so many operations take at the stated efficiency, None without a GPU."""
        if self.gpu is None:
            return None
        return flops / (self.mfu * self.gpu.peak(self.workload.resources.dtype)) / 3600

    def hours_of(self, row: Row) -> float | None:
        """Return the hours of one trial's own work, in equal shares of its processes, as if these never waited.

        They are measured where there is a measurement, else predicted.
        """
        alone = self.hours(row.own_flops) if row.measured is None else row.measured.step_s * row.num_steps / 3600
        return None if alone is None else alone / self.workload.resources.data_parallel

    def fits(self, row: Row) -> bool | None:
        """Tell whether a trial fits the GPU, None without one."""
        if self.gpu is None or row.memory is None:
            return None
        return row.fullest / GIB <= usable_gib(self.gpu)


def make_forecast(
    grid: Path | None,
    workload: str | None,
    *,
    overrides: Overrides = NOTHING,
    teacher: str | None = None,
    gpu: Gpu | None,
    mfu: float = MFU,
    results: Results,
    measured: Callable[[Method, Workload], Calibrated] | None = None,
    on_row: Callable[[str], None] | None = None,
) -> Forecast:
    """Work out what a grid takes, from shapes alone: no weights are read and nothing is written.

    Args:
        grid: a grid file; the paper's main rows if None.
        workload: instead of the grid's.
        overrides: what stands in the workload instead, by dotted path.
        teacher: `online` for every strategy that would read the teacher's cached states.
        gpu: what it would run on.
        mfu: the share of the GPU's peak that is taken to be reached, in (0, 1].
        results: where packed text is looked for; with it, operations are exact.
        measured: measures a strategy's steps on the device that is there.
        on_row: told the label of each strategy before it is counted.

    Raises:
        UserError: neither a grid nor a workload; a share outside (0, 1]; a wrong file; an impossible combination; a
            model whose shape cannot be had.
        UnknownNameError: a name nobody registered.
    """
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu is a share of the GPU's peak, in (0, 1]; it is {mfu:g}")
    loaded, trials, name = _trials(grid, workload, overrides, teacher)
    tokens = _packed(loaded, results)
    by_label = {trial.strategy.label: [each for each in trials if each.strategy == trial.strategy] for trial in trials}
    rows, steps = [], dict[str, Footprint]()
    for label, group in by_label.items():
        if on_row is not None:
            on_row(label)
        row = _row(group, tokens, steps)
        if row.memory is not None and measured is not None:
            row = replace(row, measured=measured(group[0].method, group[0].workload))
        rows.append(row)
    if gpu is not None:
        # A step is counted anew for each change, and a workload that is changed for one row is changed for all.
        most = max(range(len(rows)), key=lambda number: rows[number].fullest)
        memory = rows[most].memory
        if memory is not None and rows[most].fullest / GIB > usable_gib(gpu):
            heaviest = by_label[rows[most].label][0]
            changes = changes_that_help(heaviest.method, heaviest.workload, memory, gpu)
            rows[most] = replace(rows[most], changes=changes)
    return Forecast(
        name=name,
        workload=loaded,
        gpu=gpu,
        mfu=mfu,
        rows=tuple(rows),
        shared_flops=_shared(rows, loaded),
        cache_bytes=cache_footprint(loaded) if loaded.teacher is not None else 0,
        free_bytes=shutil.disk_usage(_existing(results.root)).free,
    )


def _existing(folder: Path) -> Path:
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())


def _trials(
    grid: Path | None, workload: str | None, overrides: Overrides, teacher: str | None
) -> tuple[Workload, list[Trial], str]:
    if grid is None and workload is None:
        raise UserError("harness plan takes a grid file, or --workload NAME for the paper's main strategies on it")
    if grid is not None:
        question = load_grid(grid)
        loaded, own = load_workloads(workload or question.workload, None, question, overrides)
        if teacher is not None:
            question = question.model_copy(update={"strategies": taught(question.strategies, teacher)})
        return loaded, make_trials(question, loaded, {}, own=own), question.name
    loaded = load_workload(workload or "", overrides=overrides)
    strategies: Sequence[Strategy] = [presets()[name] for name in PRESETS if loaded.teacher is not None]
    strategies = strategies or [presets()["sft"]]
    if teacher is not None:
        strategies = taught(strategies, teacher)
    for strategy in strategies:
        check(strategy, loaded)
    trials = [
        Trial(strategy=strategy, workload=loaded, seed=seed, split="test", sources={}, fingerprints={})
        for strategy in strategies
        for seed in loaded.seeds
    ]
    return loaded, trials, "the paper's main strategies"


def _row(trials: Sequence[Trial], tokens: Tokens | None, steps: dict[str, Footprint]) -> Row:
    """Work out a row.

    Args:
        trials: its trials.
        tokens: see `predict_flops`.
        steps: what the steps of earlier rows take; a step that they took is not counted again.
    """
    trial = trials[0]
    strategy, workload = trial.strategy, trial.workload
    if not strategy.train:
        stored = caches(strategy, workload)
        return Row(label=strategy.label, num_trials=len(trials), num_steps=0, flops={}, exactness="exact",
                   memory=None, caches=stored)  # fmt: skip
    samples = workload.data.train_tokens // workload.data.sequence_length
    # Which sequences a trial learns from, and what its row is called, leaves a step as it is.
    step = strategy.model_dump_json(exclude={"label", "source", "samples"}) + workload.model_dump_json()
    memory = steps[step] if step in steps else steps.setdefault(step, footprint(strategy, workload))
    return Row(
        label=strategy.label,
        num_trials=len(trials),
        num_steps=expected_steps(samples, kept_samples(strategy, samples), workload.optimisation, strategy.filtered),
        flops=predict_flops(trial, tokens),
        exactness=exactness(trial, tokens),
        memory=memory,
        fullest=fullest(memory, strategy, workload),
        caches=caches(strategy, workload),
    )


def _packed(workload: Workload, results: Results) -> Tokens | None:
    """Find the packed training text of an earlier run, None if there is none or its tokenizer is not here."""
    if not any(results.cache.glob("tokens-train-*")):
        return None
    try:
        tokenizer = read_vocabulary(workload.student, workload.folder).fingerprint
    except UserError:
        return None
    key = f"{text.fingerprint(workload.data, workload.folder, results.documents)}-{tokenizer}"
    return find_prepared(workload.data, "train", source_key=key, results=results)


def _shared(rows: Sequence[Row], workload: Workload) -> float:
    """Count what trials share, each thing once: the teacher over the text it is cached on, scores, draws, prepasses."""
    if workload.teacher is None:
        return 0.0
    teacher = shape_of(workload.teacher, workload.folder, workload.data.sequence_length)
    states = {each for row in rows for each in row.caches if each.kind in ("hidden", "heldout states")}
    per_token = workload.data.sequence_length * teacher.hidden_size
    itemsize = {"float32": 4, "bfloat16": 2, "float64": 8}[workload.resources.dtype]
    total = 0.0
    seen: set[tuple[str, str]] = set()
    for each in states:
        total += each.num_bytes // (per_token * itemsize) * teacher.trunk_flops
    for row in rows:
        for kind, prefix in (("prepass", _PREPASS), ("scores", _CACHE), ("sampled", _CACHE), ("topk", _CACHE)):
            of_kind = [each for each in row.caches if each.kind == kind]
            for each in of_kind:
                if (kind, each.what) not in seen:
                    seen.add((kind, each.what))
                    flops = sum(flops for name, flops in row.flops.items() if name.startswith(prefix))
                    total += flops / len(of_kind)
    return total
