"""Choose an embedded workload's learning rate: Full KD alone, on the validation split, lowest held-out loss.

No selective strategy takes part, so the choice cannot flatter one. `python -m scripts.tiny.learning_rate` trains
one student per rate and seed through the same core as any trial and writes `tiny/learning_rate.csv`; with the argument
`tiny_math` it does so for that workload and writes `tiny/learning_rate_math.csv`.
"""

import sys
import tempfile
from pathlib import Path

import pandas as pd

from harness.config.expand import presets
from harness.config.workloads import ASSETS, load_workload
from harness.records.layout import Results
from harness.trial.execute import run_trial
from harness.trial.identity import fingerprints
from harness.trial.trial import Trial

RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
# Not the seeds that results are reported on.
SEEDS = (11, 12)
METRICS = ("heldout_loss", "teacher_kl", "accuracy", "adherence", "perplexity")


def measure(name: str, rates: tuple[float, ...], seeds: tuple[int, ...], results: Results) -> pd.DataFrame:
    """Train Full KD at every rate and seed; one row each, with the validation metrics.

    Args:
        name: the workload's.
        rates: peak learning rates.
        seeds: of data order.
        results: where tokens and teacher states go.
    """
    workload = load_workload(name)
    found = fingerprints(workload)
    rows = []
    for rate in (0.0, *rates):
        strategy = presets()["full_kd" if rate else "no_kd"]
        optimisation = workload.optimisation.model_copy(update={"learning_rate": rate or 1.0})
        for seed in seeds if rate else seeds[:1]:
            trial = Trial(
                strategy=strategy,
                workload=workload.model_copy(update={"optimisation": optimisation}),
                seed=seed,
                split="validation",
                sources={},
                fingerprints=found,
            )
            metrics = run_trial(trial, results=results).record.metrics
            shown = {metric: metrics[metric].value for metric in METRICS if metric in metrics}
            rows.append({"strategy": strategy.label, "learning_rate": rate, "seed": seed, **shown})
            print(rows[-1], flush=True)  # noqa: T201 - run by hand, for minutes
    return pd.DataFrame(rows)


if __name__ == "__main__":
    workload_name = sys.argv[1] if len(sys.argv) > 1 else "tiny"
    with tempfile.TemporaryDirectory() as folder:
        table = measure(workload_name, RATES, SEEDS, Results(Path(folder)))
    table.to_csv(ASSETS / f"learning_rate{workload_name.removeprefix('tiny')}.csv", index=False, float_format="%.5f")
    means = table[table["learning_rate"] > 0].groupby("learning_rate")["heldout_loss"].mean()
    print(f"lowest held-out loss: learning rate {means.idxmin():g}")  # noqa: T201
