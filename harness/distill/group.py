"""The processes that train one student together: each takes a block of every global batch's micro-batches.

Each process holds the whole student and steps its own optimiser on the same sums, so weights are never sent. A student
for which that is too much is sharded: see `harness.distill.shards`. It is not DistributedDataParallel, whose hooks
would miss the head's gradient, which the chunked loss writes itself, and which divides by the number of processes,
where the denominator here is known only once every block has been selected from.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from harness.config.errors import first_line
from harness.distill.tally import UNREAD, Tally

# Gradients are summed a few at a time: what is copied for that stays small beside the model.
_BUCKET_BYTES = 64 * 2**20


class RankLostError(RuntimeError):
    """A process of the group ended, or could not be reached any more; a second attempt goes on from the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One process among those that train a student.

    Attributes:
        rank: its number, from 0; the first one saves, evaluates and reports.
        size: how many there are.
        sharded: whether they share the student's layers and its optimiser's state out among them.
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    def block(self, num: int) -> range:
        """Return which of a step's micro-batches are this process's: as many as the others', to within one."""
        return range(self.rank * num // self.size, (self.rank + 1) * num // self.size)

    def gather(self, mine: Mapping[int, Tensor], sizes: Sequence[int]) -> Tensor:
        """Return the values of all micro-batches, `sizes` long, in order; each process has its block's by number."""
        like = next(iter(mine.values()))
        whole = torch.cat([mine.get(number, like.new_zeros(size)) for number, size in enumerate(sizes)])
        if self.size > 1:
            dist.all_reduce(whole)  # a number and zeros: exact
        return whole

    def add_up(self, numerator: Tensor, divisor: Tensor, tally: Tally) -> tuple[Tensor, Tensor, Tally]:
        """Return the global loss, what it is divided by, and the tally of the whole batch."""
        if self.size == 1:
            return numerator, divisor, tally
        known = [name for name in vars(tally) if name not in UNREAD]
        counts = torch.tensor([getattr(tally, name) for name in known], dtype=torch.int64)
        dist.all_reduce(counts)
        # What only the device knows stays there. By name: a block without supervised rows has plain zeros.
        unread = [torch.as_tensor(getattr(tally, name)).to(numerator) for name in UNREAD]
        sums = torch.stack([numerator, divisor, *unread])
        dist.all_reduce(sums)
        whole = dict(zip((*known, *UNREAD), (*counts.tolist(), *sums[2:].long().unbind()), strict=True))
        return sums[0], sums[1], Tally(**whole)

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by the sum of all processes', summed in float32 at least.

        Those of sharded layers are sums from the moment they are made.
        """
        if self.size == 1:
            return
        from torch.distributed.tensor import DTensor

        # The same ones in every process: whether a parameter has a gradient depends on the objective alone.
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for bucket in _buckets([grad for grad in grads if not isinstance(grad, DTensor)]):
            wide = torch.promote_types(bucket[0].dtype, torch.float32)
            flat = torch.cat([grad.flatten().to(wide) for grad in bucket])
            dist.all_reduce(flat)
            for grad, part in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
                grad.copy_(part.view_as(grad))

    def agreed(self, decision: bool) -> bool:
        """Return the first process's decision, in every process that takes part in what follows from it."""
        if not self.sharded:
            return decision
        decided = torch.tensor(decision)
        dist.broadcast(decided, src=0)
        return bool(decided)


ALONE = Group()


@contextmanager
def joined(rank: int, size: int, meeting: Path, *, sharded: bool = False, timeout_s: float = 1800.0) -> Iterator[Group]:
    """Meet the other processes of a group, and leave them at the end.

    Args:
        rank: this process's number, from 0.
        size: how many there are; with 1 nobody is met.
        meeting: a file that all of them can write; made here, new for every group.
        sharded: whether they share the student out.
        timeout_s: how long a process waits for the others before it takes them for lost.

    Raises:
        RankLostError: the others did not come, or one of them cannot be reached any more.
    """
    if size == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store = dist.FileStore(str(meeting), size)  # type: ignore[attr-defined]  # public, but not in its __all__
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s))
    except RuntimeError as error:
        raise RankLostError(f"process {rank} of {size} met nobody at {meeting}: {error}") from None
    try:
        with _left():
            yield Group(rank=rank, size=size, sharded=sharded)
    except RuntimeError as error:
        # The library has no one type for it: its backend for CPUs says who it is in the text alone.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise RankLostError(f"process {rank} of {size} lost the others: {first_line(error)}") from None


@contextmanager
def _left() -> Iterator[None]:
    """Leave the group at the end: in order, or at once after an error, when the others wait for what never comes."""
    try:
        yield
    except BaseException:
        world = dist.group.WORLD
        assert world is not None, "the processes have met"
        world.abort()
        raise
    finally:
        dist.destroy_process_group()


def _buckets(grads: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield gradients of one dtype, in order, a bucket's bytes at a time."""
    bucket: list[Tensor] = []
    for grad in grads:
        if bucket and (bucket[0].dtype != grad.dtype or sum(each.nbytes for each in bucket) >= _BUCKET_BYTES):
            yield bucket
            bucket = []
        bucket.append(grad)
    if bucket:
        yield bucket
