"""What a process of its own runs in test_group.py: only what it needs is imported."""

import os
import signal
from pathlib import Path

import torch

from harness.distill.group import RankLostError, joined


def lose_the_other(rank: int, meeting: str) -> str:
    """Meet the other process; as the second one, die; as the first, say what became of it."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with joined(rank, 2, Path(meeting), timeout_s=120.0) as group:
        group.gather({rank: torch.ones(2)}, [2, 2])
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        parameter = torch.nn.Parameter(torch.ones(3))
        parameter.grad = torch.ones(3)
        try:
            group.add_gradients([parameter])
        except RankLostError as error:
            return str(error)
    return "nobody was missed"
