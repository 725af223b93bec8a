"""Scores that a cached teacher gives before training, shared by all trials that rank by them."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from harness.data.tokens import Batch
from harness.teacher.inputs import Inputs, Progress, prepare_scores
from harness.teacher.scores import ScoreCache
from harness.trial.trial import Trial

# N = valid positions of a batch, K = kept training sequences


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores on disk.

    Attributes:
        found: one cache per signal that was there already.
        built: those that this trial made.
    """

    found: tuple[ScoreCache, ...]
    built: tuple[ScoreCache, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all of them."""
        return sum(each.store.meta.num_bytes for each in (*self.found, *self.built))

    @property
    def shared_s(self) -> float:
        """Seconds that others took to make what was found."""
        return sum(each.store.meta.build_s for each in self.found)

    def scores(self, batch: Batch) -> dict[str, Float[Tensor, " N"]]:
        """Return the scores of a batch's valid positions, by signal."""
        return {each.signal: each.scores(batch) for each in (*self.found, *self.built)}


def prepare_scored(
    trial: Trial,
    signals: tuple[str, ...],
    inputs: Inputs,
    *,
    cache: Path,
    only: Int[Tensor, " K"] | None = None,
    on_progress: Progress | None = None,
) -> Scored:
    """Find the scores a trial needs, or apply the teacher's head to its cached states once and store them.

    Args:
        trial: the trial.
        signals: see `Objective.stored_scores`.
        inputs: the training text.
        cache: folder of caches; it holds the teacher's states.
        only: the training sequences it learns from, ascending; all if None.
        on_progress: told of the building.
    """
    found: list[ScoreCache] = []
    built: list[ScoreCache] = []
    for signal in signals:
        scores, was_there = prepare_scores(
            trial.workload,
            trial.fingerprints,
            inputs.train,
            signal,
            cache=cache,
            only=None if only is None else only.numpy(),
            on_progress=on_progress,
        )
        (found if was_there else built).append(scores)
    return Scored(found=tuple(found), built=tuple(built))
