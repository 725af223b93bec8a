"""Losses of other libraries on the same rows, where they are installed: TRL's generalised JSD, Liger's fused one.

Both at beta = 0, which is the forward KL, on every position with a target. Neither selects.
"""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from harness.config.errors import first_line
from harness.models import Head

# N = positions, D = a model's hidden size

# (student's rows, its head, teacher's rows, its head, next tokens) -> mean loss per row
OutsideLoss = Callable[[Float[Tensor, "N D"], Head, Float[Tensor, "N E"], Head, Int[Tensor, " N"]], Float[Tensor, ""]]

_MODULES = {"trl": "trl.experimental.gkd", "liger": "liger_kernel.chunked_loss"}


def installed(name: str) -> str | None:
    """Return why a library cannot be measured, None if it can."""
    try:
        _module(name)
    except (ImportError, RuntimeError) as error:
        return f"{name} left out ({first_line(error)}): pip install 'selective-kd-harness[outside]' to compare with it"
    return None


def outside_loss(name: str) -> OutsideLoss:
    """Return a library's loss; it must be installed."""
    return {"trl": _trl, "liger": _liger}[name]


def _trl(student: Tensor, student_head: Head, teacher: Tensor, teacher_head: Head, _: Tensor) -> Tensor:
    # Every row has a target, so no labels are given: they would only be asked which rows to leave out.
    loss = _module("trl").GKDTrainer.generalized_jsd_loss(
        student @ student_head.weight.T, teacher @ teacher_head.weight.T, beta=0.0, reduction="batchmean"
    )
    assert isinstance(loss, Tensor)
    return loss


def _liger(student: Tensor, student_head: Head, teacher: Tensor, teacher_head: Head, targets: Tensor) -> Tensor:
    fused = _module("liger").LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False
    )
    loss = fused(student, student_head.weight, teacher, teacher_head.weight, targets)
    assert isinstance(loss, Tensor)
    return loss


def _module(name: str) -> Any:
    with warnings.catch_warnings():
        # Their experimental parts warn on import that they may change; what is installed is in the report.
        warnings.simplefilter("ignore")
        return importlib.import_module(_MODULES[name])
