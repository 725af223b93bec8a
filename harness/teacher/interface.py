"""Where the teacher's hidden states or its reduced rows come from during training: a cache, or the teacher itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from harness.data.tokens import Batch
from harness.models import Head, States
from strategies.base import SparseTarget

# B = sequences, L = positions, N = some of the B * L positions, D = the teacher's hidden size

# Sparse targets of positions of the flattened batch.
Targets = Callable[[Batch, Int[Tensor, " N"]], SparseTarget]

# Scores of a batch's valid positions, by signal.
StoredScores = Callable[[Batch], dict[str, Float[Tensor, " N"]]]


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A teacher as the core sees it.

    Attributes:
        hidden: returns the final hidden states of a batch; from a cache, or by running the trunk without gradients.
        head: its head.
        online: whether the trunk really runs, for the accounting.
        layers: returns states of layers inside the trunk too; None where only final states are at hand.
        scores: returns stored scores of a batch's valid positions, by signal; None where they are computed on demand.
    """

    hidden: Callable[[Batch], Float[Tensor, "B L D"]]
    head: Head
    online: bool
    layers: Callable[[Batch, Sequence[int]], States] | None = None
    scores: StoredScores | None = None
