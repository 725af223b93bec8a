"""Held-out text: loss, calibration and distance to the teacher, which tell strategies apart before accuracies do."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.config.annotations import PreTrainedModel
from harness.data.tokens import Tokens
from harness.distill.score import Rows, score_rows, slices
from harness.evaluate.calibration import bin_sums, calibration_error_of, calibration_stderr_of, reliability_of
from harness.models import head_of, trunk
from harness.records.record import Metric
from harness.teacher.interface import Teacher
from strategies.base import log_probs
from strategies.registry import SIGNALS, order_signals

# N = positions, D = hidden size, V = vocabulary


@dataclass(frozen=True)
class Heldout:
    """What was measured on held-out text.

    Attributes:
        metrics: metric by name.
        reliability: one row per bin of confidence in the most likely next token, as `calibration.reliability_of` makes
            them.
        items: one row per sequence and metric that is a mean over tokens, laid out as the rows of evaluated items:
            task "heldout", item (the sequence), metric, value (per token), weight (tokens).
    """

    metrics: dict[str, Metric]
    reliability: pd.DataFrame
    items: pd.DataFrame


@torch.no_grad()
def measure_heldout(
    model: PreTrainedModel,
    tokens: Tokens,
    teacher: Teacher | None,
    *,
    vocab_size: int,
    batch_size: int,
    chunk: int,
    device: torch.device | str = "cpu",
) -> Heldout:
    """Measure a model on packed held-out text.

    Args:
        model: the student, or the teacher itself.
        tokens: the held-out sequences.
        teacher: what to compare with, None if there is none.
        vocab_size: tokens of the tokenizer.
        batch_size: sequences per forward pass.
        chunk: rows of logits that exist at a time.
        device: where the model is.

    Returns:
        The metrics heldout_loss (nats per token), bits_per_byte, token_ece (expected calibration error of the most
        likely next token, 15 equal-width bins) and, given a teacher, teacher_kl (forward, nats per token) and
        teacher_agreement (share of positions whose most likely token is the same). Standard errors treat sequences,
        not tokens, as independent.

    Raises:
        FloatingPointError: the model's logits are not finite; names the sequence.
    """
    head = head_of(model, vocab_size)
    sums: dict[str, list[float]] = {"heldout_loss": []}
    if teacher is not None:
        sums |= {"teacher_kl": [], "teacher_agreement": []}
    counts: list[int] = []
    sequences: list[int] = []
    bins: list[np.ndarray] = []
    names = order_signals(["student_ce", "kl"] if teacher is not None else ["student_ce"])
    for start in range(0, len(tokens), batch_size):
        batch = tokens.batch(torch.arange(start, min(start + batch_size, len(tokens)))).to(device)
        hidden = trunk(model, batch.input_ids)
        teacher_hidden = teacher.hidden(batch) if teacher is not None else None
        for number in range(len(hidden)):
            valid = batch.valid[number]
            if not valid.any():
                continue
            rows = Rows(
                student=hidden[number][valid],
                teacher=None if teacher_hidden is None else teacher_hidden[number][valid],
                targets=batch.targets[number][valid],
            )
            teacher_head = teacher.head if teacher is not None else None
            scores = score_rows(names, lambda name: SIGNALS[name].build, rows, head, teacher_head, chunk=chunk)
            counts.append(len(rows))
            sequences.append(start + number)
            sums["heldout_loss"].append(float(scores["student_ce"].sum()))
            confidence, best = _top(rows.student, head.weight, chunk)
            if not bool(confidence.isfinite().all()):
                raise FloatingPointError(f"held-out sequence {start + number}: the model's logits are not finite")
            bins.append(bin_sums(confidence.cpu().numpy(), (best == rows.targets).cpu().numpy()))
            if teacher is not None and rows.teacher is not None:
                sums["teacher_kl"].append(float(scores["kl"].sum()))
                _, theirs = _top(rows.teacher, teacher.head.weight, chunk)
                sums["teacher_agreement"].append(float((best == theirs).sum()))
    items = [_items(name, sequences, values, counts) for name, values in sums.items()]
    ratios = {name: _ratio(values, counts) for name, values in sums.items()}
    return _heldout(ratios, np.stack(bins), pd.concat(items, ignore_index=True), tokens.tokens_per_byte)


def _heldout(ratios: dict[str, Metric], units: np.ndarray, items: pd.DataFrame, tokens_per_byte: float) -> Heldout:
    """Add what follows from the sums: bits per byte, and calibration from each sequence's bins."""
    loss, scale = ratios["heldout_loss"], tokens_per_byte / math.log(2)
    stderr = None if loss.stderr is None else loss.stderr * scale
    bits_per_byte = Metric(value=loss.value * scale, stderr=stderr, num=loss.num)
    token_ece = Metric(
        value=calibration_error_of(units.sum(axis=0)),
        stderr=calibration_stderr_of(units) if len(units) > 1 else None,
        num=int(units[:, 0].sum()),
    )
    return Heldout(
        metrics={**ratios, "bits_per_byte": bits_per_byte, "token_ece": token_ece},
        reliability=reliability_of(units.sum(axis=0)),
        items=items,
    )


def _items(metric: str, sequences: list[int], sums: list[float], counts: list[int]) -> pd.DataFrame:
    weight = np.asarray(counts, dtype=np.float64)
    return pd.DataFrame(
        {"task": "heldout", "item": sequences, "metric": metric, "value": np.asarray(sums) / weight, "weight": weight}
    )


def _top(
    hidden: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], chunk: int
) -> tuple[Float[Tensor, " N"], Int[Tensor, " N"]]:
    """Return the most likely token at each position and its probability, a chunk of logits at a time."""
    best = [log_probs(hidden[piece] @ weight.T).max(dim=-1) for piece in slices(len(hidden), chunk)]
    # Rounding can lift the logarithm of a probability of 1 above 0.
    confidence = torch.cat([top.values for top in best]).exp().clamp(max=1.0)
    return confidence, torch.cat([top.indices for top in best])


def _ratio(sums: list[float], counts: list[int]) -> Metric:
    """Return the mean per token and its standard error over sequences (linearised ratio estimator)."""
    values, sizes = torch.tensor(sums, dtype=torch.float64), torch.tensor(counts, dtype=torch.float64)
    mean = float(values.sum() / sizes.sum())
    if len(counts) < 2:
        return Metric(value=mean, num=int(sizes.sum()))
    residual = (values - mean * sizes).square().sum() * len(counts) / (len(counts) - 1)
    return Metric(value=mean, stderr=float(residual.sqrt() / sizes.sum()), num=int(sizes.sum()))
