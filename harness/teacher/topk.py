"""The `topk` cache: the teacher's k most likely classes with their log-probabilities, and the mass of all others.

What class policies that keep the largest classes need, and nothing else: an entropy of what is left is biased low, and
a divergence without the tail is none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
from strategies.base import SparseTarget, log_rest

# B = sequences of a batch, L = positions, K = classes kept

SHARD_SIZE = 256

_PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class TopK:
    """What was kept.

    Attributes:
        k: classes per position.
        precision: of the stored log-probabilities; the tail is float32.
        temperature: of the teacher's distribution.
        vocab_size: its classes.
    """

    k: int
    precision: Literal["float16", "bfloat16", "float32"]
    temperature: float
    vocab_size: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.vocab_size:
            raise ValueError(f"k must lie in [1, {self.vocab_size}], it is {self.k}")

    def ingredients(self, source: Source) -> dict[str, Scalar]:
        """Everything the content depends on."""
        return {
            **source.row_ingredients,
            "k": self.k,
            "precision": self.precision,
            "temperature": float(self.temperature),
            "vocab_size": self.vocab_size,
        }

    @property
    def record(self) -> Record:
        """How a class id is stored."""
        return Record(vocab_size=self.vocab_size)


@dataclass(frozen=True, kw_only=True)
class TopKTarget:
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
class TopKCache:
    """A finished cache, memory-mapped; any number of processes may read it.

    Attributes:
        store: its files.
        settings: what was kept.
    """

    store: Store
    settings: TopK

    def target(self, batch: Batch) -> TopKTarget:
        """Return the largest classes of a batch, on the batch's device.

        Raises:
            UserError: the cache does not hold one of its sequences, or a file is damaged.
        """
        names = ("ids", "logprobs", "log_tail")
        held, columns = gather(self.store, self.store.rows(batch.index.numpy()), names)
        k, device = self.settings.k, batch.input_ids.device
        ids, _ = self.settings.record.unpack(columns["ids"].reshape(-1, self.settings.record.num_bytes).view(np.uint8))
        stored = torch.from_numpy(columns["logprobs"]).view(_PRECISIONS[self.settings.precision]).float()
        logprobs = laid_out(held * k, stored.numpy().reshape(-1), k, -np.inf)
        return TopKTarget(
            ids=torch.from_numpy(laid_out(held * k, ids, k, 0.0)).to(device),
            logprobs=torch.from_numpy(logprobs).to(device),
            log_tail=torch.from_numpy(laid_out(held, columns["log_tail"], 1, -np.inf)[..., 0]).to(device),
        )


def open_topk(folder: Path, source: Source, settings: TopK) -> TopKCache | None:
    """Map a finished cache, None if there is none.

    Raises:
        UserError: a file is not what its description says, or the cache is of something else; names it.
    """
    store = open_store(folder, "topk", settings.ingredients(source))
    return None if store is None else TopKCache(store=store, settings=settings)


def build_topk(
    folder: Path,
    source: Source,
    settings: TopK,
    teacher: RowTeacher,
    *,
    shard_size: int = SHARD_SIZE,
    on_progress: Callable[[int, int], None] | None = None,
) -> TopKCache:
    """Store the largest classes of every valid position; goes on where an earlier build was cut off.

    Args:
        folder: where caches live.
        source: what to cache.
        settings: what to keep.
        teacher: the teacher; a `hidden` cache will do.
        shard_size: sequences per file, rounded up to whole batches.
        on_progress: called with sequences done and in all.
    """
    done, length = Done(on_progress, len(source.sequences)), int(source.tokens.ids.shape[1])
    assert len(teacher.head.weight) == settings.vocab_size, "the head is of the tokenizer's vocabulary"

    def make(sequences: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        held = torch.zeros((len(sequences), length), dtype=torch.int64)
        ids = [torch.zeros((0, settings.k, settings.record.num_bytes), dtype=torch.uint8)]
        logprobs = [torch.zeros((0, settings.k), dtype=_PRECISIONS[settings.precision])]
        tails = [torch.zeros(0)]
        before = done.count
        for rows in teacher_rows(
            source, teacher, sequences, settings.temperature, lambda count: done.tell(before + count)
        ):
            largest = rows.logprobs.topk(settings.k, dim=-1)
            flat = largest.indices.flatten().cpu().numpy()
            packed = settings.record.pack(flat, np.ones_like(flat)).reshape(-1, settings.k, settings.record.num_bytes)
            place = np.searchsorted(sequences, rows.sequences.cpu().numpy())
            held[torch.from_numpy(place), rows.positions.cpu()] = 1
            ids.append(torch.from_numpy(packed))
            logprobs.append(largest.values.to(_PRECISIONS[settings.precision]).cpu())
            tails.append(log_rest(rows.logprobs, largest.indices).float().cpu())
        return ragged(held, {"ids": torch.cat(ids), "logprobs": torch.cat(logprobs), "log_tail": torch.cat(tails)})

    build_store(
        folder,
        "topk",
        settings.ingredients(source),
        make,
        source=source,
        batch_size=teacher.batch_size,
        shard_size=shard_size,
        on_shard=done.tell,
    )
    finished = open_topk(folder, source, settings)
    assert finished is not None
    return finished
