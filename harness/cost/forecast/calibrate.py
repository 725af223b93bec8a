"""Seconds of a step, measured on the device that is there: the real step on models of the workload's shapes."""

import statistics

import torch

from harness.config import Method, Workload
from harness.config.errors import UserError
from harness.cost.forecast.memory import setting_of
from harness.cost.rig import make_rig
from harness.cost.variants import Variant
from harness.distill.optimiser import make_optimiser
from harness.models.devices import device_of

# The first steps allocate, choose kernels and make the optimiser's state.
_WARM_UP = 2


def measure_step_s(strategy: Method, workload: Workload, *, steps: int) -> float:
    """Train a few steps and return the median seconds of one, gradient clipping and optimiser included.

    Weights and tokens are random, because neither changes what a step takes; a cached teacher's states are at hand, so
    reading them from the disk is not in it.

    Args:
        strategy: what to train.
        workload: what it is applied to.
        steps: steps that count.

    Raises:
        UserError: the workload asks for a GPU and there is none.
    """
    device = device_of(workload)
    if workload.resources.gpus > 0 and device == "cpu":
        raise UserError(
            f"--calibrate trains on the workload's device, and torch {torch.__version__} finds no GPU here: "
            "leave it out, and hours are predicted from --gpu and --mfu"
        )
    torch.set_num_threads(workload.resources.cpus)
    setting = setting_of(workload, device=device, whole=True)
    rig = make_rig(Variant(name="calibrated", label=strategy.label, strategy=strategy), setting)
    optimiser = make_optimiser(rig.core.parameters, workload.optimisation)
    taken = [rig.step(optimiser, max_grad_norm=workload.optimisation.max_grad_norm) for _ in range(_WARM_UP + steps)]
    return statistics.median(taken[_WARM_UP:])
