"""What the core is held against: every logit at once, plain torch, autograd, no code of the core."""

import copy
import itertools
import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Pair
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.config import Choice, Optimisation, Strategy
from harness.config.expand import presets
from harness.config.seeds import derive
from harness.config.strategy import read_strategy
from harness.data.tokens import Batch
from harness.distill.objective import compile_strategy
from harness.distill.step import Core, StepResult, accumulate
from strategies.noise import cells, mix, streams, uniform
from strategies.registry import CRITERIA, POLICIES, SIGNALS, raw_inputs

OPTIONS: dict[str, dict[str, Any]] = {
    preset.criterion.name: dict(preset.criterion.options) for preset in presets().values() if preset.train
}


def reference(name: str, student: Tensor, teacher: Tensor, targets: Tensor, options: dict[str, Any]) -> Tensor:
    """Return one loss per row of logits; a weight that no gradient passes through is detached here too."""
    p, q = F.softmax(teacher, dim=-1), F.softmax(student, dim=-1)
    if name == "cross_entropy":
        return F.cross_entropy(student, targets, reduction="none")
    if name in ("jsd", "skewed_forward_kl", "skewed_reverse_kl"):
        return mixture_reference(name, p, q, **options)
    if name in ("at_kd", "dkd"):
        return torch.stack([gold_reference(name, i, p, q, int(y), **options) for i, y in enumerate(targets)])
    forward, reverse = (p * (p / q).log()).sum(-1), (q * (q / p).log()).sum(-1)
    if name == "eopd":
        return torch.where(-(p * p.log()).sum(-1) > options["threshold"], reverse + forward, reverse)
    if name == "akl":
        share = torch.stack([akl_share(p[i], q[i].detach(), options["head"]) for i in range(len(p))])
        return share * forward + (1 - share) * reverse
    if name == "todi":
        up, down = (p / (p + q)).detach(), (q / (p + q)).detach()
        return (up * p * (p / q).log() + down * q * (q / p).log()).sum(-1)
    if name == "dpkd":
        rows = torch.arange(len(p))
        t, s = p.argmax(-1), q.argmax(-1)
        gap = (q[rows, t] / q[rows, s]).log() - (p[rows, t] / p[rows, s]).log()
        return -(1 / (1 + (-options["beta"] * gap).exp())).log()
    if name == "ab_divergence":
        return ab_reference(p, q, **options)
    if name == "amid":
        s, share = (1 - options["alpha"]) / 2, options["share"]
        r = (share * p**s + (1 - share) * q**s) ** (1 / s)
        r = r / r.sum(-1, keepdim=True)
        return (p * (p / r).log()).sum(-1) if options["divergence"] == "forward_kl" else ab_reference(p, r, 0.2, 0.7)
    if name == "local_reverse_kl":
        return torch.stack([local_reference(p[i], q[i], **options) for i in range(len(p))])
    if name == "csd":
        known = {"teacher": p, "student": q.detach(), "uniform": torch.full_like(p, 1 / p.shape[1])}
        w, v = known[options["first"]], known[options["second"]]
        d = teacher - student
        pairs = (d[:, :, None] - d[:, None, :]).square()
        return (w[:, :, None] * v[:, None, :] * pairs).sum((1, 2)) / 2
    return {
        "forward_kl": forward,
        "reverse_kl": reverse,
        "symmetric_kl": ((p - q) * (p / q).log()).sum(-1) / 2,
        "tvd": 1 - torch.minimum(p, q).sum(-1),
        "squared_hellinger": 1 - (p * q).sqrt().sum(-1),
    }[name]


def ab_reference(p: Tensor, q: Tensor, alpha: float, beta: float) -> Tensor:
    s = alpha + beta
    return (alpha / s * p**s + beta / s * q**s - p**alpha * q**beta).sum(-1) / (alpha * beta)


def local_reference(p: Tensor, q: Tensor, support: str, num: int) -> Tensor:
    theirs, ours = ({*each.detach().argsort(descending=True)[:num].tolist()} for each in (p, q))
    kept = {"teacher": theirs, "student": ours, "intersection": theirs & ours, "union": theirs | ours}[support]
    if not kept:
        return 0 * q.sum()
    p, q = (each[sorted(kept)] / each[sorted(kept)].sum() for each in (p, q))
    return (q * (q / p).log()).sum()


def mixture_reference(name: str, p: Tensor, q: Tensor, *, alpha: float = 0.0, beta: float = 0.0) -> Tensor:
    if name == "skewed_forward_kl":
        return (p * (p / (alpha * p + (1 - alpha) * q)).log()).sum(-1)
    if name == "skewed_reverse_kl":
        return (q * (q / (alpha * q + (1 - alpha) * p)).log()).sum(-1)
    m = beta * p + (1 - beta) * q
    forward, reverse = (p * (p / m).log()).sum(-1), (q * (q / m).log()).sum(-1)
    # At the ends, the direction that the divergence turns into.
    return forward if beta == 0 else reverse if beta == 1 else beta * forward + (1 - beta) * reverse


def gold_reference(
    name: str,
    i: int,
    p: Tensor,
    q: Tensor,
    y: int,
    *,
    alpha: float = 0.0,
    beta: float = 0.0,
    hard_fraction: float = 0.0,
    easy_weight: float = 0.0,
) -> Tensor:
    """DKD or AT-KD of row i; the last rows are the hard ones, as `compare` ranks them."""
    others = [v for v in range(p.shape[1]) if v != y]
    p_rest, q_rest = p[i, others].sum(), q[i, others].sum()
    tckd = p[i, y] * (p[i, y] / q[i, y]).log() + p_rest * (p_rest / q_rest).log()
    p_others, q_others = p[i, others] / p_rest, q[i, others] / q_rest
    nckd = (p_others * (p_others / q_others).log()).sum()
    if name == "dkd":
        return alpha * tckd + beta * nckd
    hard = i / len(p) >= 1 - hard_fraction
    return (1 - easy_weight) * (tckd + nckd) if hard else easy_weight * nckd


def akl_share(p: Tensor, q: Tensor, head: float) -> Tensor:
    mass, within = 0.0, torch.zeros((), dtype=p.dtype)
    for place, v in enumerate(sorted(range(len(p)), key=lambda v: -float(p[v]))):
        mass += float(p[v])
        if place == 0 or mass <= head + 1e-6:
            within = within + (p[v] - q[v]).abs()
    return within / (p - q).abs().sum()


def way(name: str) -> Hashable:
    """Return what decides which way the core takes with a preset: the formulas of criteria and signals do not."""
    preset = presets()[name]
    assert preset.position is not None
    assert preset.criterion is not None
    signal = SIGNALS[preset.position.signal.name] if preset.position.signal else None
    return (
        preset.position.policy.name,
        signal and (signal.traits["scope"], frozenset(raw_inputs(signal))),
        CRITERIA[preset.criterion.name].inputs,
        preset.classes and preset.classes.name,
        preset.feature is None,
        preset.temperature.name if isinstance(preset.temperature, Choice) else None,
        preset.rollout is None,
        preset.flow,
    )


SPLITS = ([6], [1, 1, 1, 1, 1, 1], [4, 2])


def may_ask(preset: Strategy) -> bool:
    """Whether a step has to read what it computed: an unknown number of rows, quantiles of the valid, the last loss."""
    quantiles = {"tip_soft_or", "tip_q3", "teachability", "fire"} & set(compile_strategy(preset).scored)
    policy = preset.position.policy.name
    return POLICIES[policy].traits["keeps"] == "varies" or policy == "latf" or bool(quantiles)


def variant(base: str | Strategy, **changes: Any) -> Strategy:
    """Change fields of a preset or a strategy, checked again."""
    start = presets()[base] if isinstance(base, str) else base
    return read_strategy({**start.model_dump(), **changes})


@dataclass(frozen=True)
class Gradients:
    """A step's outcome, taken off the model."""

    loss: float
    grads: dict[str, Tensor]
    result: StepResult | None = None


def oracle_scores(signal: str, log_p: Tensor, log_q: Tensor, targets: Tensor, valid: Tensor, **options: Any) -> Tensor:
    p, q = log_p.exp(), log_q.exp()
    gold = targets[..., None]
    p_gold, q_gold = p.gather(-1, gold)[..., 0], q.gather(-1, gold)[..., 0]
    scores = {
        "student_entropy": -(q * log_q).sum(-1),
        "teacher_entropy": -(p * log_p).sum(-1),
        "student_ce": -log_q.gather(-1, gold)[..., 0],
        "teacher_ce": -log_p.gather(-1, gold)[..., 0],
        "kl": (p * (log_p - log_q)).sum(-1),
        "reverse_kl": (q * (log_q - log_p)).sum(-1),
        "hellinger": (1 - (p * q).sqrt().sum(-1)).clamp(min=0).sqrt(),
        "excess_loss": (p_gold / q_gold).log(),
        "dial": (p_gold - q_gold).abs(),
        "student_entropy_normalised": -(q * log_q).sum(-1) / math.log(q.shape[-1]),
    }
    scores["ea_kd"] = scores["teacher_entropy"] * (1 + scores["student_entropy_normalised"]) / 2
    if signal in scores:
        return scores[signal]
    if signal == "teacher_entropy_rank":
        places = [(i, t) for i, t in valid.nonzero().tolist()]
        ranks = torch.zeros(valid.shape, dtype=torch.float64)
        for rank, place in enumerate(sorted(places, key=lambda place: float(scores["teacher_entropy"][place]))):
            ranks[place] = rank / (len(places) - 1)
        return ranks
    if signal == "accepted":
        likely = [[sorted(range(q.shape[-1]), key=lambda v: -float(row[v]))[:5] for row in rows] for rows in p]
        best = q.argmax(-1).tolist()
        found = [[v in five for v, five in zip(*each, strict=True)] for each in zip(best, likely, strict=True)]
        weights = [[1.0 if each else options["rejected"] for each in row] for row in found]
        return torch.tensor(weights, dtype=torch.float64)
    if signal == "ier":
        return torch.stack(
            [
                torch.stack([oracle_ier(p[i, t], q[i, t], int(targets[i, t])) for t in range(p.shape[1])])
                for i in range(len(p))
            ]
        )
    if signal == "fire":
        return oracle_fire(scores, valid)
    if signal == "teachability":
        mass = p.gather(-1, q.topk(16, dim=-1).indices).sum(-1)
        return oracle_scaled(scores["kl"], valid, 0.05, 0.95) * oracle_scaled(mass, valid, 0.05, 0.95)
    entropy = oracle_scaled(scores["student_entropy_normalised"], valid)
    if signal == "tip_q3":
        return scores["kl"] * (1 - entropy)
    assert signal == "tip_soft_or"
    divergence = oracle_scaled(scores["reverse_kl"], valid)
    return entropy + divergence - entropy * divergence


def oracle_ier(p: Tensor, q: Tensor, y: int) -> Tensor:
    """Return signal to noise of one position over its candidates."""
    best = [sorted(range(len(row)), key=lambda v: -float(row[v]))[:16] for row in (p, q)]
    kept = sorted({*best[0], *best[1], y})
    p, q = p[kept] / p[kept].sum(), q[kept] / q[kept].sum()
    r, leverage = (q / p).log(), 1 / q - 1
    baseline, variance = (q * r * leverage).sum() / (q * leverage).sum(), (q * (r - (q * r).sum()) ** 2).sum()
    return variance / ((q * (r - baseline) ** 2 * leverage).sum() - variance)


def oracle_fire(scores: dict[str, Tensor], valid: Tensor) -> Tensor:
    """Return weights of mean 1, and 0 in the fifth of the sequences that the teacher finds least likely."""
    sure, undecided = (scores[name] / scores[name][valid].max() for name in ("teacher_entropy", "student_entropy"))
    weight = (2 - sure) * (1 + undecided)
    weight = weight / weight[valid].mean()
    likely = {
        row: -float(scores["teacher_ce"][row][valid[row]].mean()) for row in range(len(valid)) if valid[row].any()
    }
    for row, each in likely.items():
        if each < np.quantile(list(likely.values()), 0.2):
            weight[row] = 0.0
    return weight


def oracle_scaled(values: Tensor, valid: Tensor, low: float = 0.0, high: float = 0.98) -> Tensor:
    """Clip at two percentiles of the valid values, the 98th if nothing else is said, and scale to 0..1."""
    known = values[valid].numpy()
    least, most = float(np.quantile(known, low)), float(np.quantile(known, high))
    return (values.clamp(least, most) - least) / (most - least)


def oracle_temperature(
    strategy: Strategy, log_p: Tensor, log_q: Tensor, targets: Tensor, valid: Tensor, progress: float
) -> Tensor:
    """Return every position's temperature."""
    choice = strategy.temperature
    if not isinstance(choice, Choice):
        return torch.full(valid.shape, choice, dtype=torch.float64)
    options: dict[str, Any] = choice.options
    if choice.name == "linear":
        value = options["start"] * (1 - progress) + options["end"] * progress
        return torch.full(valid.shape, value, dtype=torch.float64)
    if choice.name == "idts":
        s = oracle_scores("hellinger", log_p, log_q, targets, valid)
        middle = sorted(s[valid].tolist())[(int(valid.sum()) - 1) // 2]
        return options["base"] * torch.exp(-options["strength"] * torch.tanh((s / middle).log()))
    assert choice.name == "egad"
    u = oracle_scores("teacher_entropy_rank", log_p, log_q, targets, valid)
    return options["low"] + (options["high"] - options["low"]) * (u if options["hot"] == "hard" else 1 - u)


def oracle_feature(strategy: Strategy, pair: Pair, batch: Batch, score: Tensor | None, *, seed: int) -> Tensor:
    """Return what the branch on final hidden states adds to every position's loss."""
    feature = strategy.feature
    assert feature is not None
    ours = pair.student.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    with torch.no_grad():
        theirs = pair.teacher.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    generator = torch.Generator().manual_seed(derive(seed, "feature projection"))
    weight = torch.empty((theirs.shape[-1], ours.shape[-1])).normal_(std=ours.shape[-1] ** -0.5, generator=generator)
    projected = torch.einsum("ds,bls->bld", weight.double(), ours)
    if feature.distance.name == "cosine":
        distance = 1 - F.cosine_similarity(projected, theirs, dim=-1)
    else:
        centred = [each - each.mean(-1, keepdim=True) for each in (projected, theirs)]
        scaled = [each / (each.square().mean(-1, keepdim=True) + 1e-5).sqrt() for each in centred]
        distance = (scaled[0] - scaled[1]).square().mean(-1)
    return feature.weight * (distance if score is None else distance * (score > feature.above))


def oracle_weights(
    strategy: Strategy, scores: Tensor | None, valid: Tensor, noise: Tensor, draws: Tensor, progress: float
) -> tuple[Tensor, Tensor]:
    """Return weights and what each sequence's losses are divided by, at the first step a policy sees."""
    policy, budget = strategy.position.policy.name, strategy.position.budget
    weights = torch.zeros(valid.shape, dtype=torch.float64)
    divisors = torch.zeros(len(valid), dtype=torch.float64)
    options = strategy.position.policy.options
    for row in range(len(valid)):
        places = [t for t in range(valid.shape[1]) if valid[row, t]]
        if policy in ("all", "latf"):  # latf keeps everything in its first steps
            for t in places:
                weights[row, t] = 1.0
        elif policy == "raw_weights":
            assert scores is not None
            for t in places:
                weights[row, t] = scores[row, t]
            divisors[row] = len(places) if weights[row].any() else 0
            continue
        elif policy == "position_weights":
            floor, centre, width = (float(options[name]) for name in ("floor", "centre", "width"))
            for number, t in enumerate(places):
                share = (number + 0.5) / len(places)
                weights[row, t] = floor + (1 - floor) / (1 + math.exp((centre - share) / width))
            divisors[row] = len(places)
            continue
        elif policy == "past_weights":
            assert scores is not None
            sizes = [abs(float(scores[row, t])) for t in places]
            for number, t in enumerate(places):
                weights[row, t] = 1 + float(options["gain"]) * (1 - sum(sizes[:number]) / sum(sizes))
            divisors[row] = len(places)
            continue
        elif policy in ("batch_top_k", "batch_top_k_each"):
            assert scores is not None
            assert budget is not None
            every = sorted(valid.nonzero().tolist(), key=lambda place: (-float(scores[*place]), place))
            best = every[: math.ceil(budget * len(every) - 1e-6)]
            mine = [t for i, t in every if i == row]
            for t in {*(t for i, t in best if i == row), *mine[: int(options.get("least", 0))]}:
                weights[row, t] = 1.0
        elif policy in ("first", "first_n"):
            num = options["num"] if policy == "first_n" else math.ceil(float(budget or 0) * len(places) - 1e-6)
            for t in places[: int(num)]:
                weights[row, t] = 1.0
        elif policy == "tilt":
            assert scores is not None
            mass = [(1 - progress) * (1 - float(scores[row, t])) + progress * float(scores[row, t]) for t in places]
            for t, each in zip(places, mass, strict=True):
                weights[row, t] = each * len(places) / sum(mass)
        elif policy == "weighted":
            assert scores is not None
            mean = sum(float(scores[row, t]) for t in places) / max(len(places), 1)
            for t in places:
                weights[row, t] = float(scores[row, t]) / mean
        elif policy in ("pos_rs", "pos_rs_corrected"):
            assert scores is not None
            assert budget is not None
            count, total = math.ceil(budget * len(places) - 1e-6), sum(float(scores[row, t]) for t in places)
            ladder = list(itertools.accumulate(float(scores[row, t]) / total for t in places))
            for number in draws[row, :count].tolist():
                t = places[next(place for place, top in enumerate(ladder) if number < top)]
                r = float(scores[row, t]) / total
                weights[row, t] += 1.0 if policy == "pos_rs" else 1.0 / (len(places) * r)
            divisors[row] = count
            continue
        else:
            ranked = noise if policy == "random" else scores
            assert ranked is not None
            if policy == "sampled":
                ranked = (1 - draws).log() / ranked
            assert budget is not None
            count = math.ceil(budget * len(places) - 1e-6)
            skipped = 0
            if policy == "curriculum":
                done = min(1.0, progress / float(options["ramp"])) ** float(options["power"])
                skipped = len(places) - count - math.floor((len(places) - count) * done + 1e-9)
            for t in sorted(places, key=lambda t: (-float(ranked[row, t]), t))[skipped : skipped + count]:
                weights[row, t] = 1.0
        divisors[row] = weights[row].sum()
    return weights, divisors


def oracle_at_kd(log_p: Tensor, log_q: Tensor, targets: Tensor, hard: Tensor, easy_weight: float) -> Tensor:
    gold = F.one_hot(targets, log_p.shape[-1]).bool()
    p, q = log_p.exp(), log_q.exp()
    p_gold, q_gold = p[gold].view(targets.shape), q[gold].view(targets.shape)
    tckd = p_gold * (p_gold / q_gold).log() + (1 - p_gold) * ((1 - p_gold) / (1 - q_gold)).log()
    p_others, q_others = p / (1 - p_gold[..., None]), q / (1 - q_gold[..., None])
    nckd = (p_others * (p_others / q_others).log()).masked_fill(gold, 0.0).sum(-1)
    return torch.where(hard, (1 - easy_weight) * (tckd + nckd), easy_weight * nckd)


def oracle_class_weights(classes: Choice, log_p: Tensor, sequence: int, position: int) -> Tensor:
    """Return one row's target as a dense vector, 0 on classes left out; class by class, without sorted tensors."""
    p = [float(value) for value in log_p.exp()]
    order = sorted(range(len(p)), key=lambda v: (-p[v], v))
    options, weight = classes.options, [0.0] * len(p)
    if classes.name == "rs":
        draws, proposal = int(options["draws"]), float(options.get("proposal", 1.0))
        r = [value**proposal for value in p]
        key = streams(int(options.get("seed", 0)), cells(torch.tensor([sequence]), torch.tensor([position])))
        numbers = uniform(key, 2 * draws)[0].tolist()
        for high, low in zip(numbers[0::2], numbers[1::2], strict=True):
            level, v = (high + low / 2**24) * sum(r), 0
            while level >= r[v]:
                level, v = level - r[v], v + 1
            weight[v] += p[v] / (draws * r[v] / sum(r))
    elif classes.name == "top_p":
        mass = 0.0
        for v in order:
            if mass < float(options["mass"]):
                weight[v] = p[v]
            mass += p[v]
    else:
        kept = order[: int(options["num"])]
        scale = sum(p[v] for v in kept) if options.get("renormalise") else 1.0
        for v in kept:
            weight[v] = p[v] / scale
    return torch.tensor(weight, dtype=log_p.dtype)


def oracle_class_distance(classes: Choice, log_p: Tensor, log_q: Tensor, index: Tensor, criterion: str) -> Tensor:
    rows = [
        [oracle_class_weights(classes, log_p[i, t], int(index[i]), t) for t in range(log_p.shape[1])]
        for i in range(len(log_p))
    ]
    weight = torch.stack([torch.stack(row) for row in rows])
    distance = (weight * (weight.clamp(min=1e-300).log() - log_q)).masked_fill(weight == 0, 0.0).sum(-1)
    if classes.name == "top_k_tail":
        q = log_q.exp().masked_fill(weight == 0, 0.0)
        p_rest, q_rest = 1 - weight.sum(-1), 1 - q.sum(-1)
        if criterion == "reverse_kl":
            ratio = (log_q - weight.clamp(min=1e-300).log()).masked_fill(weight == 0, 0.0)
            return (q * ratio).sum(-1) + q_rest * (q_rest / p_rest).log()
        distance = distance + p_rest * (p_rest / q_rest).log()
    return distance


def oracle_loss(strategy: Strategy, pair: Pair, batch: Batch, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Return the loss as a graph, and the weights."""
    student = pair.student(input_ids=batch.input_ids, use_cache=False).logits[..., : pair.vocab_size]
    with torch.no_grad():
        teacher = pair.teacher(input_ids=batch.input_ids, use_cache=False).logits[..., : pair.vocab_size]
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    rows = torch.arange(len(batch.input_ids))
    noise = uniform(streams(derive(seed, "selection", step), rows), batch.valid.shape[1])
    signal = strategy.position.signal
    scores = None
    if signal is not None:
        scores = (
            noise
            if signal.name == "random"
            else oracle_scores(signal.name, log_p, log_q.detach(), batch.targets, batch.valid, **signal.options)
        )
    draws = uniform(mix(streams(derive(seed, "selection", step), rows) + 1), batch.valid.shape[1]).double()
    weights, divisors = oracle_weights(strategy, scores, batch.valid, noise, draws, step / 10)

    gold = batch.targets[..., None]
    temperature = oracle_temperature(strategy, log_p, log_q.detach(), batch.targets, batch.valid, step / 10)
    heat = temperature[..., None]
    hot_p, hot_q = F.log_softmax(teacher / heat, dim=-1), F.log_softmax(student / heat, dim=-1)
    if strategy.classes is not None:
        distance = oracle_class_distance(strategy.classes, hot_p, hot_q, batch.index, strategy.criterion.name)
    elif strategy.criterion.name == "forward_kl":
        distance = (hot_p.exp() * (hot_p - hot_q)).sum(-1)
    elif strategy.criterion.name == "cross_entropy":
        distance = -hot_q.gather(-1, gold)[..., 0]
    elif strategy.criterion.name != "at_kd":
        distance = reference(
            strategy.criterion.name,
            hot_q.flatten(0, 1),
            hot_p.flatten(0, 1),
            batch.targets.flatten(),
            dict(strategy.criterion.options),
        ).view(batch.valid.shape)
    else:
        options = strategy.criterion.options
        difficulty = 1 - log_p.exp().gather(-1, gold)[..., 0]
        places = [(float(difficulty[i, t]), i, t) for i, t in batch.valid.nonzero().tolist()]
        hard = torch.zeros_like(batch.valid)
        for rank, (_, i, t) in enumerate(sorted(places)):
            hard[i, t] = rank >= len(places) * (1 - float(options["hard_fraction"]))
        distance = oracle_at_kd(hot_p, hot_q, batch.targets, hard, float(options["easy_weight"]))
    cross_entropy = -log_q.gather(-1, gold)[..., 0]
    losses = strategy.kd_weight * temperature**2 * distance + (1 - strategy.kd_weight) * cross_entropy
    if strategy.feature is not None:
        named = strategy.feature.signal
        hard = None if named is None else oracle_scores(named, log_p, log_q.detach(), batch.targets, batch.valid)
        losses = losses + oracle_feature(strategy, pair, batch, hard, seed=seed)
    summed = (weights * losses.masked_fill(weights == 0, 0.0)).sum(-1)
    num_valid = batch.valid.sum(-1)
    per_sequence = {"sequence_mean": divisors, "all_positions": num_valid}
    if strategy.normaliser in per_sequence:
        divisor = per_sequence[strategy.normaliser]
        mask = divisor > 0
        return (summed[mask] / divisor[mask]).mean(), weights
    return (summed.sum() / divisors.sum() if strategy.normaliser == "batch_mean" else summed.sum()), weights


def oracle(strategy: Strategy, pair: Pair, batch: Batch, *, seed: int = 7, step: int = 3) -> Gradients:
    pair = replace(pair, student=copy.deepcopy(pair.student).double(), teacher=copy.deepcopy(pair.teacher).double())
    loss, _ = oracle_loss(strategy, pair, batch, seed=seed, step=step)
    loss.backward()
    return Gradients(loss=float(loss.detach()), grads=_gradients(pair.student))


def _gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def run(
    core: Core, micro_batches: list[Batch], *, step: int = 3, state: Any = None, last_loss: float | None = None
) -> Gradients:
    core.student.zero_grad(set_to_none=True)
    result = accumulate(core, micro_batches, state, step=step, num_steps=10, last_loss=last_loss)
    return Gradients(loss=float(result.loss), grads=_gradients(core.student), result=result)


def assert_same(found: Gradients, wanted: Gradients, tolerance: float) -> None:
    assert found.loss == pytest.approx(wanted.loss, rel=tolerance, abs=0)
    assert found.grads.keys() == wanted.grads.keys()
    assert found.grads
    for name, expected in wanted.grads.items():
        error = float((found.grads[name].double() - expected.double()).norm())
        scale = float(expected.double().norm())
        assert scale > 0, name
        assert error <= tolerance * scale, f"{name}: relative error {error / scale:.1e}"


class Largest(TorchDispatchMode):
    """Record the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.numel = max([self.numel, *found])
        return out


# A few steps of a small training.
OPTIMISATION = Optimisation(
    learning_rate=3e-3,
    betas=(0.9, 0.95),
    weight_decay=0.01,
    schedule="cosine",
    warmup=0.2,
    batch_size=4,
    micro_batch_size=2,
    epochs=2,
    max_grad_norm=1.0,
)
