"""Cosine distance of hidden states: their direction counts, their length does not."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from strategies.registry import feature

# N = supervised positions, D = the teacher's hidden size


@feature("cosine", source="arXiv:1910.01108 (DistilBERT), cosine loss of hidden states")
def cosine(*, student_states: Float[Tensor, "N D"], teacher_states: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Compare each row by 1 - cos(student, teacher).

    Returns:
        A number in [0, 2]; exactly 0 where the states are equal, because it is computed as half the squared distance of
        the normalised states, which is the same.

    Provenance:
        Code: transformers examples/research_projects/distillation/distiller.py step
        Deviation: the student's state is projected first, and any layers can be paired; DistilBERT's states are of one
            size, the last layer's
        Test: tests/distill/test_features.py::test_cosine_and_layernorm_mse_equal_their_formulas
    """
    gap = normalize(student_states, dim=-1) - normalize(teacher_states, dim=-1)
    return gap.square().sum(dim=-1) / 2
