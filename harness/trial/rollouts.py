"""On-policy trials: what writes their sequences, what that costs, and what the record says of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from harness.config import Strategy, Workload
from harness.data.tokens import Tokens
from harness.distill.rollout import Writer
from harness.distill.tally import Tally
from harness.records.record import Rollouts
from harness.trial.meter import shape_of
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


def rollout_flops(tally: Tally, workload: Workload, vocab_size: int) -> dict[str, float]:
    """Return what generating cost by part, matrix products only; empty where nothing was generated.

    A trunk's operations are a part that grows with the positions and one that grows with the pairs of a position and
    one it could look at; passes over one and over two positions tell them apart.
    """
    if not tally.rollout_positions:
        return {}
    one, two = (shape_of(workload.student, workload.folder, length, workload.lora) for length in (1, 2))
    per_pair = (two.trunk_flops - 2 * one.trunk_flops) / 2
    per_position = one.trunk_flops - per_pair
    return {
        "rollout_trunk": per_position * tally.rollout_positions + per_pair * tally.rollout_attended,
        "rollout_head": 2.0 * vocab_size * one.hidden_size * tally.rollout_rows,
    }


def predict_rollouts(strategy: Strategy, workload: Workload, num_steps: int) -> Tally:
    """Return what generating would count if every rollout used all its room: an overestimate."""
    rollout, length = strategy.rollout, workload.data.sequence_length
    if rollout is None:
        return Tally()
    new = min(rollout.max_new_tokens or length, length - 1)
    prompt = rollout.prompt_tokens or max(length - new, 1)
    new = min(new, length - prompt)
    rows = round(num_steps * workload.optimisation.batch_size * rollout.share)
    # The last new token is not read again.
    attended = prompt * prompt + sum(prompt + number for number in range(1, new))
    return Tally(
        rollouts=rows,
        generated=rows * new,
        rollout_positions=rows * (prompt + new - 1),
        rollout_attended=rows * attended,
        rollout_rows=rows * new,
    )
