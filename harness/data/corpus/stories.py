"""Stories: people, places and objects to keep track of, closed by a sentence that the facts decide.

A story is a mood and a setting (hard to foresee), facts (who put what where), and a closing sentence whose end follows
from the facts (easy for a reader who kept track, hard for one who did not).
"""

from collections.abc import Callable
from dataclasses import dataclass

from harness.data.corpus import words
from harness.data.corpus.draws import CorpusDraws


@dataclass(frozen=True, kw_only=True)
class Story:
    """A story cut where its end becomes inferable.

    Attributes:
        plot: which plot it follows.
        context: everything up to the inferable end, without a trailing space.
        ending: the inferable end, starting with a space, without the final full stop.
        rivals: ends of the same form that the story makes plausible but wrong, the most plausible first.
    """

    plot: str
    context: str
    ending: str
    rivals: tuple[str, ...]


def article(noun: str) -> str:
    """Return the noun phrase with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def pronoun(name: str) -> str:
    """Return He or She, as the name asks."""
    return "She" if name in words.GIRLS else "He"


def possessive(name: str) -> str:
    """Return his or her, as the name asks."""
    return "her" if name in words.GIRLS else "his"


def opening(draws: CorpusDraws) -> str:
    """Return a sentence that sets the scene."""
    weather = draws.skewed(words.WEATHER)
    other, time = draws.favoured("other", weather, words.WEATHER), draws.favoured("time", weather, words.TIMES)
    place, village = draws.skewed(words.PLACES), draws.skewed(words.VILLAGES)
    sky = draws.favoured("sky", village, words.SKY)
    return draws.one(
        (
            f"It was a {weather} {time}.",
            f"It was a {weather} and {other} {time} in the {draws.favoured('place', time, words.PLACES)}.",
            f"One {weather} {time}, everything was {other}.",
            f"The {place} was {weather} and the {draws.favoured('place', place, words.PLACES)} was {other}.",
            f"Once there was a {draws.skewed(words.ADJECTIVES)} {place}.",
            f"On a {weather} {time} the {draws.favoured('place', time, words.PLACES)} was full of people.",
            f"It happened in {village} on a {draws.favoured('weather', village, words.WEATHER)} {time}.",
            f"In {village} the {sky} {draws.favoured('deed', sky, words.SKY_DEEDS)}.",
        )
    )


def aside(draws: CorpusDraws, name: str) -> str:
    """Return a sentence about a person that no closing asks for; much of it follows from who the person is."""
    mood, job = draws.favoured("mood", name, words.MOODS), draws.favoured("job", name, tuple(words.JOBS))
    adverb, village = draws.favoured("adverb", mood, words.ADVERBS), draws.favoured("village", name, words.VILLAGES)
    activity, relative = draws.favoured("activity", name, words.ACTIVITIES), draws.skewed(words.RELATIVES)
    animal, thing = draws.skewed(tuple(words.SOUNDS)), draws.favoured("thing", name, words.OBJECTS)
    look = draws.favoured("adjective", animal, words.ADJECTIVES)
    deed, garment = draws.favoured("deed", name, words.DEEDS), draws.favoured("garment", name, words.CLOTHES)
    topic, title = draws.favoured("topic", name, words.TOPICS), draws.skewed(words.TITLES)
    speech = draws.favoured("topic", title, words.TOPICS)
    plant, sky = draws.skewed(words.PLANTS), draws.skewed(words.SKY)
    his = possessive(name)
    return draws.one(
        (
            f"{name} felt {mood}.",
            f"{name} was {mood} and smiled {adverb}.",
            f'"I am so {mood}," said {name} {adverb}.',
            f"{name} was {article(job)} and worked in the {words.JOBS[job]}.",
            f"{article(look).capitalize()} {animal} {words.SOUNDS[animal]} {adverb}.",
            f"{name} liked {activity} with {his} {draws.favoured('relative', activity, words.RELATIVES)}.",
            f"{name} ate some {draws.favoured('food', name, words.FOODS)} and thought about {activity}.",
            f"{name} had {his} {draws.favoured('adjective', thing, words.ADJECTIVES)} {thing} as well.",
            f"The {relative} of {name} was {draws.favoured('mood', relative, words.MOODS)} too.",
            f"{name} {deed} and {draws.favoured('deed', deed, words.DEEDS)} {adverb}.",
            f"{name} read a book about {topic} and {draws.favoured('topic', topic, words.TOPICS)}.",
            f"{name} came from {village} and spoke {draws.favoured('language', village, words.LANGUAGES)}.",
            f"{name} wore {his} {draws.favoured('colour', garment, words.COLOURS)} {garment}.",
            f"{article(plant).capitalize()} grew there and the {sky} {draws.favoured('deed', plant, words.SKY_DEEDS)}.",
            f"The {title} talked about {speech} for {draws.one(words.AGES)} minutes.",
        )
    )


def _stories(plot: str, asked: list[tuple[str, str, list[str]]]) -> list[Story]:
    """Return one story end for each stem, ending and list of rivals, all without their leading space."""
    return [
        Story(plot=plot, context=stem, ending=f" {end}", rivals=tuple(f" {rival}" for rival in rivals))
        for stem, end, rivals in asked
    ]


def _placing(draws: CorpusDraws) -> tuple[list[str], list[Story]]:
    """Objects are put somewhere, one may be moved; where is each of them?"""
    count = draws.between(2, 3)
    people = draws.chain(words.NAMES, 2)
    objects, spots = draws.chain(words.OBJECTS, count), draws.chain(words.CONTAINERS, 7)
    sentences, now = [], dict(zip(objects, spots, strict=False))
    for thing, spot in now.items():
        verb = draws.favoured("verb", thing, ("put", "left", "hid", "placed", "dropped", "kept"))
        noun = f"{draws.favoured('colour', thing, words.COLOURS)} {thing}"
        sentences.append(f"{draws.one(people)} {verb} the {noun} {spot}.")
    if draws.chance(0.4):
        thing = draws.one(objects)
        sentences.append(f"Later, {draws.one(people)} moved the {thing} and now it was {spots[count]}.")
        now[thing] = spots[count]
    asked = []
    for thing in draws.several(objects, 2):
        stem = draws.one(
            (f"In the end, the {thing} was", f"So the {thing} was still", f"Everyone knew that the {thing} was",
             f"Where was the {thing}? It was")
        )  # fmt: skip
        # Spots come in the order of the story, so those it names are the first rivals.
        asked.append((stem, now[thing], [spot for spot in spots if spot != now[thing]]))
    return sentences, _stories("placing", asked)


def _travel(draws: CorpusDraws) -> tuple[list[str], list[Story]]:
    """People go to places with something in hand; where is each of them?"""
    count = draws.between(2, 3)
    people, places = draws.chain(words.NAMES, count), draws.chain(words.PLACES, 7)
    sentences, now = [], dict(zip(people, places, strict=False))
    for name, place in now.items():
        walk = draws.favoured("walk", name, words.WALKS)
        adverb, thing = draws.favoured("adverb", walk, words.ADVERBS), draws.favoured("thing", name, words.OBJECTS)
        tail = draws.one(("", f" {adverb}", f" with {article(thing)}"))
        sentences.append(f"{name} {walk} to the {place}{tail}.")
    if draws.chance(0.4):
        name = draws.one(people)
        walk = draws.favoured("walk", name, words.WALKS)
        sentences.append(f"Then {name} left the {now[name]} and {walk} to the {places[count]}.")
        now[name] = places[count]
    asked = []
    for name in draws.several(people, 2):
        stem = draws.one(
            (f"At last, {name} was in the", f"Where was {name}? {pronoun(name)} was in the",
             f"That {draws.skewed(words.TIMES)}, {name} stayed in the", f"So they found {name} in the")
        )  # fmt: skip
        asked.append((stem, now[name], [place for place in places if place != now[name]]))
    return sentences, _stories("travel", asked)


def _shopping(draws: CorpusDraws) -> tuple[list[str], list[Story]]:
    """People get coloured things; what does each of them have, or of which colour is it?"""
    count = draws.between(2, 3)
    people = draws.chain(words.NAMES, count)
    things, colours = draws.chain(words.OBJECTS, count + 2), draws.chain(words.COLOURS, count + 2)
    goods = [f"{colour} {thing}" for colour, thing in zip(colours, things, strict=True)]
    sentences = [f"They all met in the {draws.skewed(words.PLACES)}."] if draws.chance(0.4) else []
    for name, good in zip(people, goods, strict=False):
        verb = draws.favoured("get", name, ("bought", "found", "wanted", "made"))
        kind = f" {draws.favoured('material', good, words.MATERIALS)}" if draws.chance(0.3) else ""
        sentences.append(f"{name} {verb} the{kind} {good}.")
    by_colour = draws.chance(0.5)
    asked = []
    for index in draws.several(range(count), 2):
        name, thing, other = people[index], things[index], (index + 1) % count
        if by_colour:
            stem = draws.one((f"The colour of the {thing} was", f"So {name} said that the {thing} was"))
            asked.append((stem, colours[index], [colour for colour in colours if colour != colours[index]]))
        else:
            stem = draws.one((f"In the evening, {name} showed everyone the", f"On the way home, {name} carried the",
                              f"What did {name} have? {pronoun(name)} had the"))  # fmt: skip
            mixed = [f"{colours[index]} {things[other]}", f"{colours[other]} {thing}"]
            seen = [good for good in goods[:count] if good != goods[index]]
            asked.append((stem, goods[index], seen + mixed + goods[count:]))
    return sentences, _stories("colour" if by_colour else "shopping", asked)


def _giving(draws: CorpusDraws) -> tuple[list[str], list[Story]]:
    """Things change hands; who has each of them, or had it before?"""
    people, things = draws.chain(words.NAMES, 4), draws.chain(words.OBJECTS, 2)
    verbs = [draws.favoured("give", thing, ("gave", "sold", "lent", "handed", "threw")) for thing in things]
    sentences = [
        f"{giver} {verb} the {draws.favoured('adjective', thing, words.ADJECTIVES)} {thing} to {taker}."
        for giver, verb, thing, taker in zip(people[::2], verbs, things, people[1::2], strict=True)
    ]
    asked = []
    for index in draws.several(range(2), 2):
        giver, taker, thing = people[2 * index], people[2 * index + 1], things[index]
        stem, end = draws.one(
            ((f"Now the {thing} belonged to", taker), (f"The new owner of the {thing} was", taker),
             (f"Before that, the {thing} belonged to", giver), (f"The old owner of the {thing} was", giver))
        )  # fmt: skip
        asked.append((stem, end, [name for name in people if name != end]))
    return sentences, _stories("giving", asked)


def _feeding(draws: CorpusDraws) -> tuple[list[str], list[Story]]:
    """Animals are fed; what did each of them eat, or who fed it?"""
    people, animals = draws.chain(words.NAMES, 4), draws.chain(words.ANIMALS, 2)
    foods = draws.chain(words.FOODS, 4)
    sentences = [
        draws.one((f"{name} fed {food} to the {animal}.", f"{name} brought {food} for the {animal}."))
        for name, food, animal in zip(people, foods, animals, strict=False)
    ]
    asked = []
    for index in draws.several(range(2), 2):
        animal, food, name = animals[index], foods[index], people[index]
        if draws.chance(0.6):
            stem = draws.one((f"The {animal} liked the", f"The {animal} ate all of the"))
            asked.append((stem, food, [other for other in foods if other != food]))
        else:
            stem = draws.one((f"The {animal} looked at", f"After that, the {animal} always followed"))
            asked.append((stem, name, [other for other in people if other != name]))
    return sentences, _stories("feeding", asked)


PLOTS: dict[str, Callable[[CorpusDraws], tuple[list[str], list[Story]]]] = {
    "placing": _placing,
    "travel": _travel,
    "shopping": _shopping,
    "giving": _giving,
    "feeding": _feeding,
}


def story(draws: CorpusDraws) -> Story:
    """Return a story with a setting, facts, perhaps asides, and the stem of its closing sentence."""
    facts, (other, closing) = PLOTS[draws.one(tuple(PLOTS))](draws)
    setting = [opening(draws)] if draws.chance(0.5) else []
    names = [word.strip('.,"') for sentence in facts for word in sentence.split() if word.strip('.,"') in words.NAMES]
    asides = dict.fromkeys(aside(draws, draws.one(names)) for _ in range(draws.between(0, 2)))
    # An aside falls anywhere among the facts, so the distance between a fact and its closing varies.
    for sentence in asides:
        facts.insert(draws.below(len(facts) + 1), sentence)
    # Most stories answer a question about something else first: twice the practice at looking back.
    answered = [f"{other.context}{other.ending}."] if draws.chance(0.7) else []
    context = " ".join([*setting, *facts, *answered, closing.context])
    return Story(plot=closing.plot, context=context, ending=closing.ending, rivals=closing.rivals)
