"""The second branch of the loss: the student's hidden states, projected, beside the teacher's."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from harness.config.seeds import derive
from harness.distill.objective import Objective

# M = supervised positions, T = positions of the batch, D = a model's hidden size

PURPOSE = "feature projection"


def make_projection(objective: Objective, student_size: int, teacher_size: int, seed: int) -> torch.nn.ModuleList:
    """Build one linear map without bias per pair of layers, from the student's hidden size to the teacher's.

    Weights are drawn from N(0, 1 / student size), so that a state keeps about its length, from a named seed of the
    trial: the same for every strategy that has this branch. They are float32 whatever the models are.
    """
    assert objective.strategy.feature is not None
    layers = objective.strategy.feature.layers
    generator = torch.Generator().manual_seed(derive(seed, PURPOSE))
    maps = torch.nn.ModuleList()
    for _ in range(1 if layers == "last" else len(layers)):
        each = torch.nn.Linear(student_size, teacher_size, bias=False)
        torch.nn.init.normal_(each.weight, std=student_size**-0.5, generator=generator)
        maps.append(each)
    return maps


def feature_loss(
    objective: Objective,
    projection: torch.nn.ModuleList,
    student: Sequence[Float[Tensor, "T D"]],
    teacher: Sequence[Float[Tensor, "T E"]],
    places: Int[Tensor, " M"] | None,
    coefficient: Float[Tensor, " M"],
    score: Float[Tensor, " M"] | None,
) -> Float[Tensor, ""]:
    """Return sum_m coefficient_m * weight * distance_m over hard supervised rows, as a graph.

    There is one map, and one tensor of either model's states, per pair of layers; `places` says where in them the
    supervised rows are, None if they are all there is. `score` tells hard rows, None if all are. Easy rows are compared
    too and count nothing: which ones they are is known on the device only, and a projection is little beside a head.
    """
    feature = objective.strategy.feature
    assert feature is not None
    if score is not None:
        assert feature.above is not None, "given with the signal"
        coefficient = coefficient * (score > feature.above)
    total = torch.zeros((), dtype=coefficient.dtype, device=coefficient.device)
    for each, ours, theirs in zip(projection, student, teacher, strict=True):
        assert isinstance(each, torch.nn.Linear)
        wide = torch.promote_types(ours.dtype, each.weight.dtype)
        rows = (ours, theirs) if places is None else (ours.index_select(0, places), theirs.index_select(0, places))
        projected = linear(rows[0].to(wide), each.weight.to(wide))
        total = total + (coefficient * objective.distance(projected, rows[1].to(wide))).sum()
    return total * (feature.weight / len(projection))
