"""RS-KD's draws, distinct ids and counts only; training from them needs no teacher at all.

Exactly the draws that sampling online would make, because they depend on the row, its place in the data and a seed.
They serve the class policy `rs` with the same draws, proposal, seed and temperature, and nothing else: an entropy or a
divergence estimated from so few classes would be biased.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.config.base import Scalar
from harness.data.tokens import Batch, sent
from harness.teacher.files import Indices
from harness.teacher.interface import Targets
from harness.teacher.kinds.bits import PairLayout, gather, laid_out, ragged
from harness.teacher.kinds.rows import RowTeacher, teacher_rows
from harness.teacher.source import Source
from harness.teacher.store import Store
from strategies.base import SparseTarget
from strategies.classes.rs import draw, from_counts, rs
from strategies.noise import cells, streams
from strategies.registry import CLASSES

# B = sequences of a batch, L = positions, U = draws, N = chosen positions


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
class StoredDraws:
    """Draws at every valid position.

    Attributes:
        draws: draws per position, RS-KD's N and the paper's U.
        proposal: exponent of the distribution drawn from; 1 is the teacher's own.
        seed: of the draws.
        temperature: of the teacher's distribution.
        vocab_size: its classes.
    """

    name: ClassVar[str] = "sampled"
    title: ClassVar[str] = "teacher draws"
    shard_size: ClassVar[int] = 256
    serves_part: ClassVar[bool] = False

    draws: int
    proposal: float
    seed: int
    temperature: float
    vocab_size: int

    @property
    def layout(self) -> PairLayout:
        """How a drawn class is stored."""
        return PairLayout(vocab_size=self.vocab_size, draws=self.draws)

    def ingredients(self, source: Source) -> dict[str, Scalar]:
        """Return everything the draws depend on, the source of the drawing function included."""
        return {
            **source.row_ingredients,
            "draws": self.draws,
            "proposal": float(self.proposal),
            "seed": self.seed,
            "temperature": float(self.temperature),
            "vocab_size": self.vocab_size,
            "function": CLASSES["rs"].digest,
        }

    def make(
        self, source: Source, asked: RowTeacher, sequences: Indices, on_batch: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Draw at every valid position of a shard."""
        assert len(asked.head.weight) == self.vocab_size, "the head is of the tokenizer's vocabulary"
        lengths = torch.zeros((len(sequences), int(source.tokens.ids.shape[1])), dtype=torch.int64)
        records = [torch.zeros((0, self.layout.num_bytes), dtype=torch.uint8)]
        log_weights = [torch.zeros(0, dtype=_dtype(source.dtype))]
        for rows in teacher_rows(source, asked, sequences, self.temperature, on_batch):
            keys = cells(rows.sequences, rows.positions)
            ids, counts = draw(rows.logprobs, streams(self.seed, keys), draws=self.draws, proposal=self.proposal)
            drawn = counts > 0
            lengths[rows.place] = drawn.sum(dim=-1).cpu()
            packed = self.layout.pack(ids[drawn].cpu().numpy(), counts[drawn].cpu().numpy())
            records.append(torch.from_numpy(packed))
            if self.proposal != 1.0:
                target = rs(
                    teacher_logprobs=rows.logprobs,
                    keys=keys,
                    draws=self.draws,
                    proposal=self.proposal,
                    seed=self.seed,
                )
                assert target.log_weight is not None
                log_weights.append(target.log_weight[drawn].cpu())
        weighted = {"log_weight": torch.cat(log_weights)} if self.proposal != 1.0 else {}
        return ragged(lengths, {"records": torch.cat(records), **weighted})

    def target(self, store: Store, batch: Batch) -> SampledTarget:
        """Return the draws of a batch, on the batch's device.

        Raises:
            UserError: the cache does not hold one of its sequences, or a file is damaged.
        """
        weighted = self.proposal != 1.0
        names = ("records", "log_weight") if weighted else ("records",)
        lengths, columns = gather(store, store.rows(batch.index.numpy()), names)
        ids, counts = self.layout.unpack(columns["records"].astype(np.uint8, copy=False))

        def spread(column: npt.NDArray[np.generic], fill: float) -> Tensor:
            return sent(torch.from_numpy(laid_out(lengths, column, self.draws, fill)), batch.input_ids.device)

        return SampledTarget(
            ids=spread(ids, 0.0),
            counts=spread(counts, 0.0),
            log_weight=spread(columns["log_weight"], -np.inf) if weighted else None,
            draws=self.draws,
            dtype=_dtype(str(store.meta.ingredients["dtype"])),
        )

    def reader(self, store: Store) -> Targets:
        """Return the core's `targets`: of positions of the flattened batch."""
        return lambda batch, places: self.target(store, batch).sparse(places)


def _dtype(teacher: str) -> torch.dtype:
    """Return the dtype of the masses."""
    return torch.float64 if teacher == "float64" else torch.float32
