"""The text side of the embedded workload: its tokenizer and its packed windows."""

from collections.abc import Iterator
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.data.corpus import documents

# L = tokens in a window

END = "<|endoftext|>"
NUM_TOKENS = 2048
LENGTH = 128
# Words with their leading space, single digits, runs of other marks, spaces.
PIECES = r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"


def make_tokenizer(*, num_documents: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of exactly `NUM_TOKENS` tokens on the first documents of the pretrain split.

    Raises:
        ValueError: the documents hold too few words for that many tokens.
    """
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_TOKENS,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    stream = documents("pretrain")
    raw.train_from_iterator((next(stream).text for _ in range(num_documents)), trainer)
    if raw.get_vocab_size() != NUM_TOKENS:
        raise ValueError(f"{num_documents} documents give {raw.get_vocab_size()} tokens; {NUM_TOKENS} are needed")
    # The class has no types: through Any, its call passes a strict check wherever that is set.
    wrap: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = wrap(
        tokenizer_object=raw,
        eos_token=END,
        pad_token=END,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    return made


def end_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the id of the end-of-text token."""
    found = tokenizer.convert_tokens_to_ids(END)
    assert isinstance(found, int)
    return found


def windows(tokenizer: PreTrainedTokenizerFast, split: str) -> Iterator[list[int]]:
    """Yield endless windows of `LENGTH` tokens of a split, documents separated by the end-of-text token.

    Every second window starts with a document, as prompts do; the others start wherever the stream stands.
    """
    end = end_id(tokenizer)
    stream = documents(split)
    held: list[int] = []
    fresh = True
    while True:
        if fresh:
            held = []
        while len(held) < LENGTH:
            held += [*tokenizer.encode(next(stream).text, add_special_tokens=False), end]
        yield held[:LENGTH]
        held = held[LENGTH:]
        fresh = not fresh


def take_windows(tokenizer: PreTrainedTokenizerFast, split: str, count: int) -> torch.Tensor:
    """Return the first windows of a split, (count, L) token ids."""
    source = windows(tokenizer, split)
    return torch.tensor([next(source) for _ in range(count)])
