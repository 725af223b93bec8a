"""DPKD: the data's answer preferred over the student's own, with the teacher as reference (arXiv:2406.19774).

For a prompt's answers y_T (the data's) and y_S (the student's) the loss is -log sigmoid(beta * m) with the margin
m = log q(y_T)/p(y_T) - log q(y_S)/p(y_S), sums over whole sequences. Its gradient is that of cross-entropy, weighed by
+c on y_T and by -c on y_S, c = beta * sigmoid(-beta * m): margins are computed first, then every row has its weight and
the chunked loss does the rest. What the value of the loss lacks then is a number per pair. Unlike the other losses of
the paper's kind it is not divided by the lengths of the answers.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

# B = sequences, the data's and the student's by turns, L = positions


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A preference as weighed cross-entropies, divided by the number of pairs: sums over a global batch are means.

    Attributes:
        weight: signed weight of every position.
        offset: what the weighed cross-entropies lack of the loss.
    """

    weight: Float[Tensor, "B L"]
    offset: Float[Tensor, "B L"]

    def split(self, sizes: list[int]) -> list["Preference"]:
        """Cut a global batch's into those of its micro-batches."""
        parts = zip(self.weight.split(sizes), self.offset.split(sizes), strict=True)
        return [Preference(weight=weight, offset=offset) for weight, offset in parts]


def prefer(
    excess_loss: Float[Tensor, "B L"], student_ce: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], *, beta: float
) -> Preference:
    """Weigh every position of pairs of answers.

    Args:
        excess_loss: log p - log q of each next token.
        student_ce: -log q of it.
        valid: positions of the answers.
        beta: how fast the preference saturates.
    """
    num_pairs = len(valid) // 2
    assert 2 * num_pairs == len(valid), "every answer of the data has the student's behind it"
    ratio, loss = (
        values.double().masked_fill(~valid, 0.0).sum(dim=-1).view(num_pairs, 2) for values in (excess_loss, student_ce)
    )
    margin = ratio[:, 1] - ratio[:, 0]
    slope = beta * (-beta * margin).sigmoid() / num_pairs
    sign = slope.new_tensor([1.0, -1.0])
    weight = (slope[:, None] * sign).view(-1, 1) * valid
    lacking = F.softplus(-beta * margin) / num_pairs - slope * (loss[:, 0] - loss[:, 1])
    offset = weight.new_zeros(valid.shape)
    offset[::2, 0] = lacking
    return Preference(weight=weight.to(student_ce.dtype), offset=offset)
