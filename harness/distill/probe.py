"""A dry run of a strategy's functions on a few random numbers: a broken plug-in is told before anything is loaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel

from harness.config import Method
from harness.config.errors import UserError, first_line
from harness.distill.compare import gather_rows
from harness.distill.objective import Objective, compile_strategy
from harness.distill.score import score_batch, signal_function
from harness.distill.shadow import shadow_signals
from strategies.base import StepContext, budget_count, log_probs, sample_count
from strategies.noise import cells, streams, uniform
from strategies.registry import POLICIES, SAMPLES, SIGNALS, order_signals

# A tiny batch: enough for every shape to be told apart.
_SEQUENCES, _LENGTH, _VOCABULARY = 2, 5, 7
_SAMPLES = 10


def probe(*strategies: Method) -> None:
    """Run the functions of trained strategies once; those of a combination that several strategies share, only once.

    Raises:
        UserError: one of them raises, returns another shape, or a number that is not finite; names it and its file.
    """
    results: dict[object, Any] = {}

    def once(key: object, function: Callable[..., Any], *arguments: Any) -> Any:
        if key not in results:
            results[key] = function(*arguments)
        return results[key]

    with _one_thread():
        for strategy in strategies:
            objective, vocabulary = compile_strategy(strategy), _vocabulary(strategy)
            position = strategy.position
            scored = (objective.scored, _text(position.signal))
            values, scores = once(("signals", scored, vocabulary), _probe_signals, objective, vocabulary)
            once(("policy", scored, _text(position)), _probe_policy, objective, scores)
            once(("temperature", scored, _text(strategy.temperature)), _probe_temperature, objective, scores)
            once(("feature", _text(strategy.feature)), _probe_feature, objective)
            compared = (objective.criterion_signals, _text(strategy.criterion), _text(strategy.classes))
            once(("loss", scored, vocabulary, compared), _probe_loss, objective, values, scores)
            once(("samples", _text(strategy.samples)), _probe_samples, strategy)


def _probe_signals(objective: Objective, vocabulary: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what the functions of a strategy read, row by row, and its signals laid out."""
    values, rows = _row_signals(objective.scored, objective.signal_function, vocabulary)
    with _named(", ".join(f"signal {name!r}" for name in objective.scored if name not in rows)):
        return values, _laid(objective.scored, objective.signal_function, rows)


def _row_signals(
    names: tuple[str, ...], function: Callable[[str], Any], vocabulary: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what functions read, row by row, and those of some signals that are of rows."""
    valid = _valid()
    values = _inputs(int(valid.sum()), vocabulary)
    values["noise"] = uniform(streams(0, torch.arange(_SEQUENCES)), _LENGTH)[valid]
    rows = [name for name in names if SIGNALS[name].traits["scope"] == "row"]
    for name in rows:
        values[name] = _call(function, name, values)
    return values, {name: values[name] for name in rows}


def _laid(
    names: tuple[str, ...], function: Callable[[str], Any], rows: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    return score_batch(names, function, rows, _valid(), torch.arange(_SEQUENCES * _LENGTH))


def _probe_policy(objective: Objective, scores: dict[str, torch.Tensor]) -> None:
    strategy, valid = objective.strategy, _valid()
    what = f"policy {strategy.position.policy.name!r}"
    first = StepContext(budget=strategy.budget, progress=0.0, keys=streams(0, torch.arange(_SEQUENCES)))
    ranked = scores[objective.signal] if objective.signal is not None else torch.zeros(valid.shape)
    state = None
    # A second step, since a policy with state may do something else then.
    for context in (first, replace(first, progress=0.5, last_loss=1.0)):
        with _named(what):
            selection, state = objective.policy.select(ranked, valid, context, state)
        shape, wanted = tuple(selection.weight.shape), tuple(valid.shape)
        if shape != wanted or not bool(torch.isfinite(selection.weight).all()):
            raise UserError(
                f"{what} returned weights of shape {shape}, or not finite; it must return finite weights of shape "
                f"{wanted}"
            )
        _check_number(strategy, selection.weight, valid)


def _probe_loss(objective: Objective, values: dict[str, torch.Tensor], scores: dict[str, torch.Tensor]) -> None:
    valid = _valid()
    rows = values | {name: scores[name][valid] for name in objective.criterion_signals}
    if objective.classes is not None:
        places = torch.arange(int(valid.sum()))
        with _named(f"class policy {objective.classes.name!r}"):
            target = objective.reduce(values["teacher_logprobs"], cells(places, places))
            sparse = gather_rows(target, values["student_logprobs"])
        if not bool(torch.isfinite(target.weight).all()) or bool((target.weight < 0).any()):
            raise UserError(f"class policy {objective.classes.name!r} returned weights that are negative or not finite")
        rows |= {"teacher_logprobs": sparse.teacher, "student_logprobs": sparse.student}
    with _named(f"criterion {objective.criterion.name!r}"):
        losses = objective.compare(rows)
    _checked(f"criterion {objective.criterion.name!r}", losses, int(valid.sum()))


def _text(part: BaseModel | float | None) -> str | float | None:
    """Return a part of a strategy as a key: its options are a dictionary, which is none."""
    return part.model_dump_json() if isinstance(part, BaseModel) else part


def _valid() -> torch.Tensor:
    return torch.ones((_SEQUENCES, _LENGTH), dtype=torch.bool)


def _probe_temperature(objective: Objective, scores: dict[str, torch.Tensor]) -> None:
    if objective.temperature is None:
        return
    valid = _valid()
    what = f"temperature {objective.temperature.name!r}"
    for progress in (0.0, 0.5):
        with _named(what):
            temperatures = objective.heat(scores, valid, progress)
        if (
            temperatures.shape != valid.shape
            or not bool(torch.isfinite(temperatures).all())
            or not bool((temperatures > 0).all())
        ):
            raise UserError(
                f"{what} returned {temperatures.tolist()}; temperatures must be finite, above 0 and of shape "
                f"{tuple(valid.shape)}"
            )


def _probe_feature(objective: Objective) -> None:
    if objective.feature is None:
        return
    states = _inputs(_SAMPLES, _VOCABULARY)
    with _named(f"feature distance {objective.feature.name!r}"):
        distances = objective.distance(states["student_logits"], states["teacher_logits"])
    _checked(f"feature distance {objective.feature.name!r}", distances, _SAMPLES)


def _probe_samples(strategy: Method) -> None:
    """Run the functions of a strategy's sample axis once, if it has one.

    Raises:
        UserError: one of them raises, or returns what it must not; names it.
    """
    samples = strategy.samples
    if samples is None:
        return
    keys, scores = streams(0, torch.arange(_SAMPLES)), torch.zeros(_SAMPLES, dtype=torch.float64)
    if samples.signal is not None:
        values = _inputs(_SAMPLES, _VOCABULARY) | {"noise": uniform(keys, 1)[:, 0]}
        function = partial(signal_function, ranked_by=samples.signal)
        for name in order_signals([samples.signal.name]):
            values[name] = _call(function, name, values)
        scores = values[samples.signal.name].double()
    what = f"sample policy {samples.policy.name!r}"
    with _named(what):
        policy = SAMPLES[samples.policy.name].build(**samples.policy.options)
        kept = policy.choose(scores, samples.budget, uniform(keys, 1)[:, 0])
    count = sample_count(_SAMPLES, samples.budget)
    indices = kept.tolist() if isinstance(kept, torch.Tensor) else kept
    wanted = isinstance(kept, torch.Tensor) and kept.dtype == torch.int64 and kept.shape == (count,)
    if not wanted or indices != sorted(set(indices)) or not 0 <= indices[0] <= indices[-1] < _SAMPLES:
        raise UserError(
            f"{what} must return {count} indices of {_SAMPLES} sequences, ascending, each once, int64; "
            f"it returned {indices}"
        )


def probe_shadows() -> None:
    """Run every signal once that diagnostics ask for a shadow selection, whether a strategy uses it or not.

    Raises:
        UserError: one of them raises, or returns another shape or a number that is not finite; names it.
    """
    names = shadow_signals(None, with_teacher=True)
    _, rows = _row_signals(names, signal_function, _VOCABULARY)
    for name in names:
        with _named(f"signal {name!r}"):
            scores = _laid(order_signals([name]), signal_function, rows)
        _checked(f"signal {name!r}", scores[name].flatten(), _SEQUENCES * _LENGTH)


def _vocabulary(strategy: Method) -> int:
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


def _call(function: Callable[[str], Any], name: str, values: dict[str, torch.Tensor]) -> torch.Tensor:
    component = SIGNALS[name]
    with _named(f"signal {name!r}"):
        scores = function(name)(**{key: values[key] for key in component.inputs})
    return _checked(f"signal {name!r}", scores, len(values["targets"]))


def _checked(what: str, scores: Any, num: int) -> torch.Tensor:
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != (num,):
        shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise UserError(f"{what} must return one number per position, shape ({num},); it returned {shape}")
    if not bool(torch.isfinite(scores).all()):
        raise UserError(f"{what} returned {scores.tolist()} on ordinary logits; scores must be finite")
    return scores


def _check_number(strategy: Method, weight: torch.Tensor, valid: torch.Tensor) -> None:
    """Refuse a policy that declares to keep its budget and does not: the core relies on it for the number of rows."""
    name, budget = strategy.position.policy.name, strategy.budget
    if POLICIES[name].traits["keeps"] != "budget":
        return
    kept, wanted = (weight > 0).sum(dim=-1).tolist(), budget_count(valid, budget).tolist()
    if kept != wanted:
        raise UserError(
            f"policy {name!r} declares keeps='budget' but kept {kept} positions of its sequences at budget {budget}, "
            f"not {wanted}: declare keeps='varies'"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: among a few numbers a second one costs more than it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say which function an exception came from."""
    try:
        yield
    except Exception as error:
        message = first_line(error, empty="no message")
        raise UserError(f"{what} fails on a trial input: {type(error).__name__}: {message}") from error
