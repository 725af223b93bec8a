"""Training from stored targets: they are cached first, and no teacher is in memory while the student trains."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from harness.config import Strategy
from harness.data.tokens import Batch
from harness.teacher.inputs import Inputs, Progress, prepare_sampled, prepare_topk, teacher_source
from harness.teacher.interface import Targets
from harness.teacher.sampled import Draws, open_sampled
from harness.teacher.store import Store
from harness.teacher.topk import TopK, open_topk
from harness.trial.trial import Trial
from strategies.base import SparseTarget
from strategies.registry import CLASSES

# B = sequences of a batch, L = positions, K = kept training sequences


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
