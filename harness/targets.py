"""Training from stored targets: the teacher's draws are cached first, and no teacher is in memory while training."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from harness.cache.sampled import Draws, SampledCache, open_sampled
from harness.config import Strategy, Workload
from harness.data.tokens import Batch, Tokens
from harness.distill.teacher import Targets
from harness.inputs import Inputs, Progress, prepare_sampled, teacher_source
from harness.meter import shape_of
from harness.trial import Trial
from strategies.base import SparseTarget
from strategies.registry import CLASSES

# K = kept training sequences

_SEQUENCES_PER_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Targets on disk.

    Attributes:
        cache: the draws.
        built: whether this trial drew them, rather than finding them.
    """

    cache: SampledCache
    built: bool

    @property
    def targets(self) -> Targets:
        """The targets of a batch's marked positions, as the core asks for them."""

        def sparse(batch: Batch, chosen: Tensor) -> SparseTarget:
            return self.cache.target(batch).sparse(chosen)

        return sparse


def prepare_stored(
    trial: Trial,
    inputs: Inputs,
    *,
    cache: Path,
    only: Int[Tensor, " K"] | None,
    on_progress: Progress | None = None,
) -> Stored:
    """Find the draws a trial trains from, or run the teacher once over its sequences and store them.

    The teacher lives as long as this call: it is gone before training begins.

    Args:
        trial: a trial whose strategy says `teacher: sampled`.
        inputs: the training text.
        cache: folder of caches.
        only: the training sequences it learns from, ascending; all if None.
        on_progress: told of the building.
    """
    workload = trial.workload
    kept = None if only is None else only.numpy()
    settings = draws_of(trial.strategy, inputs.vocab_size)
    source = teacher_source(workload, trial.fingerprints, inputs.train, data="train", only=kept)
    found = open_sampled(cache, source, settings)
    if found is not None:
        return Stored(cache=found, built=False)
    made = prepare_sampled(
        workload, trial.fingerprints, inputs.train, settings, cache=cache, only=kept, on_progress=on_progress
    )
    return Stored(cache=made, built=True)


def draws_of(strategy: Strategy, vocab_size: int) -> Draws:
    """Return what a strategy's class policy `rs` draws, its defaults filled in."""
    assert strategy.classes is not None, "legality asks for class policy rs"
    options = CLASSES["rs"].defaults | strategy.classes.options
    return Draws(
        draws=int(options["draws"]),
        proposal=float(options["proposal"]),
        seed=int(options["seed"]),
        temperature=strategy.temperature,
        vocab_size=vocab_size,
    )


def stored_flops(workload: Workload, *, num_sequences: int, num_positions: int, vocab_size: int) -> dict[str, float]:
    """Return what drawing the targets costs by part, whether a trial draws them or finds them.

    Args:
        workload: a workload with a teacher.
        num_sequences: training sequences that are drawn for.
        num_positions: their valid positions.
        vocab_size: tokens of the tokenizer.
    """
    assert workload.teacher is not None, "checked before anything runs"
    teacher = shape_of(workload.teacher, workload.folder, workload.data.sequence_length)
    return {
        "cache_teacher_trunk": num_sequences * teacher.trunk_flops,
        "cache_teacher_head": 2.0 * num_positions * vocab_size * teacher.hidden_size,
    }


def count_valid(train: Tokens, kept: Int[Tensor, " K"] | None) -> int:
    """Count the positions with a target in the kept training sequences, or in all of them."""
    index = torch.arange(len(train)) if kept is None else kept
    return sum(int(train.batch(part).valid.sum()) for part in index.split(_SEQUENCES_PER_BATCH))
