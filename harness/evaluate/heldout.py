"""Held-out text: loss and distance to the teacher, which separate strategies long before accuracies do."""

import math

import torch
from transformers import PreTrainedModel

from harness.data.tokens import Tokens
from harness.distill.score import Rows, score_rows, slices
from harness.distill.teacher import Teacher
from harness.models import head_of, trunk
from harness.results import Metric
from strategies.base import log_probs
from strategies.registry import SIGNALS, order_signals


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
) -> dict[str, Metric]:
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
        heldout_loss (nats per token), bits_per_byte and, given a teacher, teacher_kl (forward, nats per token) and
        teacher_agreement (share of positions whose most likely token is the same). Standard errors treat sequences,
        not tokens, as independent.
    """
    head = head_of(model, vocab_size)
    sums: dict[str, list[float]] = {"heldout_loss": []}
    if teacher is not None:
        sums |= {"teacher_kl": [], "teacher_agreement": []}
    counts: list[int] = []
    names = order_signals(["student_ce", "kl"] if teacher is not None else ["student_ce"])
    for start in range(0, len(tokens), batch_size):
        batch = tokens.batch(torch.arange(start, min(start + batch_size, len(tokens)))).to(device)
        hidden = trunk(model, batch.input_ids)
        teacher_hidden = teacher.hidden(batch) if teacher is not None else None
        for number in range(len(hidden)):
            valid = batch.valid[number]
            rows = Rows(
                student=hidden[number][valid],
                teacher=None if teacher_hidden is None else teacher_hidden[number][valid],
                targets=batch.targets[number][valid],
            )
            teacher_head = teacher.head if teacher is not None else None
            scores = score_rows(names, lambda name: SIGNALS[name].build, rows, head, teacher_head, chunk=chunk)
            counts.append(len(rows))
            sums["heldout_loss"].append(float(scores["student_ce"].sum()))
            if teacher is not None and rows.teacher is not None:
                sums["teacher_kl"].append(float(scores["kl"].sum()))
                ours = _best(rows.student, head.weight, chunk)
                theirs = _best(rows.teacher, teacher.head.weight, chunk)
                sums["teacher_agreement"].append(float((ours == theirs).sum()))
    metrics = {name: _ratio(values, counts) for name, values in sums.items()}
    loss = metrics["heldout_loss"]
    scale = tokens.tokens_per_byte / math.log(2)
    stderr = None if loss.stderr is None else loss.stderr * scale
    return metrics | {"bits_per_byte": Metric(value=loss.value * scale, stderr=stderr, num=loss.num)}


def _best(hidden: torch.Tensor, weight: torch.Tensor, chunk: int) -> torch.Tensor:
    return torch.cat([log_probs(hidden[piece] @ weight.T).argmax(dim=-1) for piece in slices(len(hidden), chunk)])


def _ratio(sums: list[float], counts: list[int]) -> Metric:
    """Return the mean per token and its standard error over sequences (linearised ratio estimator)."""
    values, sizes = torch.tensor(sums, dtype=torch.float64), torch.tensor(counts, dtype=torch.float64)
    mean = float(values.sum() / sizes.sum())
    if len(counts) < 2:
        return Metric(value=mean, num=int(sizes.sum()))
    residual = (values - mean * sizes).square().sum() * len(counts) / (len(counts) - 1)
    return Metric(value=mean, stderr=float(residual.sqrt() / sizes.sum()), num=int(sizes.sum()))
