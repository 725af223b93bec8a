"""Shadow selections: what signals would have kept on the same states, and what any selection is like."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.distill.score import slices
from harness.models import Head
from strategies.base import budget_count, keep_first, log_probs, rank_scores
from strategies.cumulative import UNIT, cumulate
from strategies.registry import RAW_INPUTS, SIGNALS, TEACHER_INPUTS, order_signals

# N = positions, B = sequences, L = positions of a sequence, S = selections, D = a model's hidden size, V = vocabulary

# Entropies are counted in bins of this many nats, the last one open: it begins at the entropy of 163 000 equal classes.
BIN_NATS = 0.25
NUM_BINS = 48

# Parts that a sequence is cut into for the profile over its positions.
NUM_PARTS = 10


def shadow_signals(own: str | None, *, with_teacher: bool) -> tuple[str, ...]:
    """Return every registered signal that can be computed, each after its inputs.

    Args:
        own: the signal a trial ranks by, whose options the trial sets; others are taken at their defaults, and those
            that have an option without one are left out.
        with_teacher: whether there are states of the teacher.
    """
    at_hand = set(RAW_INPUTS if with_teacher else RAW_INPUTS - TEACHER_INPUTS)
    known: list[str] = []
    for name in order_signals(SIGNALS):
        asks = name != own and any(option.required for option in SIGNALS[name].options.values())
        if not asks and all(part in at_hand for part in SIGNALS[name].inputs):
            at_hand.add(name)
            known.append(name)
    return tuple(known)


def top_masks(
    scores: Mapping[str, Float[Tensor, "B L"]], valid: Bool[Tensor, "B L"], budget: float
) -> dict[str, Bool[Tensor, "B L"]]:
    """Return the positions that policy `top_k` keeps under each signal: ceil(budget * valid positions) per sequence."""
    count = budget_count(valid, budget)
    return {name: keep_first(rank_scores(score, valid), valid, count).weight > 0 for name, score in scores.items()}


def jaccard(masks: Bool[Tensor, "S B L"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "S S"]:
    """Return |A and B| / |A or B| of every two selections, mean over the sequences that have a valid position.

    Two selections that both keep nothing of a sequence agree on it: 1.
    """
    known = masks[:, valid.any(dim=-1)].transpose(0, 1).double()
    both = known @ known.transpose(1, 2)
    sizes = known.sum(dim=-1)
    either = sizes[:, :, None] + sizes[:, None, :] - both
    return (both / either).where(either > 0, 1.0).mean(dim=0)


def entropy_histogram(entropy: Float[Tensor, " N"]) -> Float[Tensor, " num_bins"]:
    """Return the share of positions in each bin of `BIN_NATS`; zeros without any position."""
    bins = (entropy.double() / BIN_NATS).long().clamp(0, NUM_BINS - 1)
    return torch.bincount(bins, minlength=NUM_BINS).double() / max(len(entropy), 1)


def position_profile(chosen: Bool[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, " num_parts"]:
    """Return the share of valid positions chosen in each tenth of the sequence; nan where a tenth has none."""
    length = valid.shape[-1]
    # The last position of a sequence has no next token, so the tenths are of the others.
    part = torch.arange(length, device=valid.device) * NUM_PARTS // max(length - 1, 1)
    part = part.clamp(max=NUM_PARTS - 1).expand(valid.shape)
    kept, seen = (torch.bincount(part[mask], minlength=NUM_PARTS).double() for mask in (chosen & valid, valid))
    return kept / seen


def effective_positions(weight: Float[Tensor, "B L"]) -> float:
    """Return (sum w)^2 / sum w^2, mean over the sequences of which something is selected; 0 if none is.

    It is the number of positions where all weights are alike, and less the more a few of them weigh.
    """
    exact = weight[(weight > 0).any(dim=-1)].double()
    if not len(exact):
        return 0.0
    return float((exact.sum(dim=-1).square() / exact.square().sum(dim=-1)).mean())


@torch.no_grad()
def top_mass(
    hidden: Float[Tensor, "N D"], head: Head, sizes: tuple[int, ...], *, chunk: int
) -> Float[Tensor, " num_sizes"]:
    """Return the probability of the k likeliest classes, summed over positions, for each k of `sizes`, ascending."""
    total = torch.zeros(len(sizes), dtype=torch.float64, device=hidden.device)
    places = torch.tensor(sizes, device=hidden.device) - 1
    for piece in slices(len(hidden), chunk):
        best = log_probs(hidden[piece] @ head.weight.T).topk(max(sizes), dim=-1).values
        total += cumulate(best.double().exp())[:, places].sum(dim=0).double() * UNIT
    return total


def extreme_tokens(seen: Int[Tensor, " V"], kept: Int[Tensor, " V"], *, least_seen: int, most: int) -> list[int]:
    """Return the tokens kept most and least often relative to their frequency, from the most to the least.

    Args:
        seen: how often each token was a target.
        kept: how often its position was selected.
        least_seen: tokens seen less often are left out: their shares are noise.
        most: tokens returned at most; beyond it, half are those kept most and half those kept least.
    """
    ids = (seen >= max(least_seen, 1)).nonzero()[:, 0].tolist()
    count, num_kept = seen.tolist(), kept.tolist()
    share = {token: num_kept[token] / count[token] for token in ids}
    best = sorted(ids, key=lambda token: (-share[token], -count[token], token))
    if len(best) > most:
        # Of tokens kept equally often the more frequent ones tell more, at either end.
        worst = sorted(best[most // 2 :], key=lambda token: (share[token], -count[token], token))
        best = best[: most // 2] + worst[: most - most // 2][::-1]
    return best
