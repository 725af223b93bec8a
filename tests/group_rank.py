"""What a process of its own runs in test_group.py: only what it needs is imported."""

import os
import signal
from pathlib import Path

import torch

from harness.distill.group import RankLostError, joined
from harness.distill.tally import Tally


def lose_the_other(rank: int, meeting: str) -> str:
    """Meet the other process; as the second one, die; as the first, say what became of it."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        with joined(rank, 2, Path(meeting), timeout_s=120.0) as group:
            group.gather({rank: torch.ones(2)}, [2, 2])
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            parameter = torch.nn.Parameter(torch.ones(3))
            parameter.grad = torch.ones(3)
            group.add_gradients([parameter])
    except RankLostError as error:
        return str(error)
    return "nobody was missed"


def run_out_of_memory(rank: int, meeting: str) -> str:
    """Meet the other process; as the second one, run out of memory; as the first, say what became of it."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        with joined(rank, 2, Path(meeting), timeout_s=120.0) as group:
            group.gather({rank: torch.ones(2)}, [2, 2])
            if rank == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            group.gather({rank: torch.ones(2)}, [2, 2])
    except (RankLostError, torch.OutOfMemoryError) as error:
        assert not torch.distributed.is_initialized()
        return f"{type(error).__name__}: {error}"
    return "nobody was missed"


def count_together(rank: int, meeting: str) -> tuple[float, float, int, int, int]:
    """Count with the other process, of which the first has tensors where the second, without rows, has zeros."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    mine = Tally(valid=3, supervised=torch.tensor(5), classes=torch.tensor(3)) if rank == 0 else Tally(valid=4)
    numerator, divisor = (torch.tensor(each, dtype=torch.float64) for each in ((3.0, 6.0), (1.0, 2.0))[rank])
    with joined(rank, 2, Path(meeting), timeout_s=120.0) as group:
        loss, over, whole = group.add_up(numerator, divisor, mine)
    counted = whole.read()
    return float(loss), float(over), counted.valid, counted.supervised, counted.classes
