"""Evaluation items made from documentation: from documents of their own split, which no training text shares.

Sentences are prose (letters, a full stop) that stands only once in all documents, so that no choice is right twice and
none was read in training.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.data.documents.corpus import Documents
from harness.data.documents.read import Document

Item = dict[str, object]

NUM_CHOICES = 4
# Words of a sentence, of what is to be continued, and of a summary.
SENTENCE_WORDS, ENDING_WORDS, SUMMARY_WORDS = range(9, 18), 5, range(4, 11)
# Words before a last word that is asked for, at most.
CONTEXT_WORDS = 60
# Sentences of one document, so that items differ in what they are about.
_PER_DOCUMENT = 3
_LONGEST_SIGNATURE = 64
_PROSE = re.compile(r"[A-Z][\w'`,;:()*/ -]+\.")
_WORD, _LAST_WORD = re.compile(r"[a-z]{5,}"), re.compile(r"[a-z]{3,}")
END_PHRASE = "That is all."


@dataclass(frozen=True, kw_only=True)
class _Instruction:
    """A kind of instruction, shown with an example answered, and the verifier of IFEval that judges it."""

    verifier: str
    prompt: str


_EXAMPLE = "Text: Sort the rows of a table.\nAnswer: {answer}\nText: {{summary}}\nAnswer:"
_INSTRUCTIONS = (
    _Instruction(
        verifier="change_case:english_capital",
        prompt="Write the text in capital letters.\n" + _EXAMPLE.format(answer="SORT THE ROWS OF A TABLE."),
    ),
    _Instruction(
        verifier="startend:quotation",
        prompt="Put the text in double quotation marks.\n" + _EXAMPLE.format(answer='"Sort the rows of a table."'),
    ),
    _Instruction(
        verifier="keywords:existence",
        prompt="Write a sentence that has both words.\nWords: rows, table\nAnswer: We sort the rows of the table.\n"
        "Words: {first}, {second}\nAnswer:",
    ),
    _Instruction(
        verifier="detectable_format:title",
        prompt="Put the text in double angular brackets.\n" + _EXAMPLE.format(answer="<<Sort the rows of a table.>>"),
    ),
    _Instruction(
        verifier="startend:end_checker",
        prompt=f'Repeat the text, and end with "{END_PHRASE}"\n'
        + _EXAMPLE.format(answer=f"Sort the rows of a table. {END_PHRASE}"),
    ),
)


def items(task: str, documents: Documents, split: str, num: int | None) -> list[Item]:
    """Return the first items of a task, the same ones every time; more items extend the list.

    Args:
        task: a name in `TASKS`.
        documents: docstrings.
        split: "validation" or "test".
        num: how many at most; all there are if None.

    Returns:
        JSON-ready items, all with different prompts. docs_lastword: context, target (with its leading space).
        docs_continuation and docs_signature: context, choices (four, of one package), gold (index).
        docs_instructions: the columns of IFEval (key, prompt, instruction_id_list, kwargs).
    """
    whole: dict[str, Item] = {}
    for prompt, item in MAKERS[task](documents.splits[split], _unique(documents)):
        if num is not None and len(whole) == num:
            break
        whole.setdefault(prompt, item)
    return list(whole.values())


@functools.lru_cache(maxsize=2)
def _unique(documents: Documents) -> frozenset[str]:
    """Return the sentences that stand once in all documents."""
    counts = Counter(
        sentence for split in documents.splits.values() for each in split for sentence in _sentences(each.text)
    )
    return frozenset(sentence for sentence, count in counts.items() if count == 1)


def _sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a docstring's paragraphs of prose, which begin at the left margin and are no list."""
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n")
        if all(line[:1].isalnum() or line[:1] in "`(" for line in lines):
            yield from (each for each in re.split(r"(?<=\.) ", " ".join(paragraph.split())) if _PROSE.fullmatch(each))


def _chosen(documents: Sequence[Document], unique: frozenset[str]) -> Iterator[tuple[Document, str]]:
    for document in documents:
        fitting = (each for each in _sentences(document.text) if each in unique and len(each.split()) in SENTENCE_WORDS)
        yield from ((document, each) for each, _ in zip(fitting, range(_PER_DOCUMENT), strict=False))


def _summaries(documents: Sequence[Document], unique: frozenset[str]) -> Iterator[tuple[Document, str]]:
    """Yield documents whose first paragraph is one short sentence, with it."""
    for document in documents:
        summary = " ".join(document.text.partition("\n\n")[0].split())
        if summary in unique and len(summary.split()) in SUMMARY_WORDS:
            yield document, summary


def _lastword(documents: Sequence[Document], unique: frozenset[str]) -> Iterator[tuple[str, Item]]:
    """Ask for last words that stand in the text before already, as most of LAMBADA's do (arXiv:1606.06031)."""
    for document in documents:
        sentences = list(_sentences(document.text))
        fitting = (number for number, each in enumerate(sentences) if each in unique)
        asked = (_before_last_word(sentences[: number + 1]) for number in fitting)
        for context, last in asked:
            if _LAST_WORD.fullmatch(last) and last in re.findall(r"\w+", context.lower()):
                yield context, {"context": context, "target": f" {last}"}


def _before_last_word(sentences: Sequence[str]) -> tuple[str, str]:
    """Return the last sentence without its last word, after as many sentences before it as there is room for."""
    text, _, last = sentences[-1].removesuffix(".").rpartition(" ")
    for sentence in reversed(sentences[:-1]):
        if len(f"{sentence} {text}".split()) > CONTEXT_WORDS:
            break
        text = f"{sentence} {text}"
    return text, last


def _continuation(documents: Sequence[Document], unique: frozenset[str]) -> Iterator[tuple[str, Item]]:
    parts = [
        (document.package, " ".join(words[:-ENDING_WORDS]), " " + " ".join(words[-ENDING_WORDS:]))
        for document, sentence in _chosen(documents, unique)
        for words in [sentence.split()]
    ]
    yield from _choices(parts)


def _signature(documents: Sequence[Document], unique: frozenset[str]) -> Iterator[tuple[str, Item]]:
    parts = [
        (document.package, f'{document.signature}:\n    """', summary)
        for document, summary in _summaries(documents, unique)
        if "def __" not in document.signature and 0 < len(document.signature) <= _LONGEST_SIGNATURE
    ]
    yield from _choices(parts)


def _choices(parts: Sequence[tuple[str, str, str]]) -> Iterator[tuple[str, Item]]:
    """Set each right answer among those of the next three of its package.

    Args:
        parts: package, context and right answer.
    """
    of_package: dict[str, list[str]] = {}
    for package, _, answer in parts:
        of_package.setdefault(package, []).append(answer)
    places: Counter[str] = Counter()
    for number, (package, context, answer) in enumerate(parts):
        answers, place = of_package[package], places[package]
        places[package] += 1
        rivals = [answers[(place + step) % len(answers)] for step in range(1, NUM_CHOICES)]
        if len({answer, *rivals}) < NUM_CHOICES:
            continue
        # The right one takes every place equally often, so a model that prefers a place scores at chance.
        gold = number % NUM_CHOICES
        yield context, {"context": context, "choices": [*rivals[:gold], answer, *rivals[gold:]], "gold": gold}


def _instructions(documents: Sequence[Document], unique: frozenset[str]) -> Iterator[tuple[str, Item]]:
    """Ask every kind of instruction of every summary in turn: all summaries once, then the next kind of each."""
    summaries = [summary for _, summary in _summaries(documents, unique)]
    for shift in range(len(_INSTRUCTIONS)):
        for number, summary in enumerate(summaries):
            kind = _INSTRUCTIONS[(number + shift) % len(_INSTRUCTIONS)]
            words = list(dict.fromkeys(_WORD.findall(summary)))[:2]
            if len(words) < 2:
                continue
            prompt = kind.prompt.format(summary=summary, first=words[0], second=words[1])
            asked: Mapping[str, object] = {
                "keywords": words if kind.verifier == "keywords:existence" else None,
                "end_phrase": END_PHRASE if kind.verifier == "startend:end_checker" else None,
            }
            key = number * len(_INSTRUCTIONS) + shift
            yield prompt, {"key": key, "prompt": prompt, "instruction_id_list": [kind.verifier], "kwargs": [asked]}


MAKERS: Mapping[str, Callable[[Sequence[Document], frozenset[str]], Iterator[tuple[str, Item]]]] = {
    "docs_lastword": _lastword,
    "docs_continuation": _continuation,
    "docs_signature": _signature,
    "docs_instructions": _instructions,
}
TASKS = tuple(MAKERS)
