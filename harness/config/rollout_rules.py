"""What may not be combined with data that the student writes, and why."""

from harness.config import Strategy, Workload
from harness.config.errors import UserError
from strategies.registry import CRITERIA, TEACHER_INPUTS, raw_inputs


def check_rollout(strategy: Strategy, *, where: str) -> None:
    """Refuse on-policy training that nothing could serve, or that would teach the student its own tokens.

    Raises:
        UserError: the combination and the reason.
    """
    assert strategy.criterion is not None, "a trained strategy has one"
    named = f"{where}: rollout"
    assert strategy.rollout is not None, "only for strategies with rollouts"
    if strategy.rollout.preference is not None:
        _check_preference(strategy, f"{named}.preference")
    elif strategy.kd_weight < 1 or not raw_inputs(CRITERIA[strategy.criterion.name]) & TEACHER_INPUTS:
        what = f"lambda {strategy.kd_weight:g}" if strategy.kd_weight < 1 else f"criterion {strategy.criterion.name!r}"
        raise UserError(f"{named}: {what} is about the next token of the text, which is here the student's own choice")
    if strategy.teacher != "online":
        held = "hidden states" if strategy.teacher == "cached" else "targets"
        raise UserError(
            f"{named}: teacher: {strategy.teacher} holds {held} of the training text, and has none of what the student "
            "will write: use teacher: online"
        )
    if strategy.flow == "dense":
        raise UserError(f"{named}: flow: dense is the memory baseline of training on the data: use flow: chunked")


def _check_preference(strategy: Strategy, named: str) -> None:
    """Refuse what a preference between whole sequences leaves no room for."""
    assert strategy.criterion is not None, "a trained strategy has one"
    assert strategy.position is not None, "a trained strategy has one"
    wanted = {
        "criterion": (strategy.criterion.name, "cross_entropy"),
        "position.policy": (strategy.position.policy.name, "all"),
        "normaliser": (strategy.normaliser, "sum"),
        "lambda": (strategy.kd_weight, 1.0),
        "temperature": (strategy.temperature, 1.0),
        "classes": (strategy.classes, None),
        "feature": (strategy.feature, None),
    }
    for key, (given, allowed) in wanted.items():
        if given != allowed:
            raise UserError(
                f"{named} compares whole sequences by the probabilities of their tokens: {key} must be "
                f"{'left out' if allowed is None else allowed}"
            )


def check_prompts(strategy: Strategy, workload: Workload) -> None:
    """Refuse rollouts for which the workload has no prompts, or no room.

    Raises:
        UserError: the setting, its value and what is allowed.
    """
    rollout, data = strategy.rollout, workload.data
    if rollout is None:
        return
    named = f"strategy {strategy.label!r}: rollout"
    if data.pairs is not None:
        if rollout.prompt_tokens is not None:
            raise UserError(
                f"{named}.prompt_tokens cuts prompts out of plain text, and workload {workload.name!r} has prompts of "
                "its own: leave it out"
            )
        return
    if rollout.prompt_tokens is None:
        raise UserError(
            f"{named}: workload {workload.name!r} is plain text: say with rollout.prompt_tokens how long a cut of it "
            "the student continues"
        )
    if rollout.preference is not None:
        raise UserError(
            f"{named}.preference sets the student's answer against the data's, and workload {workload.name!r} is plain "
            "text without either"
        )
    needed = rollout.prompt_tokens + (rollout.max_new_tokens or 1)
    if needed > data.sequence_length:
        raise UserError(
            f"{named}: a prompt of {rollout.prompt_tokens} and {rollout.max_new_tokens or 1} new tokens are {needed} "
            f"tokens, more than data.sequence_length {data.sequence_length} of workload {workload.name!r}"
        )
