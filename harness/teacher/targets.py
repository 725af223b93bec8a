"""Training from stored targets: they are cached first, and no teacher is in memory while the student trains."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from harness.config import Strategy, Workload
from harness.data.tokens import Batch, Tokens
from harness.teacher.inputs import Inputs, Progress, prepare_sampled, prepare_topk, teacher_source
from harness.teacher.interface import Targets
from harness.teacher.sampled import Draws, open_sampled
from harness.teacher.store import Store
from harness.teacher.topk import TopK, open_topk
from harness.trial.meter import shape_of
from harness.trial.trial import Trial
from strategies.base import SparseTarget
from strategies.registry import CLASSES

# B = sequences of a batch, L = positions, K = kept training sequences

_SEQUENCES_PER_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Targets on disk.

    Attributes:
        targets: the targets of positions of a batch, as the core asks for them.
        store: the cache's files.
        built: whether this trial made them, rather than finding them.
    """

    targets: Targets
    store: Store
    built: bool


def prepare_stored(
    trial: Trial,
    inputs: Inputs,
    *,
    cache: Path,
    only: Int[Tensor, " K"] | None,
    on_progress: Progress | None = None,
) -> Stored:
    """Find the targets a trial trains from, or run the teacher once over its sequences and store them.

    The teacher lives as long as this call: it is gone before training begins.

    Args:
        trial: a trial whose strategy says `teacher: sampled` or `teacher: topk`.
        inputs: the training text.
        cache: folder of caches.
        only: the training sequences it learns from, ascending; all if None.
        on_progress: told of the building.
    """
    workload, strategy = trial.workload, trial.strategy
    kept = None if only is None else only.numpy()
    source = teacher_source(workload, trial.fingerprints, inputs.train, data="train", only=kept)
    place = (workload, trial.fingerprints, inputs.train)
    if strategy.teacher == "sampled":
        draws = draws_of(strategy, inputs.vocab_size)
        built = open_sampled(cache, source, draws) is None
        sampled = prepare_sampled(*place, draws, cache=cache, only=kept, on_progress=on_progress)
        return Stored(targets=sampled.targets, store=sampled.store, built=built)
    assert strategy.classes is not None, "legality asks for class policy top_k or top_k_tail"
    largest = largest_of(strategy, inputs.vocab_size)
    built = open_topk(cache, source, largest) is None
    topk = prepare_topk(*place, largest, cache=cache, only=kept, on_progress=on_progress)
    tail, renormalise = strategy.classes.name == "top_k_tail", bool(strategy.classes.options.get("renormalise", False))

    def sparse(batch: Batch, places: Int[Tensor, " N"]) -> SparseTarget:
        return topk.target(batch).sparse(places, tail=tail, renormalise=renormalise)

    return Stored(targets=sparse, store=topk.store, built=built)


def draws_of(strategy: Strategy, vocab_size: int) -> Draws:
    """Return what a strategy's class policy `rs` draws, its defaults filled in."""
    assert strategy.classes is not None, "legality asks for class policy rs"
    options = CLASSES["rs"].defaults | strategy.classes.options
    return Draws(
        draws=int(options["draws"]),
        proposal=float(options["proposal"]),
        seed=int(options["seed"]),
        temperature=_temperature(strategy),
        vocab_size=vocab_size,
    )


def largest_of(strategy: Strategy, vocab_size: int) -> TopK:
    """Return what a strategy's class policy `top_k` or `top_k_tail` keeps; stored as computed, in float32."""
    assert strategy.classes is not None, "legality asks for class policy top_k or top_k_tail"
    num = int(strategy.classes.options["num"])
    return TopK(k=num, precision="float32", temperature=_temperature(strategy), vocab_size=vocab_size)


def _temperature(strategy: Strategy) -> float:
    assert isinstance(strategy.temperature, float), "legality asks for one temperature where targets are stored"
    return strategy.temperature


def stored_flops(workload: Workload, *, num_sequences: int, num_positions: int, vocab_size: int) -> dict[str, float]:
    """Return what making the targets costs by part, whether a trial makes them or finds them.

    Args:
        workload: a workload with a teacher.
        num_sequences: training sequences that have targets.
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
