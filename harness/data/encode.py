"""Between text and tokens: pairs of a prompt and an answer padded to sequences, what a data set is, a token as text."""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.config import Data
from harness.config.annotations import PreTrainedTokenizerBase
from harness.config.errors import UserError
from harness.data.packing import check_known
from harness.data.pairs import PromptPair, pairs
from harness.data.text import TextSplit


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A data set before it is stored.

    Attributes:
        arrays: `ids` (S, L), and for pairs `spans` (S, 2): where prompt and whole text end.
        separator: the end-of-text token's id.
        tokens_per_byte: tokens of text per byte of text, separators not counted.
    """

    arrays: dict[str, npt.NDArray[np.int32]]
    separator: int
    tokens_per_byte: float

    @property
    def meta(self) -> dict[str, int | float | str]:
        """What is stored beside the arrays, their hash included."""
        return {
            "separator": self.separator,
            "tokens_per_byte": self.tokens_per_byte,
            "sha256": digest(*self.arrays.values()),
        }


def pad(data: Data, folder: Path, split: TextSplit, tokenizer: PreTrainedTokenizerBase, num_sequences: int) -> Encoded:
    """Tokenise prompts and answers, a pair to a sequence, with end-of-text tokens behind.

    Raises:
        UserError: too few pairs, a prompt that fills its sequence, or a token that is not in the vocabulary.
    """
    length, end = data.sequence_length, int(tokenizer.eos_token_id)
    ids = np.full((num_sequences, length), end, dtype=np.int32)
    spans = np.zeros((num_sequences, 2), dtype=np.int32)
    num_bytes = num_answer_tokens = 0
    chosen = list(itertools.islice(pairs(data, folder, split), num_sequences))
    if len(chosen) < num_sequences:
        raise UserError(
            f"the {split} split has {len(chosen)} pairs, the workload asks for {num_sequences * length} tokens in "
            f"sequences of {length}, which is {num_sequences} pairs: add pairs or lower train_tokens / heldout_tokens"
        )
    for number, (pair, prompt, answer) in enumerate(_encode_pairs(chosen, tokenizer)):
        check_known([*prompt, *answer], tokenizer, pair.place)
        if len(prompt) >= length:
            raise UserError(
                f"{pair.place}: the prompt is {len(prompt)} tokens long, which leaves no room for an answer in "
                f"data.sequence_length {length}"
            )
        whole = [*prompt, *answer, end][:length]
        ids[number, : len(whole)] = whole
        spans[number] = len(prompt), len(whole)
        num_bytes += len(pair.answer.encode())
        num_answer_tokens += len(answer)
    share = num_answer_tokens / num_bytes
    return Encoded(arrays={"ids": ids, "spans": spans}, separator=end, tokens_per_byte=share)


def digest(*arrays: npt.NDArray[np.int32]) -> str:
    """Hash what arrays hold."""
    hasher = hashlib.sha256()
    for array in arrays:
        hasher.update(array.tobytes())
    return hasher.hexdigest()[:16]


def _encode_pairs(
    chosen: Sequence[PromptPair], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[PromptPair, list[int], list[int]]]:
    """Encode prompts and answers apart, as a student meets the prompt alone before it writes."""
    prompts = tokenizer([pair.prompt for pair in chosen], add_special_tokens=False)["input_ids"]
    answers = tokenizer([pair.answer for pair in chosen], add_special_tokens=False)["input_ids"]
    return zip(chosen, prompts, answers, strict=True)


def token_text(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
    """Return how tokens are written: decoded, or as the vocabulary has them where they are no whole characters."""

    def text(token: int) -> str:
        decoded = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in decoded or not decoded else decoded

    return functools.cache(text)
