"""The numbers behind the tables: one row per label and metric."""

import pandas as pd

from harness.analysis.cells import Evidence, gather
from harness.analysis.frame import Frames, labels
from harness.analysis.metrics import COSTS
from harness.analysis.statistics import compare, rank, summarise
from harness.records.record import Manifest


def tidy(frames: Frames, manifest: Manifest, *, seed: int = 0, evidence: Evidence | None = None) -> pd.DataFrame:
    """Compute the numbers behind the tables: one row per label and metric, in the manifest's order.

    Args:
        frames: the grid's frames.
        manifest: names the baseline.
        seed: of resampling, as in `statistics.compare`.
        evidence: what `cells.gather` makes of the frames, where it is at hand.

    Returns:
        label, num_finished, num_planned, metric, mean, std, n, mean_low, mean_high, mean_covers; the columns of
        `statistics.compare` (missing for costs, for the baseline, and without a baseline); rank, rank_worst and
        num_ranked, among labels with seeds. In each metric's own unit. A label of which nothing finished has its rows,
        without a mean and with n = 0.
    """
    costs = frames.trials.melt(
        id_vars=["trial_id", "label", "seed", "status"], value_vars=[info.key for info in COSTS], var_name="metric"
    )
    costs["num"] = costs["value"].notna().map({True: 1, False: None}).astype("Int64")
    keys = [*frames.metrics["metric"].unique(), *(info.key for info in COSTS)]
    evidence = evidence or gather(frames.metrics, frames.tables.get("items"))
    summary = pd.concat([summarise(evidence), summarise(costs)])
    ended = frames.trials.assign(finished=frames.trials["status"] == "finished").groupby("label")["finished"]
    seeds = pd.DataFrame({"num_finished": ended.sum(), "num_planned": ended.size()})
    grid = pd.MultiIndex.from_product([labels(manifest), keys], names=["label", "metric"]).to_frame(index=False)
    table = grid.merge(seeds, left_on="label", right_index=True).merge(summary, on=["label", "metric"], how="left")
    table["num_seeds"] = table["num_seeds"].astype("float64").fillna(0).astype(int)
    table = table.rename(columns={"num_seeds": "n"})
    if manifest.baseline is not None:
        compared = compare(evidence, manifest.baseline, seed=seed)
        table = table.merge(compared, on=["label", "metric"], how="left")
    seeded = list(frames.trials.loc[frames.trials["seed"].notna(), "label"].unique())
    table = table.merge(rank(evidence, seeded), on=["label", "metric"], how="left")
    head = ["label", "num_finished", "num_planned", "metric", "mean", "std", "n"]
    return table[head + [name for name in table.columns if name not in head]]
