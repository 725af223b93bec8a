"""Where the teacher's hidden states or its reduced rows come from during training: a cache, or the teacher itself."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from harness.data.tokens import Batch
from harness.models import Head
from strategies.base import SparseTarget

# B = sequences, L = positions, D = the teacher's hidden size

# Sparse targets of a batch's marked positions, in row-major order.
Targets = Callable[[Batch, Bool[Tensor, "B L"]], SparseTarget]


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A teacher as the core sees it.

    Attributes:
        hidden: returns the final hidden states of a batch; from a cache, or by running the trunk without gradients.
        head: its head.
        online: whether the trunk really runs, for the accounting.
    """

    hidden: Callable[[Batch], Float[Tensor, "B L D"]]
    head: Head
    online: bool
