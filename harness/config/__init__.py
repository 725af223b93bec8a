"""What strategies, workloads and grids are: frozen models that refuse unknown keys.

Everything that the science depends on is a field here, so that a record can state it.
"""

from harness.config.base import Choice, Slug, Split
from harness.config.grid import Diagnostics, Grid
from harness.config.strategy import AsItIs, Feature, Method, Position, Rollout, Samples, Strategy
from harness.config.workload import Data, Evaluation, Lora, ModelSource, Optimisation, Pairs, Resources, Workload

__all__ = [
    "AsItIs",
    "Choice",
    "Data",
    "Diagnostics",
    "Evaluation",
    "Feature",
    "Grid",
    "Lora",
    "Method",
    "ModelSource",
    "Optimisation",
    "Pairs",
    "Position",
    "Resources",
    "Rollout",
    "Samples",
    "Slug",
    "Split",
    "Strategy",
    "Workload",
]
