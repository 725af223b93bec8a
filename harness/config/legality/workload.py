"""What a workload cannot serve, and why: rules of a strategy on a workload, and of a workload on its models."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from harness.config.errors import UserError
from harness.config.legality.components import teacher_reader
from harness.config.legality.rule import Rule, enforce
from harness.config.strategy import Method, Rollout, Strategy
from harness.config.workload import Optimisation, Workload


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What only a workload's models tell; a rule about what is left out is not asked.

    Attributes:
        vocab_size: tokens of the tokenizer.
        layers: of the student's and the teacher's trunk, by whose.
        contexts: tokens that each can read, by whose.
    """

    vocab_size: int | None = None
    layers: Mapping[str, int] = field(default_factory=dict)
    contexts: Mapping[str, int] = field(default_factory=dict)


NO_FACTS = Facts()


def num_sequences(workload: Workload) -> int:
    """Return how many training sequences a workload has."""
    return workload.data.train_tokens // workload.data.sequence_length


def kept_samples(strategy: Strategy, num: int) -> int:
    """Return how many of so many training sequences a strategy learns from."""
    if strategy.samples is None:
        return num
    from strategies.base import sample_count  # with torch, which a list of workloads does without

    return sample_count(num, strategy.samples.budget)


S = TypeVar("S")


@dataclass(frozen=True)
class _Served(Generic[S]):
    """What a rule reads: what is asked for, of which workload, and what its models tell."""

    of: S
    workload: Workload
    facts: Facts


_METHOD: tuple[Rule[_Served[Method]], ...] = (
    Rule(
        lambda on: not _fills_a_batch(_kept(on.of, on.workload), on.workload.optimisation),
        lambda on: (
            f"samples.budget {on.of.samples.budget if on.of.samples else 1:g} keeps {_kept(on.of, on.workload)} of the "
            f"{num_sequences(on.workload)} training sequences of workload {on.workload.name!r}: "
            f"{_too_few(_kept(on.of, on.workload), on.workload.optimisation)}"
        ),
    ),
    Rule(
        lambda on: on.of.filtered and on.workload.optimisation.batch_size % on.of.filtered,
        lambda on: (
            f"samples.filtered {on.of.filtered} cuts a batch into groups, and optimisation.batch_size "
            f"{on.workload.optimisation.batch_size} of workload {on.workload.name!r} is not a multiple of it"
        ),
    ),
    Rule(
        lambda on: on.of.filtered and on.workload.resources.data_parallel > 1,
        lambda on: (
            "samples.filtered makes steps of one sequence or more, and resources.data_parallel "
            f"{on.workload.resources.data_parallel} needs as many micro-batches in each: set it to 1"
        ),
    ),
    Rule(
        lambda on: on.facts.vocab_size is not None and _num_classes(on.of) > on.facts.vocab_size,
        lambda on: (
            f"class policy {on.of.classes.name if on.of.classes else 'all'!r} cannot keep {_num_classes(on.of)} of "
            f"{on.facts.vocab_size} classes"
        ),
    ),
    Rule(
        lambda on: _missing_layers(on.of, on.facts),
        lambda on: _missing_layers(on.of, on.facts)[0],
    ),
)

_ROLLOUT: tuple[Rule[_Served[Rollout]], ...] = (
    Rule(
        lambda on: on.workload.data.pairs is not None and on.of.prompt_tokens is not None,
        lambda on: (
            f"rollout.prompt_tokens cuts prompts out of plain text, and workload {on.workload.name!r} has prompts of "
            "its own: leave it out"
        ),
    ),
    Rule(
        lambda on: on.workload.data.pairs is None and on.of.prompt_tokens is None,
        lambda on: (
            f"rollout: workload {on.workload.name!r} is plain text: say with rollout.prompt_tokens how long a cut of "
            "it the student continues"
        ),
    ),
    Rule(
        lambda on: on.workload.data.pairs is None and on.of.preference is not None,
        lambda on: (
            f"rollout.preference sets the student's answer against the data's, and workload {on.workload.name!r} is "
            "plain text without either"
        ),
    ),
    Rule(
        lambda on: on.workload.data.pairs is None and _room(on.of) > on.workload.data.sequence_length,
        lambda on: (
            f"rollout: a prompt of {on.of.prompt_tokens} and {on.of.max_new_tokens or 1} new tokens are "
            f"{_room(on.of)} tokens, more than data.sequence_length {on.workload.data.sequence_length} of workload "
            f"{on.workload.name!r}"
        ),
    ),
    Rule(
        lambda on: on.workload.resources.data_parallel > 1,
        lambda on: (
            "rollout: a global batch is generated in one process, and resources.data_parallel is "
            f"{on.workload.resources.data_parallel}: set it to 1"
        ),
    ),
)


def check_workload(workload: Workload, facts: Facts) -> None:
    """Refuse a workload whose sequences its own models cannot read.

    Raises:
        UserError: the setting, its value and what is allowed.
    """
    length = workload.data.sequence_length
    for model, limit in facts.contexts.items():
        if length > limit:
            raise UserError(
                f"workload {workload.name!r}: data.sequence_length {length} is more than the {model}'s context of "
                f"{limit} tokens"
            )


def check_diagnostics(workload: Workload) -> None:
    """Refuse to look at the training of a workload that no process sees whole.

    Raises:
        UserError: the setting and what is allowed.
    """
    num = workload.resources.data_parallel
    if num > 1:
        raise UserError(
            f"diagnostics look at a whole batch, and each of {num} processes sees a part: set resources.data_parallel "
            "to 1"
        )


def check(strategy: Strategy, workload: Workload, facts: Facts = NO_FACTS) -> None:
    """Refuse a strategy that `check_strategy` let pass and the workload cannot serve.

    Raises:
        UserError: the strategy needs a teacher, prompts or room and the workload has none, or cannot be shared out.
    """
    before = f"strategy {strategy.label!r}: "
    if strategy.rollout is not None:
        enforce(_ROLLOUT, _Served(strategy.rollout, workload, facts), before)
    reader = teacher_reader(strategy) if workload.teacher is None else None
    if reader is not None:
        raise UserError(f"{before}{reader} reads the teacher, and workload {workload.name!r} has none (teacher: null)")
    if not _fills_a_batch(num_sequences(workload), workload.optimisation):
        raise UserError(f"workload {workload.name!r}: {_too_few(num_sequences(workload), workload.optimisation)}")
    if isinstance(strategy, Method):
        enforce(_METHOD, _Served(strategy, workload, facts), before)


def _fills_a_batch(num: int, optimisation: Optimisation) -> bool:
    return num * optimisation.epochs >= optimisation.batch_size


def _too_few(num: int, optimisation: Optimisation) -> str:
    return f"{num} sequences do not fill one batch of {optimisation.batch_size}"


def _kept(method: Method, workload: Workload) -> int:
    return kept_samples(method, num_sequences(workload))


def _num_classes(method: Method) -> int:
    """Return how many classes are kept of a position, where a number says so."""
    return int(method.classes.options.get("num", 0)) if method.classes is not None else 0


def _missing_layers(method: Method, facts: Facts) -> list[str]:
    """Name the layers that are to be compared and that a model does not have."""
    if method.feature is None or method.feature.layers == "last":
        return []
    return [
        f"feature.layers names the {model}'s layer {layer}, and it has {facts.layers[model]}"
        for pair in method.feature.layers
        for model, layer in zip(("student", "teacher"), pair, strict=True)
        if layer > facts.layers.get(model, layer)
    ]


def _room(rollout: Rollout) -> int:
    return (rollout.prompt_tokens or 0) + (rollout.max_new_tokens or 1)
