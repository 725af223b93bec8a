"""The `scores` cache: what a signal that reads the teacher alone says of every position, once for all trials.

A strategy that ranks by it then applies the teacher's head to the selected positions only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from harness.data.tokens import Batch
from harness.teacher.files import Scalar
from harness.teacher.rows import RowTeacher, TeacherRows, teacher_rows
from harness.teacher.source import Done, Source
from harness.teacher.store import Store, build_store, open_store
from strategies.registry import SIGNALS

# B = sequences of a batch, L = positions, N = valid positions of a batch

# What a stored signal may read; others need the student, or logits that nobody stores.
INPUTS = frozenset({"teacher_logprobs", "targets"})

SHARD_SIZE = 1024


@dataclass(frozen=True, kw_only=True)
class ScoreCache:
    """A finished cache, memory-mapped; any number of processes may read it.

    Attributes:
        store: its files.
        signal: name of the signal.
    """

    store: Store
    signal: str

    def scores(self, batch: Batch) -> Float[Tensor, " N"]:
        """Return the scores of a batch's valid positions, on the batch's device.

        Raises:
            UserError: the cache does not hold one of its sequences, or a file is damaged.
        """
        laid = torch.from_numpy(self.store.read("scores", batch.index.numpy()))
        return laid.flatten().to(batch.input_ids.device)[batch.places]


def open_scores(folder: Path, source: Source, signal: str) -> ScoreCache | None:
    """Map a finished cache, None if there is none.

    Args:
        folder: where caches live.
        source: the teacher and the data.
        signal: a row signal without options that reads nothing but `INPUTS`.

    Raises:
        UserError: a file is not what its description says, or the cache is of something else; names it.
    """
    store = open_store(folder, "scores", _ingredients(source, signal))
    return None if store is None else ScoreCache(store=store, signal=signal)


def build_scores(
    folder: Path,
    source: Source,
    signal: str,
    teacher: RowTeacher,
    *,
    shard_size: int = SHARD_SIZE,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreCache:
    """Score every valid position; goes on where an earlier build was cut off.

    Args:
        folder: where caches live.
        source: the teacher and the data.
        signal: a row signal without options that reads nothing but `INPUTS`.
        teacher: the teacher; a `hidden` cache will do.
        shard_size: sequences per file, rounded up to whole batches.
        on_progress: called with sequences done and in all.
    """
    component, done = SIGNALS[signal], Done(on_progress, len(source.sequences))
    assert set(component.inputs) <= INPUTS, "other signals are scored while training"
    length, dtype = int(source.tokens.ids.shape[1]), torch.promote_types(teacher.head.weight.dtype, torch.float32)

    def score(rows: TeacherRows) -> Tensor:
        values = {"teacher_logprobs": rows.logprobs, "targets": rows.targets}
        found = component.build(**{name: values[name] for name in component.inputs})
        assert isinstance(found, Tensor)
        return found

    def make(sequences: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        laid, before = torch.zeros((len(sequences), length), dtype=dtype), done.count
        for rows in teacher_rows(source, teacher, sequences, 1.0, lambda count: done.tell(before + count)):
            place = torch.from_numpy(np.searchsorted(sequences, rows.sequences.cpu().numpy()))
            laid[place, rows.positions.cpu()] = score(rows).cpu()
        return {"scores": laid}

    build_store(
        folder,
        "scores",
        _ingredients(source, signal),
        make,
        source=source,
        batch_size=teacher.batch_size,
        shard_size=shard_size,
        on_shard=done.tell,
    )
    finished = open_scores(folder, source, signal)
    assert finished is not None
    return finished


def _ingredients(source: Source, signal: str) -> dict[str, Scalar]:
    return {**source.row_ingredients, "signal": signal, "digest": SIGNALS[signal].digest}
