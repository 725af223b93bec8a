"""Prompt/answer pairs: the embedded word problems, local files, or a hub data set."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Data
from harness.config.errors import UserError
from harness.data.corpus import CORPUS_SEED, owned
from harness.data.corpus.arithmetic import problem
from harness.data.corpus.draws import CorpusDraws
from harness.data.text import TextSplit, field_of, rows


@dataclass(frozen=True, kw_only=True)
class PromptPair:
    """A prompt and its answer, as the student reads and writes them.

    Attributes:
        place: where they come from, for messages.
        prompt: the text before.
        answer: the text after, without an end-of-text mark.
    """

    place: str
    prompt: str
    answer: str


def pairs(data: Data, folder: Path, split: TextSplit) -> Iterator[PromptPair]:
    """Yield the pairs of a split, always in the same order; without end where they are generated.

    Args:
        data: the workload's data section, with `pairs`.
        folder: where relative data files are looked up.
        split: which pairs.

    Raises:
        UserError: a row lacks a field, or one is empty; names the file, the row and the field.
    """
    settings = data.pairs
    assert settings is not None, "only for data of pairs"
    for place, row in _of_split(data, folder, split):
        prompt, answer = (field_of(row, field, place) for field in (settings.prompt_field, settings.answer_field))
        for field, text in ((settings.prompt_field, prompt), (settings.answer_field, answer)):
            if not text.strip():
                raise UserError(f"{place}: field {field!r} is empty")
        yield PromptPair(
            place=place,
            prompt=settings.prompt_template.replace("{prompt}", prompt),
            answer=settings.answer_template.replace("{answer}", answer),
        )


def _of_split(data: Data, folder: Path, split: TextSplit) -> Iterator[tuple[str, dict[str, Any]]]:
    assert data.pairs is not None, "only for data of pairs"
    if data.generator is not None:
        yield from ((f"generator {data.generator}, {split}, row {number}", word_problem(split, number))
                    for number in itertools.count())  # fmt: skip
    elif data.pairs.halved and split != "train":
        yield from itertools.islice(rows(data, folder, "test"), 0 if split == "validation" else 1, None, 2)
    else:
        yield from rows(data, folder, split)


def word_problem(split: TextSplit, index: int) -> dict[str, Any]:
    """Return the word problem of a split at an index: a pure function of both and of `CORPUS_SEED`.

    Its prompt belongs to the split by the corpus's own rule, so it stands in no text that the embedded models were
    pretrained on, and in no evaluation item of another split.
    """
    draws = CorpusDraws("pair", CORPUS_SEED, split, index)
    while True:
        task = problem(draws)
        if owned(split, task.prompt):
            return {"question": task.prompt, "answer": f"{task.working}. #### {task.answer}"}
