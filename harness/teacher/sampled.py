"""The `sampled` cache: RS-KD's draws, distinct ids and counts only; training from it needs no teacher at all.

Exactly the draws that sampling online would make, because they depend on the row, its place in the data and a seed. It
serves the class policy `rs` with the same draws, proposal, seed and temperature, and nothing else: an entropy or a
divergence estimated from so few classes would be biased.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.data.tokens import Batch
from harness.teacher.bits import Record, gather, laid_out, ragged
from harness.teacher.files import Scalar
from harness.teacher.rows import RowTeacher, teacher_rows
from harness.teacher.source import Done, Source
from harness.teacher.store import Store, build_store, open_store
from strategies.base import SparseTarget
from strategies.classes.rs import draw, from_counts, rs
from strategies.noise import cells, streams
from strategies.registry import CLASSES

# B = sequences of a batch, L = positions, U = draws, N = chosen positions

SHARD_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What was drawn.

    Attributes:
        draws: draws per position, RS-KD's N and the paper's U.
        proposal: exponent of the distribution drawn from; 1 is the teacher's own.
        seed: of the draws.
        temperature: of the teacher's distribution.
        vocab_size: its classes.
    """

    draws: int
    proposal: float
    seed: int
    temperature: float
    vocab_size: int

    def ingredients(self, source: Source) -> dict[str, Scalar]:
        """Everything the draws depend on, the source of the drawing function included."""
        return {
            **source.row_ingredients,
            "draws": self.draws,
            "proposal": float(self.proposal),
            "seed": self.seed,
            "temperature": float(self.temperature),
            "vocab_size": self.vocab_size,
            "function": CLASSES["rs"].digest,
        }

    @property
    def record(self) -> Record:
        """How a drawn class is stored."""
        return Record(vocab_size=self.vocab_size, draws=self.draws)


@dataclass(frozen=True, kw_only=True)
class SampledTarget:
    """The draws at every position of a batch; positions without a target have none.

    Attributes:
        ids: distinct drawn classes in ascending order; unused places come last, with class 0.
        counts: how often each was drawn, 0 in unused places.
        log_weight: log of the target's mass on each where counts do not say it (proposal other than 1), else None.
        draws: draws per position.
        dtype: of the masses.
    """

    ids: Int[Tensor, "B L U"]
    counts: Int[Tensor, "B L U"]
    log_weight: Float[Tensor, "B L U"] | None
    draws: int
    dtype: torch.dtype

    def sparse(self, places: Int[Tensor, " N"]) -> SparseTarget:
        """Return the target of positions of the flattened batch, the very one that `rs` makes of the teacher's rows."""
        ids = self.ids.flatten(0, 1)[places]
        if self.log_weight is None:
            return from_counts(ids, self.counts.flatten(0, 1)[places], draws=self.draws, dtype=self.dtype)
        log_weight = self.log_weight.flatten(0, 1)[places]
        return SparseTarget(ids=ids, weight=log_weight.exp(), log_weight=log_weight)


@dataclass(frozen=True, kw_only=True)
class SampledCache:
    """A finished cache, memory-mapped; any number of processes may read it.

    Attributes:
        store: its files.
        settings: what was drawn.
        dtype: of the masses: float32, or float64 for a float64 teacher.
    """

    store: Store
    settings: Draws
    dtype: torch.dtype

    def target(self, batch: Batch) -> SampledTarget:
        """Return the draws of a batch, on the batch's device.

        Raises:
            UserError: the cache does not hold one of its sequences, or a file is damaged.
        """
        weighted = self.settings.proposal != 1.0
        names = ("records", "log_weight") if weighted else ("records",)
        lengths, columns = gather(self.store, self.store.rows(batch.index.numpy()), names)
        ids, counts = self.settings.record.unpack(columns["records"].astype(np.uint8, copy=False))
        width, device = self.settings.draws, batch.input_ids.device

        def spread(column: npt.NDArray[np.generic], fill: float) -> Tensor:
            return torch.from_numpy(laid_out(lengths, column, width, fill)).to(device)

        return SampledTarget(
            ids=spread(ids, 0.0),
            counts=spread(counts, 0.0),
            log_weight=spread(columns["log_weight"], -np.inf) if weighted else None,
            draws=width,
            dtype=self.dtype,
        )

    def targets(self, batch: Batch, places: Int[Tensor, " N"]) -> SparseTarget:
        """Return the targets of positions of the flattened batch: the core's `targets`."""
        return self.target(batch).sparse(places)


def open_sampled(folder: Path, source: Source, settings: Draws) -> SampledCache | None:
    """Map a finished cache, None if there is none.

    Raises:
        UserError: a file is not what its description says, or the cache is of something else; names it.
    """
    store = open_store(folder, "sampled", settings.ingredients(source))
    return None if store is None else SampledCache(store=store, settings=settings, dtype=_dtype(source))


def build_sampled(
    folder: Path,
    source: Source,
    settings: Draws,
    teacher: RowTeacher,
    *,
    shard_size: int = SHARD_SIZE,
    on_progress: Callable[[int, int], None] | None = None,
) -> SampledCache:
    """Draw at every valid position and store the draws; goes on where an earlier build was cut off.

    Args:
        folder: where caches live.
        source: what to cache.
        settings: what to draw.
        teacher: the teacher; a `hidden` cache will do.
        shard_size: sequences per file, rounded up to whole batches.
        on_progress: called with sequences done and in all.
    """
    done, length = Done(on_progress, len(source.sequences)), int(source.tokens.ids.shape[1])
    assert len(teacher.head.weight) == settings.vocab_size, "the head is of the tokenizer's vocabulary"

    def make(sequences: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        lengths = torch.zeros((len(sequences), length), dtype=torch.int64)
        records = [torch.zeros((0, settings.record.num_bytes), dtype=torch.uint8)]
        log_weights = [torch.zeros(0, dtype=_dtype(source))]
        before = done.count
        for rows in teacher_rows(
            source, teacher, sequences, settings.temperature, lambda count: done.tell(before + count)
        ):
            keys = cells(rows.sequences, rows.positions)
            ids, counts = draw(
                rows.logprobs, streams(settings.seed, keys), draws=settings.draws, proposal=settings.proposal
            )
            drawn = counts > 0
            place = np.searchsorted(sequences, rows.sequences.cpu().numpy())
            lengths[torch.from_numpy(place), rows.positions.cpu()] = drawn.sum(dim=-1).cpu()
            packed = settings.record.pack(ids[drawn].cpu().numpy(), counts[drawn].cpu().numpy())
            records.append(torch.from_numpy(packed))
            if settings.proposal != 1.0:
                target = rs(
                    teacher_logprobs=rows.logprobs,
                    keys=keys,
                    draws=settings.draws,
                    proposal=settings.proposal,
                    seed=settings.seed,
                )
                assert target.log_weight is not None
                log_weights.append(target.log_weight[drawn].cpu())
        weighted = {"log_weight": torch.cat(log_weights)} if settings.proposal != 1.0 else {}
        return ragged(lengths, {"records": torch.cat(records), **weighted})

    build_store(
        folder,
        "sampled",
        settings.ingredients(source),
        make,
        source=source,
        batch_size=teacher.batch_size,
        shard_size=shard_size,
        on_shard=done.tell,
    )
    finished = open_sampled(folder, source, settings)
    assert finished is not None
    return finished


def _dtype(source: Source) -> torch.dtype:
    return torch.float64 if source.dtype == "float64" else torch.float32
