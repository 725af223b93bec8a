"""The texts that `harness new` writes: a component, its test, and a grid to try a plugin in."""

# {module} is where the component can be imported from, {class_name} its class where it is one.

SIGNAL = '''"""{title}: say in one line what it measures."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("{name}", source="unpublished")
def {name}(
    *, student_logprobs: Float[Tensor, "N V"], teacher_logprobs: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """Score each position by ...

    The keyword names are the inputs: keep what you need of student_logprobs, teacher_logprobs, student_logits,
    teacher_logits, targets (N,), noise (N,), or name any other signal, e.g. `kl`, to get its scores (N,).

    Returns:
        Unit and range. Higher scores are distilled first.
    """
    raise NotImplementedError("replace this line by the score")
'''

SIGNAL_TEST = '''"""What {name} must rank first. {contract}"""

import torch

from {module} import {name}


def test_{name}_ranks_what_it_is_meant_to() -> None:
    student = torch.tensor([[0.97, 0.02, 0.01], [0.34, 0.33, 0.33]]).log()
    teacher = torch.tensor([[0.97, 0.02, 0.01], [0.05, 0.90, 0.05]]).log()
    agreed, undecided = {name}(student_logprobs=student, teacher_logprobs=teacher)
    assert undecided > agreed, "state here which of two positions your signal must rank first"
'''

POLICY = '''"""{title}: say in one line which positions it keeps."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.registry import policy

# B = sequences, L = positions


@policy("{name}", source="unpublished")
@dataclass(frozen=True, kw_only=True)
class {class_name}:
    """Keep ...

    A field, such as `ramp: float`, becomes an option that a grid sets. `strategies.base` has what policies share:
    budget_count, rank_scores, keep_first. Random numbers are ctx.uniform's, so that batches may be split anyhow.
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Return a weight per position, 0 where not valid, what each sequence's sum is divided by, and the state."""
        raise NotImplementedError("replace this line by the selection")
'''

POLICY_TEST = '''"""What {name} must keep. {contract}"""

import torch

from {module} import {class_name}
from strategies.base import StepContext
from strategies.noise import streams


def test_{name}_keeps_what_it_is_meant_to() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
    valid = torch.tensor([[True, True, True, False]])
    context = StepContext(budget=0.34, progress=0.0, keys=streams(0, torch.arange(1)))
    selection, _ = {class_name}().select(scores, valid, context, None)
    kept = (selection.weight > 0).tolist()
    assert kept == [[False, True, True, False]], "state here which of four positions it must keep; the last is invalid"
'''

CRITERION = '''"""{title}: say in one line what it asks of the student."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("{name}", source="unpublished")
def {name}(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """Compare each row by ...

    The keyword names are the inputs: also student_logits, teacher_logits, targets (N,), or any signal by name.
    Gradients flow through the student's rows; `strategies.base.expectation` sums p * f where p may be 0.

    Returns:
        Nats and range; 0 where the rows are equal.
    """
    raise NotImplementedError("replace this line by the loss of each row")
'''

CRITERION_TEST = '''"""What {name} must cost. {contract}"""

import torch

from {module} import {name}


def test_{name}_costs_nothing_where_rows_are_equal_and_pulls_the_student_to_the_teacher() -> None:
    student = torch.tensor([[0.5, 0.2, -1.0], [0.5, 0.2, -1.0]], requires_grad=True)
    teacher = torch.tensor([[0.5, 0.2, -1.0], [-1.0, 0.2, 0.5]]).log_softmax(dim=-1)
    losses = {name}(teacher_logprobs=teacher, student_logprobs=student.log_softmax(dim=-1))
    equal, apart = losses.tolist()
    assert abs(equal) < 1e-6 < apart
    (grad,) = torch.autograd.grad(losses.sum(), student)
    assert grad[1, 0] > 0 > grad[1, 2], "the gradient must lower what the teacher considers unlikely"
'''

GRID = """# Hypothesis: say here what you expect of {name}, before you know.
workload: tiny
split: validation   # test is for the one table you publish
baseline: Full KD
strategies:
  - no_kd
  - full_kd
  - random_pos
  - se_kd
"""

# What one more row of a grid looks like.
ROWS = {
    "signal": "{{preset: se_kd, label: {label} 20%, source: unpublished, position: {{signal: {name}}}}}",
    "policy": "{{preset: se_kd, label: {label} 20%, source: unpublished, position: {{policy: {name}}}}}",
    "criterion": "{{preset: full_kd, label: {label}, source: unpublished, criterion: {name}}}",
}
