"""Whether a workload's resources can do what its other settings ask for, and a process with the GPUs it has."""

import math

from harness.config.arithmetic import check_arithmetic
from harness.config.errors import UserError
from harness.config.legality.rule import Rule, enforce
from harness.config.workload import Workload

# Median of |w| for weights drawn as these models' are, normal with a standard deviation of 0.02.
_TYPICAL_WEIGHT = 0.0135
# Half the distance from there to the next number of bfloat16, which keeps 8 bits: a smaller step changes nothing.
# Adam's steps are about as large as the learning rate.
_LOST_BELOW = 2.0 ** (math.frexp(_TYPICAL_WEIGHT)[1] - 8) / 2

_RESOURCES: tuple[Rule[Workload], ...] = (
    Rule(
        lambda workload: (
            workload.resources.dtype == "bfloat16"
            and workload.optimisation.learning_rate < _LOST_BELOW
            and workload.lora is None
            and "master_weights" not in workload.optimisation.model_fields_set
        ),
        lambda workload: (
            f"optimisation.learning_rate {workload.optimisation.learning_rate:g} is below {_LOST_BELOW:.1e}, half the "
            f"spacing of bfloat16 at a weight of {_TYPICAL_WEIGHT:g}, so most steps would round away: set "
            "optimisation.master_weights to true (or to false, to have it so)"
        ),
    ),
    Rule(
        lambda workload: workload.resources.data_parallel > _micro_batches(workload),
        lambda workload: (
            f"resources.data_parallel is {workload.resources.data_parallel}, and a batch of "
            f"{workload.optimisation.batch_size} has {_micro_batches(workload)} micro-batches of "
            f"{workload.optimisation.micro_batch_size}: each process needs one"
        ),
    ),
    Rule(
        lambda workload: workload.resources.data_parallel > 1 and 0 < workload.resources.gpus < 1,
        lambda workload: (
            f"resources.data_parallel is {workload.resources.data_parallel}, so resources.gpus must be whole, not a "
            "share"
        ),
    ),
    Rule(
        lambda workload: workload.resources.shard_student and workload.resources.data_parallel == 1,
        "resources.shard_student shares a student out, and resources.data_parallel is 1",
    ),
    Rule(
        lambda workload: (
            workload.resources.shard_student and _micro_batches(workload) % workload.resources.data_parallel
        ),
        lambda workload: (
            f"resources.shard_student lets all processes compute each layer together, and {_micro_batches(workload)} "
            f"micro-batches are not as many for each of {workload.resources.data_parallel} (resources.data_parallel)"
        ),
    ),
    Rule(
        lambda workload: workload.resources.shard_student and workload.lora is not None,
        "resources.shard_student is for a student that is trained in full, and this one has lora",
    ),
    Rule(
        lambda workload: workload.resources.shard_student and workload.optimisation.optimiser == "adamw_8bit",
        "resources.shard_student cuts the optimiser's state by rows, which 8-bit states are not kept in: set "
        "optimisation.optimiser to adamw",
    ),
    Rule(
        lambda workload: (
            workload.resources.teacher_gpus > 0 and (workload.resources.gpus < 1 or workload.resources.gpus % 1)
        ),
        lambda workload: (
            f"resources.teacher_gpus is {workload.resources.teacher_gpus}, so resources.gpus must be whole and at "
            f"least 1, not {workload.resources.gpus:g}"
        ),
    ),
)


def check_resources(workload: Workload, where: str) -> None:
    """Refuse resources that contradict each other, or what is to be trained.

    Raises:
        UserError: the settings and what is allowed.
    """
    enforce(_RESOURCES, workload, f"{where}: ")
    # A machine that cannot pin runs what says nothing, and its records say that it could not.
    if "arithmetic" in workload.resources.model_fields_set:
        check_arithmetic(workload.resources.arithmetic, f"{where}: resources.arithmetic")


def check_gpus(workload: Workload, num: int, *, alone: bool) -> None:
    """Refuse a process with fewer GPUs than the teacher is to have, and the student where it is not alone.

    Raises:
        UserError: how many it takes and how many are there.
    """
    wanted, beside = workload.resources.teacher_gpus, "" if alone else ", besides the student"
    if num < wanted + (not alone):
        raise UserError(f"resources.teacher_gpus is {wanted}{beside}, and this process has {num} GPUs: lower it")


def _micro_batches(workload: Workload) -> int:
    return workload.optimisation.batch_size // workload.optimisation.micro_batch_size
