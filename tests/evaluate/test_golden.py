"""What evaluation measures, fixed: a change that moves it on purpose raises `harness.evaluate.EVALUATION`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SEPARATOR, VOCAB, Pair, caches_in

from harness.config import ModelSource
from harness.config.workloads import ASSETS, load_workload
from harness.data.tokens import Batch, Tokens
from harness.evaluate import EVALUATION
from harness.evaluate.evaluation import evaluate
from harness.evaluate.heldout import measure_heldout
from harness.models import head_of, load_model, load_tokenizer, trunk
from harness.records.record import Metric
from harness.teacher.interface import Teacher

NUM_ITEMS = 8

# By version of the evaluation: the embedded student's metrics on the first items of every embedded task.
TASKS: dict[int, dict[str, float]] = {
    2: {
        "accuracy/tiny_completion": 0.25,
        "accuracy/tiny_lastword": 0.5,
        "accuracy/tiny_arithmetic": 0.125,
        "accuracy": 0.291666666667,
        "perplexity": 11.5640649123,
        "adherence": 0.5,
        "ece/tiny_completion": 0.35272827373,
        "ece": 0.35272827373,
    }
}
# By version of the evaluation: metrics of small random models on random tokens, in float64.
HELDOUT: dict[int, dict[str, float]] = {
    2: {
        "heldout_loss": 5.42637353052,
        "teacher_kl": 2.21567414477,
        "teacher_agreement": 0.015873015873,
        "bits_per_byte": 1.95715054562,
        "token_ece": 0.14638510747,
    }
}

ADVICE = (
    "the numbers of evaluation changed. If that is meant, raise harness.evaluate.EVALUATION, so that finished trials "
    "run again, record the new numbers under the new version, and say in CHANGELOG.md; if not, it is a defect"
)


def test_the_embedded_student_scores_the_golden_metrics(tmp_path: Path) -> None:
    assert EVALUATION in TASKS, ADVICE
    workload = load_workload("tiny")
    settings = workload.evaluation.model_copy(update={"num_items": NUM_ITEMS, "items": {}})
    source = ModelSource(path="student")
    scores = evaluate(
        load_model(source, ASSETS, dtype=torch.float32),
        load_tokenizer(source, ASSETS),
        settings,
        folder=workload.folder,
        split="test",
        results=caches_in(tmp_path),
    )
    # Float32 logits differ in their last digits between processors; counts of right answers do not.
    assert _values(scores.metrics) == pytest.approx(TASKS[EVALUATION], rel=1e-4), ADVICE


def test_heldout_text_gives_the_golden_metrics(
    make_pair: Callable[..., Pair], make_batch: Callable[..., Batch]
) -> None:
    assert EVALUATION in HELDOUT, ADVICE
    pair = make_pair(torch.float64)
    ids = make_batch(6, 12, seed=5).input_ids.to(torch.int32).numpy()
    tokens = Tokens(ids=ids, separator=SEPARATOR, cross_document_targets=False, tokens_per_byte=0.25, key="golden")
    teacher = Teacher(
        head=head_of(pair.teacher, VOCAB), hidden=lambda batch: trunk(pair.teacher, batch.input_ids), online=True
    )
    measured = measure_heldout(pair.student, tokens, teacher, vocab_size=VOCAB, batch_size=4, chunk=16)
    assert _values(measured.metrics) == pytest.approx(HELDOUT[EVALUATION], rel=1e-9), ADVICE


def _values(metrics: dict[str, Metric]) -> dict[str, float]:
    return {name: metric.value for name, metric in metrics.items()}
