"""What stored things are of, whatever their kind."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from harness.config.base import Scalar
from harness.config.errors import UserError
from harness.data.tokens import Tokens
from harness.teacher.files import Indices


@dataclass(frozen=True, kw_only=True)
class Source:
    """One teacher over one data set, or over some of its sequences.

    Attributes:
        tokens: the data set.
        teacher: the teacher's fingerprint; empty where a workload has none, and only the student's scores are stored.
        tokenizer: the tokenizer's fingerprint.
        dtype: name of the dtype that the teacher computes in.
        only: indices of the sequences to hold, ascending; all if None.
        about: what these are called, for people (workload, data, teacher); not part of the identity.
    """

    tokens: Tokens
    teacher: str
    tokenizer: str
    dtype: str
    only: Indices | None = None
    about: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.only is None:
            return
        inside = len(self.only) > 0 and self.only[0] >= 0 and self.only[-1] < len(self.tokens)
        if not inside or (np.diff(self.only) <= 0).any():
            raise UserError(f"`only` must be ascending indices of sequences in [0, {len(self.tokens)}), at least one")

    @property
    def sequences(self) -> Indices:
        """The indices of the sequences to hold."""
        return np.arange(len(self.tokens)) if self.only is None else self.only.astype(np.int64)

    @property
    def num_tokens(self) -> int:
        """Tokens of the sequences to hold."""
        return len(self.sequences) * int(self.tokens.ids.shape[1])

    @property
    def ingredients(self) -> dict[str, Scalar]:
        """Everything the teacher's states depend on."""
        chosen = "all" if self.only is None else hashlib.sha256(self.sequences.tobytes()).hexdigest()[:16]
        return {
            "tokens": self.tokens.key,
            "teacher": self.teacher,
            "tokenizer": self.tokenizer,
            "dtype": self.dtype,
            "sequences": chosen,
            "num_sequences": len(self.sequences),
            "sequence_length": int(self.tokens.ids.shape[1]),
        }

    @property
    def row_ingredients(self) -> dict[str, Scalar]:
        """What a cache of valid positions depends on besides: which positions are valid."""
        return {**self.ingredients, "cross_document_targets": self.tokens.cross_document_targets}
