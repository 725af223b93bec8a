"""Evaluation items of the embedded workload, from the world of the corpus but from no text a model is trained on.

An item's prompt belongs to its split by the same hash rule as a document's, so no training document contains it.
"""

import functools
from collections.abc import Callable

from harness.data.corpus import CORPUS_SEED, owned
from harness.data.corpus.arithmetic import problem
from harness.data.corpus.draws import CorpusDraws
from harness.data.corpus.instructions import KINDS, instruction
from harness.data.corpus.stories import Story, story

ITEM_SPLITS = ("validation", "test")
NUM_CHOICES = 4
COMPLETION_PLOTS = frozenset({"placing", "travel", "shopping"})
LASTWORD_PLOTS = frozenset({"giving", "feeding", "colour"})


def _story_of(draws: CorpusDraws, plots: frozenset[str]) -> Story:
    while True:
        tale = story(draws)
        if tale.plot in plots:
            return tale


def _completion(draws: CorpusDraws, position: int) -> tuple[str, dict[str, object]]:
    tale = _story_of(draws, COMPLETION_PLOTS)
    # The right ending takes every place equally often, so a model that prefers a place scores at chance.
    gold = position % NUM_CHOICES
    choices = [f"{rival}." for rival in tale.rivals[: NUM_CHOICES - 1]]
    choices.insert(gold, f"{tale.ending}.")
    return tale.context, {"context": tale.context, "choices": choices, "gold": gold}


def _lastword(draws: CorpusDraws, _position: int) -> tuple[str, dict[str, object]]:
    tale = _story_of(draws, LASTWORD_PLOTS)
    return tale.context, {"context": tale.context, "target": tale.ending}


def _arithmetic(draws: CorpusDraws, _position: int) -> tuple[str, dict[str, object]]:
    task = problem(draws)
    return task.prompt, {"question": task.prompt, "answer": task.answer}


def _instructions(draws: CorpusDraws, position: int) -> tuple[str, dict[str, object]]:
    request = instruction(draws, kind=position % len(KINDS))
    return request.prompt, {
        "prompt": request.prompt,
        "verifier": request.verifier,
        "arguments": request.arguments,
    }


MAKERS: dict[str, Callable[[CorpusDraws, int], tuple[str, dict[str, object]]]] = {
    "tiny_completion": _completion,
    "tiny_lastword": _lastword,
    "tiny_arithmetic": _arithmetic,
    "tiny_instructions": _instructions,
}
TASKS = tuple(MAKERS)


def items(task: str, split: str, num: int) -> list[dict[str, object]]:
    """Return the first items of a task, the same ones every time; more items extend the list.

    Args:
        task: a name in `TASKS`.
        split: "validation" or "test".
        num: how many, all with different prompts.

    Returns:
        JSON-ready items. tiny_completion: context, choices (four, each with its leading space), gold (index).
        tiny_lastword: context, target (with its leading space). tiny_arithmetic: question, answer (digits; scored on
        what follows "####"). tiny_instructions: prompt, verifier, arguments (see `harness.evaluate.verifiers`).

    Raises:
        ValueError: the task or the split is unknown.
    """
    if task not in MAKERS:
        raise ValueError(f"unknown task {task!r}; allowed: {', '.join(TASKS)}")
    if split not in ITEM_SPLITS:
        raise ValueError(f"unknown item split {split!r}; allowed: {', '.join(ITEM_SPLITS)}")
    return [dict(item) for item in _made(task, split, num)]


@functools.lru_cache(maxsize=2 * len(MAKERS))
def _made(task: str, split: str, num: int) -> tuple[dict[str, object], ...]:
    rows: dict[str, dict[str, object]] = {}
    while len(rows) < num:
        position = len(rows)
        draws = CorpusDraws("item", CORPUS_SEED, task, split, position)
        prompt, item = MAKERS[task](draws, position)
        while prompt in rows or not owned(split, prompt):
            prompt, item = MAKERS[task](draws, position)
        rows[prompt] = item
    return tuple(rows.values())
