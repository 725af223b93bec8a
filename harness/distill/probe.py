"""A dry run of a strategy's functions on a few random numbers: a broken plug-in is told before anything is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness.config import Strategy
from harness.distill.objective import Objective, compile_strategy
from harness.distill.score import score_batch
from harness.distill.sparse import gather_rows
from harness.errors import UserError
from strategies.base import StepContext, log_probs
from strategies.noise import cells, streams, uniform
from strategies.registry import SIGNALS

# A tiny batch: enough for every shape to be told apart.
_SEQUENCES, _LENGTH, _VOCABULARY = 2, 5, 7


def probe(strategy: Strategy) -> None:
    """Run every function of a trained strategy once.

    Raises:
        UserError: one of them raises, returns another shape, or a number that is not finite; names it and its file.
    """
    objective = compile_strategy(strategy)
    valid = torch.ones((_SEQUENCES, _LENGTH), dtype=torch.bool)
    keys = streams(0, torch.arange(_SEQUENCES))
    values = _inputs(int(valid.sum()), _vocabulary(strategy))
    values["noise"] = uniform(keys, _LENGTH)[valid]
    rows = [name for name in objective.scored if SIGNALS[name].traits["scope"] == "row"]
    for name in rows:
        values[name] = _call(objective, name, values)
    batch_signals = ", ".join(f"signal {name!r}" for name in objective.scored if name not in rows)
    with _named(batch_signals):
        scores = score_batch(objective.scored, objective.signal_function, {name: values[name] for name in rows}, valid)
    context = StepContext(budget=_budget(strategy), progress=0.0, keys=keys)
    ranked = scores[objective.signal] if objective.signal is not None else torch.zeros(valid.shape)
    assert strategy.position is not None, "compile_strategy has checked it"
    with _named(f"policy {strategy.position.policy.name!r}"):
        selection, _ = objective.policy.select(ranked, valid, context, None)
    if selection.weight.shape != valid.shape or not bool(torch.isfinite(selection.weight).all()):
        raise UserError(
            f"policy {strategy.position.policy.name!r} returned weights of shape {tuple(selection.weight.shape)}, "
            f"or not finite; it must return finite weights of shape {tuple(valid.shape)}"
        )
    signals = {name: scores[name][valid] for name in objective.criterion_signals}
    if objective.classes is not None:
        places = torch.arange(int(valid.sum()))
        with _named(f"class policy {objective.classes.name!r}"):
            target = objective.reduce(values["teacher_logprobs"], cells(places, places))
            sparse = gather_rows(target, values["student_logprobs"])
        if not bool(torch.isfinite(target.weight).all()) or bool((target.weight < 0).any()):
            raise UserError(f"class policy {objective.classes.name!r} returned weights that are negative or not finite")
        values |= {"teacher_logprobs": sparse.teacher, "student_logprobs": sparse.student}
    with _named(f"criterion {objective.criterion.name!r}"):
        losses = objective.compare({**values, **signals})
    _checked(f"criterion {objective.criterion.name!r}", losses, int(valid.sum()))


def _vocabulary(strategy: Strategy) -> int:
    """Return enough classes for a policy that keeps a number of them."""
    num = strategy.classes.options.get("num", 0) if strategy.classes is not None else 0
    return max(_VOCABULARY, int(num) + 1)


def _inputs(num: int, vocab_size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = {model: torch.randn((num, vocab_size), generator=generator) for model in ("student", "teacher")}
    return {
        **{f"{model}_logits": rows for model, rows in logits.items()},
        **{f"{model}_logprobs": log_probs(rows) for model, rows in logits.items()},
        "targets": torch.randint(vocab_size, (num,), generator=generator),
    }


def _call(objective: Objective, name: str, values: dict[str, torch.Tensor]) -> torch.Tensor:
    component = SIGNALS[name]
    try:
        scores = objective.signal_function(name)(**{key: values[key] for key in component.inputs})
    except Exception as error:
        message = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        raise UserError(f"signal {name!r} fails on a trial input: {type(error).__name__}: {message}") from error
    return _checked(f"signal {name!r}", scores, len(values["targets"]))


def _checked(what: str, scores: Any, num: int) -> torch.Tensor:
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != (num,):
        found = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise UserError(f"{what} must return one number per position, shape ({num},); it returned {found}")
    if not bool(torch.isfinite(scores).all()):
        raise UserError(f"{what} returned {scores.tolist()} on ordinary logits; scores must be finite")
    return scores


def _budget(strategy: Strategy) -> float:
    position = strategy.position
    return position.budget if position is not None and position.budget is not None else 1.0


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say which function an exception came from."""
    try:
        yield
    except Exception as error:
        message = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        raise UserError(f"{what} fails on a trial input: {type(error).__name__}: {message}") from error
