"""What stored things are made with: a teacher's trunk and head, and its distributions a chunk of rows at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.data.tokens import Batch
from harness.models import Head
from harness.teacher.files import Indices
from harness.teacher.source import Source
from strategies.base import log_probs

# B = sequences of a batch, L = positions, D = the teacher's hidden size, N = valid positions of a chunk, V = vocabulary

# The teacher without its head.
Trunk = Callable[[Batch], Float[Tensor, "B L D"]]


@dataclass(frozen=True, kw_only=True)
class RowTeacher:
    """A teacher that is asked for hidden states and distributions.

    Attributes:
        trunk: returns final hidden states; by running the teacher, or from what is stored of it.
        head: its head; everything is computed where it is.
        batch_size: sequences per forward pass.
        chunk: rows of logits that exist at a time.
    """

    trunk: Trunk
    head: Head
    batch_size: int
    chunk: int


@dataclass(frozen=True, kw_only=True)
class TeacherRows:
    """Some valid positions, in the order of sequences and positions.

    Attributes:
        logprobs: the teacher's log-probabilities at the temperature asked for.
        targets: next tokens.
        sequences: which sequence of the data set each is in.
        positions: its place there.
        place: where each is in (asked sequences, L), on the CPU.
    """

    logprobs: Float[Tensor, "N V"]
    targets: Int[Tensor, " N"]
    sequences: Int[Tensor, " N"]
    positions: Int[Tensor, " N"]
    place: tuple[Int[Tensor, " N"], Int[Tensor, " N"]]


@torch.no_grad()
def teacher_rows(
    source: Source, teacher: RowTeacher, sequences: Indices, temperature: float, on_batch: Callable[[int], None]
) -> Iterator[TeacherRows]:
    """Walk through the valid positions of some sequences; `on_batch` is told the number of sequences done."""
    weight = teacher.head.weight
    for start in range(0, len(sequences), teacher.batch_size):
        batch = source.tokens.batch(torch.from_numpy(sequences[start : start + teacher.batch_size])).to(weight.device)
        hidden = teacher.trunk(batch).to(weight.dtype)[batch.valid]
        places, positions = batch.valid.nonzero(as_tuple=True)
        numbers, targets = batch.index.to(weight.device)[places], batch.targets[batch.valid]
        for first in range(0, len(hidden), teacher.chunk):
            piece = slice(first, first + teacher.chunk)
            logits = hidden[piece] @ weight.T
            yield TeacherRows(
                logprobs=log_probs(logits if temperature == 1.0 else logits / temperature),
                targets=targets[piece],
                sequences=numbers[piece],
                positions=positions[piece],
                place=((places[piece] + start).cpu(), positions[piece].cpu()),
            )
        on_batch(start + len(batch.index))
