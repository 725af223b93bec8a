"""From lm-eval's logged samples to one tidy row per item and measure, and from those rows to metrics."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.evaluate.calibration import (
    bin_sums,
    expected_calibration_error,
    expected_calibration_stderr,
    reliability_of,
)
from harness.evaluate.verifiers import check
from harness.records.record import Metric

# What is measured of an item: a share in [0, 1], but for a log-likelihood, which is in nats.
ACCURACY = "accuracy"
ACCURACY_NORM = "accuracy_norm"
ACCURACY_FLEXIBLE = "accuracy_flexible"
ADHERENCE = "adherence"
LOG_LIKELIHOOD = "log_likelihood"

COLUMNS = ("task", "item", "metric", "value", "confidence", "correct", "weight")


def adherence(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score one response to an instruction; lm-eval calls this as the task's `process_results`.

    Args:
        doc: a row of tiny_instructions; `arguments` is JSON text, because its keys differ between verifiers.
        results: the response, generated up to the first line break or end of sequence.

    Returns:
        `adherence`: 1 where the verifier accepts the response, else 0.
    """
    return {ADHERENCE: float(check(doc["verifier"], results[0].strip(), json.loads(doc["arguments"])))}


def verified(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score one response by IFEval's verifiers, strictly; lm-eval calls this as the task's `process_results`.

    Args:
        doc: a row with IFEval's columns.
        results: the response.

    Returns:
        `prompt_level_strict_acc`: 1 where all of the prompt's instructions are followed, else 0.
    """
    from lm_eval.tasks.ifeval.utils import process_results

    return {"prompt_level_strict_acc": float(process_results(doc, results)["prompt_level_strict_acc"])}


def item_rows(
    task: str, measures: Mapping[str, str], samples: Sequence[Mapping[str, Any]], items: Sequence[int]
) -> pd.DataFrame:
    """Turn one task's logged samples into rows.

    Args:
        task: the task's name.
        measures: measure by lm-eval's name and filter, e.g. {"acc,none": "accuracy"}.
        samples: lm-eval's logged samples of the task.
        items: each item's number, by its place among those asked.

    Returns:
        `COLUMNS`, ordered by measure and item. `value` is the measure. `weight` is what the item counts in the
        measure's mean: 1, or the number of its instructions where each instruction is judged by itself. `confidence`
        is the probability of the most likely option of a multiple-choice item, where an option's probability is the
        softmax over the options of their total log-likelihoods (not divided by length); `correct` tells whether that
        option is a right one. Both are nan elsewhere.

    Raises:
        FloatingPointError: a log-likelihood is nan or infinite; names the task and the item.
    """
    rows: list[dict[str, Any]] = []
    for sample in samples:
        number = int(items[sample["doc_id"]])
        likelihoods = _log_likelihoods(sample)
        if not np.isfinite(likelihoods).all():
            raise FloatingPointError(
                f"{task}, item {number}: log-likelihood {likelihoods[~np.isfinite(likelihoods)][0]}; "
                "the model's logits must be finite"
            )
        for source, measure in measures.items():
            metric, _, filtered = source.partition(",")
            if sample["filter"] != filtered:
                continue
            judged = np.atleast_1d(np.asarray(sample[metric], dtype=np.float64))
            row = {
                "task": task,
                "item": number,
                "metric": measure,
                "value": float(judged.mean()),
                "weight": judged.size,
            }
            if measure == ACCURACY and metric == "acc" and len(likelihoods) > 1:
                weights = np.exp(likelihoods - likelihoods.max())
                row |= {"confidence": float(weights.max() / weights.sum()), "correct": float(judged[0])}
            rows.append(row)
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"confidence": "float64", "correct": "float64"})
    return table.sort_values(["metric", "item"], ignore_index=True)


def summarise(items: pd.DataFrame) -> dict[str, Metric]:
    """Reduce item rows to metrics.

    Args:
        items: rows of one or more tasks, as `item_rows` makes them.

    Returns:
        Whichever of these the items allow:

        - `accuracy/<task>`: share of items answered right (lm-eval's acc, or exact_match under the task's first
          filter), with the standard error of a mean; likewise `accuracy_norm/<task>` (acc_norm: options compared by
          log-likelihood per character) and `accuracy_flexible/<task>` (exact_match of the last number in the answer);
        - `adherence`: share of prompts all of whose instructions are followed to the letter; likewise
          `adherence/prompt_loose`, and `adherence/inst_strict` and `adherence/inst_loose`, shares of instructions;
        - `perplexity`: exp(-mean log-likelihood of the last word), per word as lm-eval's lambada defines it, standard
          error by the delta method;
        - `ece/<task>`: expected calibration error over a task's multiple-choice items, 15 equal-width bins, standard
          error from 500 bootstrap resamples of the items under a fixed seed;
        - `accuracy`, `ece`: means of those over tasks, as are the others where several tasks measure them. Each task
          counts alike and the tasks' errors are taken as independent.

        Shares lie in [0, 1]. A standard error is None for a single item.
    """
    metrics: dict[str, Metric] = {}
    for measure in dict.fromkeys(items["metric"]):
        rows = items[items["metric"] == measure]
        by_task = {str(task): _mean(part) for task, part in rows.groupby("task", sort=False)}
        if measure in (ACCURACY, ACCURACY_NORM, ACCURACY_FLEXIBLE):
            metrics |= {f"{measure}/{task}": metric for task, metric in by_task.items()}
        overall = _over_tasks(list(by_task.values()))
        if measure == LOG_LIKELIHOOD:
            value = math.exp(-overall.value)
            stderr = None if overall.stderr is None else value * overall.stderr
            metrics["perplexity"] = Metric(value=value, stderr=stderr, num=overall.num)
        elif measure == ACCURACY or measure.startswith(ADHERENCE):
            metrics[measure] = overall
    by_task = {task: _calibration(part) for task, part in _with_options(items)}
    if by_task:
        metrics |= {f"ece/{task}": metric for task, metric in by_task.items()}
        metrics["ece"] = _over_tasks(list(by_task.values()))
    return metrics


def reliability_table(items: pd.DataFrame) -> pd.DataFrame:
    """Bin the multiple-choice items of every task by confidence.

    Returns:
        source (the task), and the columns of `calibration.reliability_of`: one row per task and bin.
    """
    parts = [
        reliability_of(bin_sums(part["confidence"], part["correct"])).assign(source=task)
        for task, part in _with_options(items)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _with_options(items: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    options = items.dropna(subset=["confidence", "correct"])
    return [(str(task), part) for task, part in options.groupby("task", sort=False)]


def _calibration(options: pd.DataFrame) -> Metric:
    pair = options["confidence"].to_numpy(), options["correct"].to_numpy()
    stderr = expected_calibration_stderr(*pair) if len(options) > 1 else None
    return Metric(value=expected_calibration_error(*pair), stderr=stderr, num=len(options))


def _log_likelihoods(sample: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Return the log-likelihoods of a sample's continuations, shape (options,); empty for generated text."""
    responses = sample["filtered_resps"]
    return np.array([response[0] for response in responses if not isinstance(response, str)], dtype=np.float64)


def _mean(rows: pd.DataFrame) -> Metric:
    """Return the weighted mean over items and its standard error (linearised; for equal weights that of a mean)."""
    values, weights = rows["value"].to_numpy(), rows["weight"].to_numpy(dtype=np.float64)
    mean = float((values * weights).sum() / weights.sum())
    residual = float(np.square(weights * (values - mean)).sum())
    count = len(values)
    stderr = math.sqrt(residual * count / (count - 1)) / float(weights.sum()) if count > 1 else None
    return Metric(value=mean, stderr=stderr, num=int(weights.sum()))


def _over_tasks(metrics: Sequence[Metric]) -> Metric:
    errors = [metric.stderr for metric in metrics]
    return Metric(
        value=float(np.mean([metric.value for metric in metrics])),
        stderr=None if None in errors else float(np.linalg.norm(np.array(errors, dtype=float)) / len(errors)),
        num=sum(metric.num for metric in metrics),
    )
