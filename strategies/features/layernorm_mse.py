"""Mean squared error of normalised hidden states: neither their scale nor their mean counts."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import layer_norm

from strategies.registry import feature

# N = supervised positions, D = the teacher's hidden size


@feature("layernorm_mse", source="arXiv:1412.6550 (FitNets), the hint loss, on layer-normalised states here")
def layernorm_mse(*, student_states: Float[Tensor, "N D"], teacher_states: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Compare each row by the mean over dimensions of (LN(student) - LN(teacher))^2, LN without learnt parameters.

    Returns:
        A number in [0, 4]; exactly 0 where the states are equal.

    Provenance:
        Code: none: of FitNets' own code nothing was read
        Deviation: states are layer-normalised, the regressor is one matrix, and the branch is trained beside the loss
            instead of before it
        Test: tests/distill/test_features.py::test_cosine_and_layernorm_mse_equal_their_formulas
    """
    size = [student_states.shape[-1]]
    return (layer_norm(student_states, size) - layer_norm(teacher_states, size)).square().mean(dim=-1)
