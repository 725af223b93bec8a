"""Random sampling: a few draws from the teacher's distribution, an unbiased estimate of the forward KL's gradient."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from strategies.base import SparseTarget
from strategies.classes._draws import draw, from_counts
from strategies.noise import streams
from strategies.registry import classes

# N = flattened positions, V = vocabulary

__all__ = ["draw", "from_counts", "rs"]  # a cache of draws is made of the first two


@classes(
    "rs",
    source="arXiv:2503.16870 (RS-KD)",
    budget="draws",
    criteria=("forward_kl",),
    because="sampled classes estimate the gradient of the forward KL without bias, and of nothing else",
    fixed=True,
)
def rs(
    *,
    teacher_logprobs: Float[Tensor, "N V"],
    keys: Int[Tensor, " N"],
    draws: int,
    proposal: float = 1.0,
    seed: int = 0,
) -> SparseTarget:
    """Keep the classes drawn with replacement from r proportional to p^proposal, each draw weighing p / (r draws).

    With the student normalised over the full vocabulary, the expected gradient of the forward KL to this target is that
    of the forward KL to p. Its value is not: the loss of a sampled target is biased upwards, and is above 0 where the
    student equals the teacher. Weights are not normalised to sum to 1, which would bias the gradient too; with proposal
    1 they do anyway.

    Args:
        teacher_logprobs: log p at temperature 1.
        keys: one noise key per position of the training text (`strategies.noise.cells`).
        draws: number of draws; the number of distinct classes is smaller.
        proposal: exponent of r, above 0; 1 draws from p itself, less looks further into the tail.
        seed: of the draws. They belong to the data, so that every trial and every cache meets the same ones.

    Provenance:
        Code: SE-KD3x sekd/training/offline_cache.py:709-726
        Deviation: of the paper's own code nothing was read: at 9d0f381 its repository, akhilkedia/RandomSamplingKD,
            announces it. SE-KD's code draws 50 (offline_cache.py:29) and stores 17 bits of a class, which Qwen3's
            vocabulary exceeds; counts and classes are exact here
        Test: tests/strategies/test_classes.py::test_the_mean_gradient_over_draws_is_the_full_gradient
    """
    ids, counts = draw(teacher_logprobs, streams(seed, keys), draws=draws, proposal=proposal)
    if proposal == 1.0:
        return from_counts(ids, counts, draws=draws, dtype=teacher_logprobs.dtype)
    log_total = (teacher_logprobs * proposal).logsumexp(dim=-1, keepdim=True)
    log_ratio = (1.0 - proposal) * teacher_logprobs.gather(-1, ids) + log_total
    log_weight = (counts.to(log_ratio.dtype).log() + log_ratio - math.log(draws)).masked_fill(counts == 0, -torch.inf)
    return SparseTarget(ids=ids, weight=log_weight.exp(), log_weight=log_weight)
