"""What a signal that reads the teacher alone says of every position, once for all trials.

A strategy that ranks by it then applies the teacher's head to the selected positions only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from harness.config.base import Scalar
from harness.data.tokens import Batch, sent
from harness.teacher.files import Indices
from harness.teacher.kinds.rows import RowTeacher, teacher_rows
from harness.teacher.source import Source
from harness.teacher.store import Store
from strategies.registry import SIGNALS

# N = valid positions of a batch

# What a stored signal may read; others need the student, or logits that nobody stores.
INPUTS = frozenset({"teacher_logprobs", "targets"})

PositionScores = Callable[[Batch], Float[Tensor, " N"]]


@dataclass(frozen=True, kw_only=True)
class SignalScores:
    """Scores of every valid position.

    Attributes:
        signal: a row signal without options that reads nothing but `INPUTS`.
    """

    name: ClassVar[str] = "scores"
    shard_size: ClassVar[int] = 1024
    serves_part: ClassVar[bool] = True

    signal: str

    @property
    def title(self) -> str:
        """The signal's name."""
        return self.signal

    def ingredients(self, source: Source) -> dict[str, Scalar]:
        """Return everything the scores depend on."""
        return {**source.row_ingredients, "signal": self.signal, "digest": SIGNALS[self.signal].digest}

    def make(
        self, source: Source, asked: RowTeacher, sequences: Indices, on_batch: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Score every valid position of a shard."""
        component = SIGNALS[self.signal]
        assert set(component.inputs) <= INPUTS, "other signals are scored while training"
        dtype = torch.promote_types(asked.head.weight.dtype, torch.float32)
        laid = torch.zeros((len(sequences), int(source.tokens.ids.shape[1])), dtype=dtype)
        for rows in teacher_rows(source, asked, sequences, 1.0, on_batch):
            values = {"teacher_logprobs": rows.logprobs, "targets": rows.targets}
            scores = component.build(**{name: values[name] for name in component.inputs})
            assert isinstance(scores, Tensor)
            laid[rows.place] = scores.cpu()
        return {"scores": laid}

    def reader(self, store: Store) -> PositionScores:
        """Return what gives the scores of a batch's valid positions, on the batch's device."""

        def read(batch: Batch) -> Float[Tensor, " N"]:
            laid = torch.from_numpy(store.read("scores", batch.index.numpy()))
            return sent(laid.flatten(), batch.input_ids.device)[batch.places]

        return read
