"""Every class: the teacher's distribution itself, which the other class policies are compared with."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.base import SparseTarget
from strategies.registry import classes

# N = flattened positions, V = vocabulary


@classes("all", source="arXiv:1503.02531 (Hinton et al.), on every class", budget=None)
def all_classes(*, teacher_logprobs: Float[Tensor, "N V"]) -> SparseTarget:
    """Keep everything.

    A strategy that says so means the same as one that names no class policy, and is run as one, without this detour.

    Args:
        teacher_logprobs: log p.

    Provenance:
        Code: none: a definition
        Deviation: none known
        Test: tests/strategies/test_classes.py::test_keeping_every_class_is_the_forward_kl
    """
    ids = torch.arange(teacher_logprobs.shape[-1], device=teacher_logprobs.device).expand_as(teacher_logprobs)
    return SparseTarget(ids=ids, weight=teacher_logprobs.exp(), log_weight=teacher_logprobs)
