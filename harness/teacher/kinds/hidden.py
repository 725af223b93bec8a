"""The teacher's final hidden states, and its head: every signal and criterion stays exact without a teacher.

States cost hidden_size numbers per token. The head is applied to them on demand, to the rows a strategy needs; it is
stored once per teacher, whatever data its states are of.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.config.base import Scalar
from harness.data.tokens import Batch, sent
from harness.models import DTYPES, Head
from harness.teacher.files import Indices
from harness.teacher.kinds.rows import RowTeacher, Trunk
from harness.teacher.source import Source
from harness.teacher.store import Store

# B = sequences of a batch, L = positions, D = the teacher's hidden size


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """Final hidden states of every position."""

    name: ClassVar[str] = "hidden"
    title: ClassVar[str] = "teacher states"
    shard_size: ClassVar[int] = 64
    serves_part: ClassVar[bool] = True

    def ingredients(self, source: Source) -> dict[str, Scalar]:
        """Return everything the states depend on."""
        return source.ingredients

    def make(
        self, source: Source, asked: RowTeacher, sequences: Indices, on_batch: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Run the teacher's trunk over a shard."""
        states = []
        for start in range(0, len(sequences), asked.batch_size):
            index = torch.from_numpy(sequences[start : start + asked.batch_size])
            states.append(asked.trunk(source.tokens.batch(index)).to(DTYPES[source.dtype]).cpu())
            on_batch(start + len(index))
        return {"states": torch.cat(states)}

    def reader(self, store: Store) -> Trunk:
        """Return what gives a batch's states, on the batch's device."""
        dtype = DTYPES[str(store.meta.ingredients["dtype"])]

        def read(batch: Batch) -> Float[Tensor, "B L D"]:
            states = store.read("states", batch.index.numpy())
            return sent(torch.from_numpy(states).view(dtype), batch.input_ids.device)

        return read


@dataclass(frozen=True, kw_only=True)
class TeacherHead:
    """The teacher's head, over the tokenizer's vocabulary."""

    name: ClassVar[str] = "head"
    title: ClassVar[str] = "teacher's head"
    shard_size: ClassVar[None] = None
    serves_part: ClassVar[bool] = True

    def ingredients(self, source: Source) -> dict[str, Scalar]:
        """Return everything the head depends on: not the data."""
        return {"teacher": source.teacher, "tokenizer": source.tokenizer, "dtype": source.dtype}

    def make(
        self, source: Source, asked: Head, sequences: Indices, on_batch: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Return the head's matrix."""
        assert asked.weight.dtype == DTYPES[source.dtype], "the head is of the source's dtype"
        return {"weight": asked.weight}

    def reader(self, store: Store) -> Callable[[], Head]:
        """Return what gives the head, read once."""

        @functools.cache
        def read() -> Head:
            (name,) = store.meta.files
            # A copy: a tensor must not lie on pages that may not be written to.
            weight = torch.from_numpy(np.array(store.arrays(name)["weight"]))
            return Head(weight=weight.view(DTYPES[str(store.meta.ingredients["dtype"])]))

        return read
