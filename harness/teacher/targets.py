"""Which targets a strategy trains from, where they are stored first and no teacher is in memory while it trains."""

from harness.config import Method
from harness.teacher.kinds.draws import StoredDraws
from harness.teacher.kinds.top_classes import TopClasses
from strategies.registry import CLASSES


def targets_of(strategy: Method, vocab_size: int) -> StoredDraws | TopClasses:
    """Return the kind of targets of a strategy that says `teacher: sampled` or `teacher: topk`."""
    return (draws_of if strategy.teacher == "sampled" else largest_of)(strategy, vocab_size)


def draws_of(strategy: Method, vocab_size: int) -> StoredDraws:
    """Return what a strategy's class policy `rs` draws, its defaults filled in."""
    assert strategy.classes is not None, "legality asks for class policy rs"
    options = CLASSES["rs"].defaults | strategy.classes.options
    return StoredDraws(
        draws=int(options["draws"]),
        proposal=float(options["proposal"]),
        seed=int(options["seed"]),
        temperature=_temperature(strategy),
        vocab_size=vocab_size,
    )


def largest_of(strategy: Method, vocab_size: int) -> TopClasses:
    """Return what a strategy's class policy `top_k` or `top_k_tail` keeps; stored as computed, in float32."""
    assert strategy.classes is not None, "legality asks for class policy top_k or top_k_tail"
    return TopClasses(
        k=int(strategy.classes.options["num"]),
        precision="float32",
        temperature=_temperature(strategy),
        vocab_size=vocab_size,
        tail=strategy.classes.name == "top_k_tail",
        renormalise=bool(strategy.classes.options.get("renormalise", False)),
    )


def _temperature(strategy: Method) -> float:
    assert isinstance(strategy.temperature, float), "legality asks for one temperature where targets are stored"
    return strategy.temperature
