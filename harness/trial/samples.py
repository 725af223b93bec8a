"""The sample axis of a trial: score the training sequences, or find them scored, and choose those it learns from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness import models
from harness.config import Choice, Strategy, Workload
from harness.config.annotations import PreTrainedModel
from harness.config.seeds import derive
from harness.data.tokens import Tokens
from harness.models.devices import chunk_of, device_of
from harness.records.layout import Results
from harness.records.record import SampleSummary
from harness.teacher.inputs import teacher_source
from harness.teacher.live import row_teacher
from harness.teacher.provide import Progress, Spread, Stored, provide
from harness.teacher.source import Source
from harness.trial.prepass import SampleScores, Scorer, reads_teacher
from harness.trial.trial import Trial
from strategies.noise import streams, uniform
from strategies.registry import SAMPLES

# S = training sequences, K = kept sequences


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a trial learns from.

    Attributes:
        kept: indices of the kept training sequences, ascending; None without the sample axis, which keeps every one.
        num_samples: training sequences there are.
        prepass: their scores, None where the policy reads none.
    """

    kept: Int[Tensor, " K"] | None
    num_samples: int
    prepass: Stored[Callable[[], Float[Tensor, " S"]]] | None = None

    @property
    def table(self) -> pd.DataFrame | None:
        """One row per training sequence: index, score (missing where the policy reads none), kept."""
        if self.kept is None:
            return None
        kept = torch.zeros(self.num_samples, dtype=torch.bool)
        kept[self.kept] = True
        scores = torch.full((self.num_samples,), torch.nan) if self.prepass is None else self.prepass.read()
        return pd.DataFrame({"index": range(self.num_samples), "score": scores.double().numpy(), "kept": kept.numpy()})

    @property
    def summary(self) -> SampleSummary | None:
        """What the record says."""
        if self.kept is None:
            return None
        source = None if self.prepass is None else "built" if self.prepass.built else "reused"
        return SampleSummary(num_samples=self.num_samples, kept_samples=len(self.kept), prepass=source)


def scored_by(strategy: Strategy) -> Choice | None:
    """Return the signal whose prepass a strategy needs, None if it needs no prepass."""
    return strategy.samples.signal if strategy.samples is not None else None


def prepass_reads_cache(strategy: Strategy) -> bool:
    """Whether the prepass reads the teacher's cached states, of every training sequence."""
    signal = scored_by(strategy)
    return strategy.train and signal is not None and strategy.teacher == "cached" and reads_teacher(signal)


def choose_samples(
    trial: Trial,
    train: Tokens,
    *,
    results: Results,
    student: PreTrainedModel | None = None,
    on_progress: Progress | None = None,
    spread: Spread | None = None,
) -> Chosen:
    """Choose the training sequences of a trial that uses the sample axis; the rest as in `provide`.

    `student` is the model as it is before training; one is loaded where a prepass has to be made without it.
    """
    samples = trial.strategy.samples
    assert samples is not None, "only for trials that use the sample axis"
    num, prepass = len(train), None
    if samples.signal is not None:
        kind, source = _prepass(trial, train)
        prepass = provide(
            kind,
            source,
            partial(_scorer, kind.signal, trial.workload, source, results.resolved(), student),
            results=results,
            batch_size=trial.workload.optimisation.micro_batch_size,
            on_progress=on_progress,
            spread=spread,
        )
    noise = uniform(streams(derive(trial.seed or 0, "samples"), torch.arange(num)), 1)[:, 0]
    scores = torch.zeros(num, dtype=torch.float64) if prepass is None else prepass.read()
    kept = SAMPLES[samples.policy.name].build(**samples.policy.options).choose(scores, samples.budget, noise)
    return Chosen(kept=kept, num_samples=num, prepass=prepass)


def _scorer(
    signal: Choice, workload: Workload, source: Source, results: Results, student: PreTrainedModel | None
) -> Scorer:
    """Load what a signal reads, in the process that scores."""
    device, vocab_size = device_of(workload), len(models.load_tokenizer(workload.student, workload.folder))
    if student is None:
        student = models.load_model(
            workload.student, workload.folder, dtype=models.DTYPES[workload.resources.dtype], device=device
        )
    return Scorer(
        student=student,
        teacher=row_teacher(workload, source, results) if reads_teacher(signal) else None,
        vocab_size=vocab_size,
        batch_size=workload.optimisation.micro_batch_size,
        chunk=chunk_of(workload, vocab_size),
        device=device,
    )


def _prepass(trial: Trial, train: Tokens) -> tuple[SampleScores, Source]:
    """Return the prepass a trial needs, and what it is of."""
    signal, workload = scored_by(trial.strategy), trial.workload
    assert signal is not None, "only for trials whose sample policy reads scores"
    source = teacher_source(workload, trial.fingerprints, train, data="train")
    read = [workload.student.path, *([source.about["teacher"]] if reads_teacher(signal) else [])]
    source = replace(source, about={**source.about, "teacher": " and ".join(read)})
    return SampleScores(signal=signal, student=trial.fingerprints["student"], seed=trial.seed or 0), source
