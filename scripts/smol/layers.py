"""Which layers a pruned student of smol can do without: loss on validation text, without any training.

`python -m scripts.smol.layers` removes every block of six layers in turn, keeps the least harmful one removed, and goes
on until twelve layers are left; it writes `scripts/smol/layers.csv`, a row per student, best first in each round.
`harness workload fetch smol` must have run; results lie in `results`, or where the first argument says.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from harness import models
from harness.config import Workload
from harness.config.workloads import load_workload
from harness.data import text
from harness.data.tokens import Tokens, prepare
from harness.evaluate.heldout import measure_heldout
from harness.models.shapes import num_layers
from harness.models.vocabulary import Vocabulary
from harness.records.layout import Results

BLOCK, ROUNDS = 6, 3
NUM_TOKENS = 2048
FILE = Path(__file__).with_name("layers.csv")


def loss_of(workload: Workload, tokens: Tokens, layers: Sequence[int]) -> float:
    """Return the loss of the teacher's layers that are kept, nats per token of validation text."""
    assert workload.teacher is not None, "smol has a teacher"
    source = workload.teacher.model_copy(update={"layers": tuple(layers)})
    model = models.load_model(source, workload.folder, dtype=torch.float32)
    size = len(models.load_tokenizer(workload.teacher, workload.folder))
    heldout = measure_heldout(model, tokens, None, vocab_size=size, batch_size=4, chunk=512)
    return heldout.metrics["heldout_loss"].value


def shorter(layers: Sequence[int]) -> list[tuple[int, ...]]:
    """Return what is left of some layers without each block of six that follow one another."""
    return [(*layers[:start], *layers[start + BLOCK :]) for start in range(len(layers) - BLOCK + 1)]


def ranges(layers: Sequence[int]) -> str:
    """Write layers as a workload does: 0-11, 18-29."""
    starts = [layer for layer in layers if layer - 1 not in layers]
    ends = [layer for layer in layers if layer + 1 not in layers]
    return ", ".join(
        f"{first}-{last}" if first != last else str(first) for first, last in zip(starts, ends, strict=True)
    )


def measure(results: Results) -> pd.DataFrame:
    """Measure every student of every round; one row each."""
    workload = load_workload("smol", results.models)
    assert workload.teacher is not None, "smol has a teacher"
    data = workload.data.model_copy(update={"heldout_tokens": NUM_TOKENS})
    tokenizer = models.load_tokenizer(workload.teacher, workload.folder)
    key = f"{text.fingerprint(data, workload.folder, results.documents)}-{Vocabulary.of(tokenizer).fingerprint}"
    tokens = prepare(data, workload.folder, "validation", tokenizer, source_key=key, results=results)
    kept: tuple[int, ...] = tuple(range(num_layers(workload.teacher, workload.folder)))
    ranked = [(0, kept, loss_of(workload, tokens, kept))]
    for number in range(1, ROUNDS + 1):
        losses = []
        for layers in shorter(kept):
            losses.append((number, layers, loss_of(workload, tokens, layers)))
            print(number, ranges(layers), f"{losses[-1][2]:.4f}", flush=True)  # noqa: T201 - run by hand, for minutes
        losses.sort(key=lambda each: each[2])
        ranked += losses
        kept = losses[0][1]
    rows = [(number, len(layers), ranges(layers), loss) for number, layers, loss in ranked]
    return pd.DataFrame(rows, columns=["round", "num_layers", "layers", "loss_nats"])


if __name__ == "__main__":
    table = measure(Results(Path(sys.argv[1] if len(sys.argv) > 1 else "results")))
    table.to_csv(FILE, index=False, float_format="%.4f")
    print(table[table["round"].diff() != 0].to_string(index=False))  # noqa: T201
