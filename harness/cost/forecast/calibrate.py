"""What training takes on the device that is there: the training loop itself, on models of the workload's shapes."""

import itertools
import statistics
import time
from dataclasses import dataclass, replace

import numpy as np
import psutil
import torch

from harness.config import Method, Workload
from harness.config.errors import UserError
from harness.cost.accounting import GIB
from harness.cost.forecast.memory import setting_of
from harness.cost.rig import SEED, make_rig
from harness.cost.variants import Variant
from harness.data.tokens import Tokens
from harness.distill.loss import compiled_losses
from harness.distill.train import train
from harness.models.devices import device_of
from harness.trial.meter import peak_gib, reset_peak

# The first steps allocate, choose or compile kernels and make the optimiser's state.
_WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What some steps took.

    Attributes:
        step_s: median seconds of one, from its batch to the optimiser's step.
        peak_gib: most memory at once, models and optimiser included: allocated on the GPU; without one, what the
            process grew by.
    """

    step_s: float
    peak_gib: float


def measure(strategy: Method, workload: Workload, *, steps: int) -> Calibrated:
    """Train a few steps as a trial does, compiled if the workload says so.

    Weights and tokens are random, because neither changes what a step takes; a cached teacher's states are at hand, so
    reading them from the disk is not in it, nor is a student's writing.

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
    reset_peak(device)
    before = 0.0 if device == "cuda" else psutil.Process().memory_info().rss / GIB
    setting = setting_of(workload, device=device, whole=True)
    core = make_rig(Variant(name="calibrated", label=strategy.label, strategy=strategy), setting).core
    if workload.resources.compile:
        core = replace(core, losses=compiled_losses())
    whole = workload.optimisation.model_copy(
        update={"batch_size": setting.batch_size * setting.micro_batches, "epochs": 1}
    )
    shape = ((_WARM_UP + steps) * whole.batch_size, setting.length)
    ids = np.random.RandomState(SEED).randint(setting.pair.vocab_size, size=shape).astype(np.int32)
    tokens = Tokens(ids=ids, separator=0, cross_document_targets=True, tokens_per_byte=1.0, key="calibration")
    ends = [time.perf_counter()]
    train(core, tokens, whole, device=device, on_step=lambda *_: ends.append(time.perf_counter()))
    taken = [after - earlier for earlier, after in itertools.pairwise(ends)]
    peaks = peak_gib(device)
    peak = peaks.get("cuda", peaks["process"] - before)
    return Calibrated(step_s=statistics.median(taken[_WARM_UP:]), peak_gib=peak)
