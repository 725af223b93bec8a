"""From lm-eval's logged samples to one tidy row per item and measure, and from those rows to metrics."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.evaluate.calibration import expected_calibration_error, expected_calibration_stderr
from harness.evaluate.verifiers import check
from harness.results import Metric

# Each measure an item can have: a share is 0 or 1, a log-likelihood is in nats.
ACCURACY = "accuracy"
ADHERENCE = "adherence"
LOG_LIKELIHOOD = "log_likelihood"

COLUMNS = ("task", "item", "metric", "value", "confidence", "correct")


def adherence(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score one response to an instruction; lm-eval calls this as the task's `process_results`.

    Args:
        doc: a row of tiny_instructions; `arguments` is JSON text, because its keys differ between verifiers.
        results: the response, generated up to the first line break or end of sequence.

    Returns:
        `adherence`: 1 where the verifier accepts the response, else 0.
    """
    return {ADHERENCE: float(check(doc["verifier"], results[0].strip(), json.loads(doc["arguments"])))}


def item_rows(task: str, measures: Mapping[str, str], samples: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Turn one task's logged samples into rows.

    Args:
        task: the task's name.
        measures: measure by lm-eval's name for it, e.g. {"acc": "accuracy"}.
        samples: lm-eval's logged samples of the task, under one filter.

    Returns:
        `COLUMNS`, ordered by item. `confidence` is the probability of the most likely option of a multiple-choice
        item, where an option's probability is the softmax over the options of their total log-likelihoods (not
        divided by length); `correct` tells whether that option is the right one. Both are nan elsewhere.

    Raises:
        FloatingPointError: a log-likelihood is nan or infinite; names the task and the item.
    """
    rows: list[dict[str, Any]] = []
    for sample in samples:
        likelihoods = _log_likelihoods(sample)
        if not np.isfinite(likelihoods).all():
            raise FloatingPointError(
                f"{task}, item {sample['doc_id']}: log-likelihood {likelihoods[~np.isfinite(likelihoods)][0]}; "
                "the model's logits must be finite"
            )
        options = {"confidence": math.nan, "correct": math.nan}
        if len(likelihoods) > 1:
            weight = np.exp(likelihoods - likelihoods.max())
            right = int(np.argmax(likelihoods)) == sample["target"]
            options = {"confidence": float(weight.max() / weight.sum()), "correct": float(right)}
        for source, measure in measures.items():
            shown = options if measure == ACCURACY else dict.fromkeys(options, math.nan)
            value = float(sample[source])
            rows.append({"task": task, "item": int(sample["doc_id"]), "metric": measure, "value": value, **shown})
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["metric", "item"], ignore_index=True)


def summarise(items: pd.DataFrame) -> dict[str, Metric]:
    """Reduce item rows to metrics.

    Args:
        items: rows of one or more tasks, as `item_rows` makes them.

    Returns:
        Whichever of these the items allow:

        - `accuracy/<task>`: share of items answered right, with the standard error of a mean;
        - `accuracy`: mean of those over tasks, each counting alike; the tasks' errors are taken as independent;
        - `adherence`: share of instructions satisfied, with the standard error of a mean;
        - `perplexity`: exp(-mean log-likelihood of the last word), per word as lm-eval's lambada defines it, standard
          error by the delta method;
        - `ece`: expected calibration error over multiple-choice items, 15 equal-width bins, standard error from 500
          bootstrap resamples of the items under a fixed seed.

        Shares lie in [0, 1]. A standard error is None for a single item.
    """
    metrics: dict[str, Metric] = {}
    answered = items[items["metric"] == ACCURACY]
    by_task = {str(task): _mean(rows["value"].to_numpy()) for task, rows in answered.groupby("task", sort=False)}
    if by_task:
        errors = [metric.stderr for metric in by_task.values()]
        metrics["accuracy"] = Metric(
            value=float(np.mean([metric.value for metric in by_task.values()])),
            stderr=None if None in errors else float(np.linalg.norm(np.array(errors, dtype=float)) / len(errors)),
            num=len(answered),
        )
        metrics |= {f"accuracy/{task}": metric for task, metric in by_task.items()}

    followed = items.loc[items["metric"] == ADHERENCE, "value"].to_numpy()
    if followed.size:
        metrics["adherence"] = _mean(followed)

    words = items.loc[items["metric"] == LOG_LIKELIHOOD, "value"].to_numpy()
    if words.size:
        nats = _mean(words)
        value = math.exp(-nats.value)
        stderr = None if nats.stderr is None else value * nats.stderr
        metrics["perplexity"] = Metric(value=value, stderr=stderr, num=nats.num)

    options = items.dropna(subset=["confidence", "correct"])
    if len(options):
        pair = options["confidence"].to_numpy(), options["correct"].to_numpy()
        metrics["ece"] = Metric(
            value=expected_calibration_error(*pair),
            stderr=expected_calibration_stderr(*pair) if len(options) > 1 else None,
            num=len(options),
        )
    return metrics


def _log_likelihoods(sample: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Return the log-likelihoods of a sample's continuations, shape (options,); empty for generated text."""
    responses = sample["filtered_resps"]
    return np.array([response[0] for response in responses if not isinstance(response, str)], dtype=np.float64)


def _mean(values: npt.NDArray[np.float64]) -> Metric:
    stderr = float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else None
    return Metric(value=float(values.mean()), stderr=stderr, num=values.size)
