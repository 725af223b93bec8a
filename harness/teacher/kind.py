"""What a kind of stored thing is: a name, what its content depends on, how it is made, and how it is read."""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from harness.config.base import Scalar
from harness.teacher.files import Indices
from harness.teacher.source import Source
from harness.teacher.store import Store

Asked = TypeVar("Asked", contravariant=True)
Read = TypeVar("Read", covariant=True)

# Every kind's name, the first part of its folders' names: what `harness cache` shows.
KINDS = ("head", "hidden", "prepass", "sampled", "scores", "topk")


@runtime_checkable
class Kind(Protocol[Asked, Read]):
    """One kind of thing that is made once of a data set, stored, and shared by all trials that read it.

    A kind is a value: its settings are part of it, and what it is made with (`Asked`: models, or stored states in a
    model's place) is handed in only where something is missing.
    """

    @property
    def name(self) -> str:
        """One of `KINDS`."""
        ...

    @property
    def title(self) -> str:
        """What is made, as a progress bar calls it."""
        ...

    @property
    def shard_size(self) -> int | None:
        """Sequences per file; None for something that is one file and not of sequences."""
        ...

    @property
    def serves_part(self) -> bool:
        """Whether what is stored of all sequences serves where some of them are asked for."""
        ...

    def ingredients(self, source: Source) -> dict[str, Scalar]:
        """Return everything that the content depends on: it names the cache."""
        ...

    def make(
        self, source: Source, asked: Asked, sequences: Indices, on_batch: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Compute the arrays of one file.

        Args:
            source: the data set.
            asked: what it is made with.
            sequences: which sequences of the data set the file holds, ascending.
            on_batch: called with the number of these that are done.
        """
        ...

    def reader(self, store: Store) -> Read:
        """Return what reads a finished cache."""
        ...
