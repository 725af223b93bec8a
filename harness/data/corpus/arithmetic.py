"""Arithmetic: word problems with numbers small enough to be learnt from a few million tokens."""

from dataclasses import dataclass

from harness.data.corpus import words
from harness.data.corpus.draws import CorpusDraws
from harness.data.corpus.stories import pronoun


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A word problem.

    Attributes:
        prompt: the question, ending in "Answer:".
        working: the equations, without surrounding spaces.
        answer: the final number as digits.
    """

    prompt: str
    working: str
    answer: str


def _change(draws: CorpusDraws, total: int) -> tuple[str, str, int]:
    """Return a verb phrase with a number slot, the sign and the number of one change to `total`."""
    amount = draws.between(2, 19)
    if amount <= total and draws.chance(0.5):
        return draws.one(("gives away {}", "loses {}", "sells {}", "breaks {}", "drops {}")), "-", amount
    return draws.one(("buys {} more", "finds {} more", "gets {} more", "wins {} more", "makes {} more")), "+", amount


def _apply(total: int, sign: str, amount: int) -> int:
    return total + amount if sign == "+" else total - amount


def problem(draws: CorpusDraws) -> Problem:
    """Return a problem of one change, two changes, two owners or equal groups."""
    name, other = draws.chain(words.NAMES, 2)
    things = draws.one(words.COUNTABLES)
    he = pronoun(name).lower()
    place = draws.skewed(words.PLACES)
    setting = draws.one(("", "", f"In the {place}, ", f"On {draws.one(words.TIMES[5:12])}, "))
    kind = draws.one(("one", "one", "two", "owners", "groups"))
    if kind == "groups":
        groups, each, holders = draws.between(2, 6), draws.between(2, 6), draws.one(words.HOLDERS)
        facts = f"{setting}{name} has {groups} {holders} and each holds {each} {things}."
        question = f"How many {things} are there?"
        working, answer = f"{groups} * {each} = {groups * each}", groups * each
    elif kind == "owners":
        first, second = draws.between(2, 39), draws.between(2, 29)
        facts = f"{setting}{name} has {first} {things} and {other} has {second} {things}."
        question = f"How many {things} do they have?"
        working, answer = f"{first} + {second} = {first + second}", first + second
    else:
        start = draws.between(2, 39)
        phrase, sign, amount = _change(draws, start)
        answer = _apply(start, sign, amount)
        facts = f"{setting}{name} has {start} {things} and {phrase.format(amount)}."
        working = f"{start} {sign} {amount} = {answer}"
        if kind == "two":
            phrase, sign, amount = _change(draws, answer)
            facts += f" Then {he} {phrase.format(amount)}."
            working += f". {answer} {sign} {amount} = {_apply(answer, sign, amount)}"
            answer = _apply(answer, sign, amount)
        question = f"How many {things} does {name} have?"
    return Problem(prompt=f"Question: {facts} {question} Answer:", working=working, answer=str(answer))
