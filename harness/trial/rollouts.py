"""On-policy trials: what writes their sequences, and what the record says of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from harness.config import Strategy
from harness.data.tokens import Tokens
from harness.distill.rollout import Writer
from harness.distill.tally import Tally
from harness.records.record import Rollouts
from harness.trial.trial import Trial


def make_writer(
    trial: Trial, tokens: Tokens, vocab_size: int, *, aside: Callable[[], AbstractContextManager[None]]
) -> Writer | None:
    """Return what writes a trial's sequences, None for a trial that trains on the data alone.

    Args:
        trial: the trial.
        tokens: the training sequences.
        vocab_size: tokens of the tokenizer.
        aside: entered around generation, to time it.
    """
    settings = trial.strategy.rollout
    if settings is None:
        return None
    return Writer(settings=settings, tokens=tokens, vocab_size=vocab_size, seed=trial.seed or 0, aside=aside)


def summary(tally: Tally, strategy: Strategy) -> Rollouts | None:
    """Return what a record says of the text that the student wrote, None for a trial without."""
    if strategy.rollout is None:
        return None
    return Rollouts(sequences=tally.rollouts, generated_tokens=tally.generated, ended=tally.ended)
