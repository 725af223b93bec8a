"""The teacher's k most likely classes with their log-probabilities, and the mass of all others.

What class policies that keep the largest classes need, and nothing else: an entropy of what is left is biased low, and
a divergence without the tail is none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
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
from strategies.base import SparseTarget, log_rest

# B = sequences of a batch, L = positions, K = classes kept

_PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class TopClassesTarget:
    """The largest classes at every position of a batch; meaningless where a position has no target.

    Attributes:
        ids: classes by descending probability.
        logprobs: their log-probabilities over the full vocabulary, as precise as they were stored; -inf where a
            position has no target.
        log_tail: log of the probability of all other classes; -inf where there are none.
    """

    ids: Int[Tensor, "B L K"]
    logprobs: Float[Tensor, "B L K"]
    log_tail: Float[Tensor, "B L"]

    def sparse(self, places: Int[Tensor, " N"], *, tail: bool, renormalise: bool) -> SparseTarget:
        """Return the target of positions of the flattened batch, as `top_k_tail` (`tail`) and `top_k` make it.

        Args:
            places: which positions.
            tail: whether the other classes are a bucket of their own.
            renormalise: without it, whether the kept masses are scaled to sum to 1.
        """
        columns = (self.ids, self.logprobs, self.log_tail)
        ids, log_weight, log_tail = (column.flatten(0, 1)[places] for column in columns)
        if renormalise and not tail:
            log_weight = log_weight.log_softmax(dim=-1)
        if not tail:
            return SparseTarget(ids=ids, weight=log_weight.exp(), log_weight=log_weight)
        return SparseTarget(
            ids=ids, weight=log_weight.exp(), tail=log_tail.exp(), log_weight=log_weight, log_tail=log_tail
        )


@dataclass(frozen=True, kw_only=True)
class TopClasses:
    """The largest classes at every valid position.

    Attributes:
        k: classes per position.
        precision: of the stored log-probabilities; the tail is float32.
        temperature: of the teacher's distribution.
        vocab_size: its classes.
        tail: whether targets that are read have the other classes as a bucket of their own.
        renormalise: without it, whether the kept masses are scaled to sum to 1.
    """

    name: ClassVar[str] = "topk"
    title: ClassVar[str] = "teacher's largest classes"
    shard_size: ClassVar[int] = 256
    serves_part: ClassVar[bool] = False

    k: int
    precision: Literal["float16", "bfloat16", "float32"]
    temperature: float
    vocab_size: int
    tail: bool = False
    renormalise: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.vocab_size:
            raise ValueError(f"k must lie in [1, {self.vocab_size}], it is {self.k}")

    @property
    def layout(self) -> PairLayout:
        """How a class id is stored."""
        return PairLayout(vocab_size=self.vocab_size)

    def ingredients(self, source: Source) -> dict[str, Scalar]:
        """Return everything the content depends on: not how it is read."""
        return {
            **source.row_ingredients,
            "k": self.k,
            "precision": self.precision,
            "temperature": float(self.temperature),
            "vocab_size": self.vocab_size,
        }

    def make(
        self, source: Source, asked: RowTeacher, sequences: Indices, on_batch: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Keep the largest classes of every valid position of a shard."""
        assert len(asked.head.weight) == self.vocab_size, "the head is of the tokenizer's vocabulary"
        kept = torch.zeros((len(sequences), int(source.tokens.ids.shape[1])), dtype=torch.int64)
        ids = [torch.zeros((0, self.k, self.layout.num_bytes), dtype=torch.uint8)]
        logprobs = [torch.zeros((0, self.k), dtype=_PRECISIONS[self.precision])]
        tails = [torch.zeros(0)]
        for rows in teacher_rows(source, asked, sequences, self.temperature, on_batch):
            largest = rows.logprobs.topk(self.k, dim=-1)
            flat = largest.indices.flatten().cpu().numpy()
            packed = self.layout.pack(flat, np.ones_like(flat)).reshape(-1, self.k, self.layout.num_bytes)
            kept[rows.place] = 1
            ids.append(torch.from_numpy(packed))
            logprobs.append(largest.values.to(_PRECISIONS[self.precision]).cpu())
            tails.append(log_rest(rows.logprobs, largest.indices).float().cpu())
        return ragged(kept, {"ids": torch.cat(ids), "logprobs": torch.cat(logprobs), "log_tail": torch.cat(tails)})

    def target(self, store: Store, batch: Batch) -> TopClassesTarget:
        """Return the largest classes of a batch, on the batch's device.

        Raises:
            UserError: the cache does not hold one of its sequences, or a file is damaged.
        """
        kept, columns = gather(store, store.rows(batch.index.numpy()), ("ids", "logprobs", "log_tail"))
        k, device = self.k, batch.input_ids.device
        ids, _ = self.layout.unpack(columns["ids"].reshape(-1, self.layout.num_bytes).view(np.uint8))
        stored = torch.from_numpy(columns["logprobs"]).view(_PRECISIONS[self.precision]).float()
        logprobs = laid_out(kept * k, stored.numpy().reshape(-1), k, -np.inf)
        return TopClassesTarget(
            ids=sent(torch.from_numpy(laid_out(kept * k, ids, k, 0.0)), device),
            logprobs=sent(torch.from_numpy(logprobs), device),
            log_tail=sent(torch.from_numpy(laid_out(kept, columns["log_tail"], 1, -np.inf)[..., 0]), device),
        )

    def reader(self, store: Store) -> Targets:
        """Return the core's `targets`: of positions of the flattened batch."""

        def read(batch: Batch, places: Int[Tensor, " N"]) -> SparseTarget:
            return self.target(store, batch).sparse(places, tail=self.tail, renormalise=self.renormalise)

        return read
