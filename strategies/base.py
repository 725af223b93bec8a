"""The contracts that strategies and the core share, and the few helpers every policy must agree on."""

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from strategies.noise import mix, uniform

# B = sequences, L = positions, N = flattened positions, V = vocabulary, U = classes kept, S = training sequences,
# K = kept sequences


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a policy decided.

    Attributes:
        weight: non-negative weight of every position; 0 where nothing is distilled.
        denom: what a sequence's weighted losses are divided by (the paper's Z_i); 0 for a sequence of which nothing is
            selected, which then counts for nothing in a mean over sequences.
    """

    weight: Float[Tensor, "B L"]
    denom: Float[Tensor, " B"]


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a policy may know besides scores.

    Attributes:
        budget: share of valid positions to keep, in (0, 1].
        progress: share of training done, in [0, 1).
        keys: one noise stream per sequence; the same whatever the batch split, padding or device.
        last_loss: the objective's value at the previous step, nats; None at the first. A tensor where it was computed,
            so that only a policy that reads it waits for it.
    """

    budget: float
    progress: float
    keys: Int[Tensor, " B"]
    last_loss: Tensor | float | None = None

    def uniform(self, num: int, *, stream: int = 0) -> Float[Tensor, "B num"]:
        """Return `num` uniform numbers in [0, 1) per sequence; every call of a step returns the same ones.

        Args:
            num: how many.
            stream: numbers of different streams are unrelated. Stream 0 is also what the signal `random` is made of, so
                a policy that draws by its scores needs another.
        """
        return uniform(mix(self.keys + stream) if stream else self.keys, num)


@runtime_checkable
class Policy(Protocol):
    """Turns scores into weights. State goes in and comes back out; nothing is kept on the policy."""

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: Any
    ) -> tuple[Selection, Any]:
        """Select positions.

        Args:
            scores: higher is more important; meaningless where not valid. Zeros for a policy that reads no scores.
            valid: positions that have a next-token target.
            ctx: budget, progress and noise.
            state: None at first, afterwards what the previous call returned; a checkpointable tree.
        """


@runtime_checkable
class SamplePolicy(Protocol):
    """Chooses, once before training, the training sequences that a trial learns from. A pure function."""

    def choose(self, scores: Float[Tensor, " S"], budget: float, noise: Float[Tensor, " S"]) -> Int[Tensor, " K"]:
        """Choose training sequences.

        Args:
            scores: one per training sequence, higher is more important. Zeros for a policy that reads no scores.
            budget: share of the sequences to keep, in (0, 1].
            noise: a uniform number in [0, 1) per sequence, a function of the trial's seed and the sequence's index.

        Returns:
            Indices of the kept sequences, ascending: exactly `sample_count(S, budget)` of them.
        """


@dataclass(frozen=True, kw_only=True)
class SparseTarget:
    """What is left of the teacher's rows on the class axis: masses on a few classes.

    Attributes:
        ids: the classes; a class with weight appears once in a row.
        weight: the target's mass on each, non-negative; 0 where a place is unused. Rows need not sum to 1.
        tail: mass of all other classes as one bucket, None for a target without one. A row with a tail has no unused
            places, because the student's bucket is everything outside `ids`.
        log_weight: log(weight) where it is known better than from `weight`, which has been rounded.
        log_tail: the same for `tail`.
    """

    ids: Int[Tensor, "N U"]
    weight: Float[Tensor, "N U"]
    tail: Float[Tensor, " N"] | None = None
    log_weight: Float[Tensor, "N U"] | None = None
    log_tail: Float[Tensor, " N"] | None = None

    def part(self, rows: slice) -> "SparseTarget":
        """Return some of the rows, as views."""
        return replace(self, **{name: value[rows] for name, value in vars(self).items() if value is not None})

    def log_mass(self) -> Float[Tensor, "N K"]:
        """Return the logarithms of the weights, and in one more column that of the tail if there is one."""
        logs = self.weight.log() if self.log_weight is None else self.log_weight
        if self.tail is None:
            return logs
        log_tail = self.tail.log() if self.log_tail is None else self.log_tail
        return torch.cat([logs, log_tail[:, None]], dim=-1)


def budget_count(valid: Bool[Tensor, "B L"], budget: float) -> Int[Tensor, " B"]:
    """Return ceil(budget * valid positions) for each sequence: at least 1 where there is any, at most all.

    The slack of 1e-6 keeps 0.07 * 100 = 7.000000000000001 at 7.
    """
    num_valid = valid.sum(dim=-1)
    return (num_valid.double() * budget - 1e-6).ceil().long().clamp(min=1).minimum(num_valid)


def budget_size(num_valid: int, budget: float) -> int:
    """Return `budget_count` of one sequence as a plain number, where its valid positions are known as one."""
    return min(max(math.ceil(num_valid * budget - 1e-6), 1), num_valid)


def sample_count(num: int, budget: float) -> int:
    """Return round(budget * num), at least 1: how many training sequences a budget keeps. Halves go to the even one."""
    return max(1, round(budget * num))


def keep_samples(order: Int[Tensor, " S"], count: int) -> Int[Tensor, " K"]:
    """Return the first `count` sequences of an order, by ascending index."""
    return order[:count].sort().values


def rank_scores(
    scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], *, descending: bool = True
) -> Int[Tensor, "B L"]:
    """Return each position's place in its sequence's order, 0 first; ties go to the earliest position.

    Invalid positions come after all valid ones, whatever their score.
    """
    order = scores.argsort(dim=-1, descending=descending, stable=True)
    # A second stable sort instead of masking with -inf: a valid score may itself be -inf.
    order = order.gather(-1, (~valid).gather(-1, order).to(torch.uint8).argsort(dim=-1, stable=True))
    return order.argsort(dim=-1)  # the argsort of a permutation is its inverse


def keep_first(rank: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], count: Int[Tensor, " B"]) -> Selection:
    """Select the `count` first-ranked valid positions of each sequence, weight 1 each."""
    weight = ((rank < count[:, None]) & valid).float()
    return Selection(weight=weight, denom=count.float())


def log_probs(logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    """Return log-probabilities in float32, or in float64 for float64 logits, whatever the model's dtype."""
    return logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def expectation(logprobs: Float[Tensor, "N V"], values: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Return sum_v exp(logprobs) * values, where a class of probability zero contributes zero.

    The mask is on the values, not on the product: 0 * inf would be nan, and so would its gradient.
    """
    probs = logprobs.exp()
    return (probs * values.masked_fill(probs == 0, 0.0)).sum(dim=-1)


def pick(logprobs: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the log-probability of each row's target."""
    return logprobs.gather(-1, targets[:, None]).squeeze(-1)


def log_rest(logprobs: Float[Tensor, "N V"], ids: Int[Tensor, "N U"]) -> Float[Tensor, " N"]:
    """Return the log of the probability outside `ids`, -inf if they are all classes.

    Summed from the other classes: log1p(-P) loses every digit where the kept classes hold nearly everything.
    """
    return logprobs.scatter(-1, ids, -torch.inf).logsumexp(dim=-1)
