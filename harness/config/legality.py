"""What may not be combined, and why: a strategy that cannot mean what it says is refused before anything runs."""

from harness.config import Choice, Feature, Samples, Strategy, Workload
from harness.config.errors import UserError, unknown
from harness.config.rollout_rules import check_prompts, check_rollout
from strategies.registry import (
    CLASSES,
    CRITERIA,
    FEATURES,
    POLICIES,
    SAMPLES,
    SIGNALS,
    TEACHER_INPUTS,
    TEMPERATURES,
    Component,
    Registry,
    order_signals,
    raw_inputs,
)


def check_strategy(strategy: Strategy, *, where: str = "strategy") -> None:
    """Refuse a combination that cannot mean what it says.

    Args:
        strategy: the strategy.
        where: how to name it in an error.

    Raises:
        UserError: the combination and the reason, or an option out of its range.
        UnknownNameError: a component nobody registered.
    """
    position, criterion = strategy.position, strategy.criterion
    if not strategy.train:
        axes = ("position", "criterion", "classes", "samples", "feature", "rollout")
        idle = [name for name in axes if getattr(strategy, name) is not None]
        if isinstance(strategy.temperature, Choice):
            idle.append("temperature")
        if idle:
            raise UserError(f"{where}: train is false, so {' and '.join(idle)} would do nothing: leave them out")
        return
    if strategy.model == "teacher":
        raise UserError(f"{where}: only the student can be trained: model must be student, or train false")
    if position is None or criterion is None:
        raise UserError(f"{where}: a trained strategy needs both position and criterion")
    policy = _component(POLICIES, position.policy, where)
    _component(CRITERIA, criterion, where)
    try:
        policy.build(**position.policy.options)
    except ValueError as error:
        raise UserError(f"{where}: policy {policy.name!r}: {error}") from None
    if policy.traits["scored"] and position.signal is None:
        raise UserError(f"{where}: policy {policy.name!r} ranks positions, so position.signal must name a signal")
    if not policy.traits["scored"] and position.signal is not None:
        raise UserError(
            f"{where}: policy {policy.name!r} reads no scores, so signal {position.signal.name!r} would do nothing"
        )
    if policy.traits["budgeted"] and position.budget is None:
        raise UserError(f"{where}: policy {policy.name!r} needs position.budget, a share in (0, 1]")
    if not policy.traits["budgeted"] and position.budget is not None:
        raise UserError(f"{where}: policy {policy.name!r} has no budget, so budget {position.budget} would do nothing")
    if position.signal is not None:
        order_signals([_component(SIGNALS, position.signal, where).name])
    if strategy.samples is not None:
        _check_samples(strategy.samples, where)
    if strategy.classes is not None:
        _check_classes(strategy, _component(CLASSES, strategy.classes, where), strategy.classes, where)
    if isinstance(strategy.temperature, Choice):
        _check_temperature(strategy, strategy.temperature, where)
    if strategy.feature is not None:
        _check_feature(strategy, strategy.feature, where)
    if strategy.rollout is not None:
        check_rollout(strategy, where=where)
    if strategy.stored:
        _check_stored(strategy, where)


def _check_temperature(strategy: Strategy, choice: Choice, where: str) -> None:
    """Refuse a temperature that nothing is compared at, or that stored targets were not made at."""
    component = _component(TEMPERATURES, choice, where)
    named = f"{where}: temperature {component.name!r}"
    order_signals(name for name in component.inputs if name in SIGNALS)
    if strategy.kd_weight == 0:
        raise UserError(f"{named} softens the distributions that are compared, and lambda 0 compares none")
    if strategy.stored:
        raise UserError(
            f"{named} gives every position its own, and teacher: {strategy.teacher} holds targets made at one "
            "temperature: use teacher: cached or online, or a number"
        )


def _check_feature(strategy: Strategy, feature: Feature, where: str) -> None:
    """Refuse a branch on hidden states that are not at hand."""
    distance = _component(FEATURES, feature.distance, where)
    named = f"{where}: feature {distance.name!r}"
    if feature.signal is not None:
        order_signals([SIGNALS[feature.signal].name])
    if strategy.stored:
        raise UserError(
            f"{named} compares hidden states, and teacher: {strategy.teacher} holds a few classes: use teacher: cached "
            "or online"
        )
    if feature.layers != "last" and strategy.teacher != "online":
        raise UserError(
            f"{named} compares layers {list(map(list, feature.layers))}, and the cache holds the teacher's final "
            "states only: use layers: last or teacher: online"
        )


def _check_samples(samples: Samples, where: str) -> None:
    policy = _component(SAMPLES, samples.policy, where)
    if policy.traits["scored"] and samples.signal is None:
        raise UserError(f"{where}: sample policy {policy.name!r} ranks sequences, so samples.signal must name a signal")
    if not policy.traits["scored"] and samples.signal is not None:
        raise UserError(
            f"{where}: sample policy {policy.name!r} reads no scores, so signal {samples.signal.name!r} would do "
            "nothing"
        )
    try:
        policy.build(**samples.policy.options)
    except ValueError as error:
        raise UserError(f"{where}: sample policy {policy.name!r}: {error}") from None
    if samples.signal is None:
        return
    for name in order_signals([_component(SIGNALS, samples.signal, where).name]):
        if SIGNALS[name].traits["scope"] == "batch":
            raise UserError(
                f"{where}: samples.signal {samples.signal.name!r} cannot score sequences: signal {name!r} compares the "
                "positions of a batch, so a sequence's score would depend on which others it is scored with"
            )


def _check_stored(strategy: Strategy, where: str) -> None:
    """Refuse stored targets for anything that needs more of the teacher."""
    kind, policies = strategy.teacher, strategy.stored_policies
    if strategy.classes is None or strategy.classes.name not in policies:
        raise UserError(f"{where}: teacher: {kind} holds targets of {' or '.join(policies)}: classes must be that")
    if strategy.flow == "dense":
        raise UserError(f"{where}: flow: dense computes every teacher logit, and teacher: {kind} holds a few classes")
    for part in (strategy.position, strategy.samples):
        if part is not None and part.signal is not None and raw_inputs(SIGNALS[part.signal.name]) & TEACHER_INPUTS:
            raise UserError(
                f"{where}: signal {part.signal.name!r} reads the teacher's whole distribution, and teacher: {kind} "
                "holds a few classes, from which it would be biased: use teacher: cached or online"
            )


def _check_classes(strategy: Strategy, classes: Component, choice: Choice, where: str) -> None:
    """Refuse a class policy whose target the rest of the strategy cannot use."""
    assert strategy.criterion is not None, "a trained strategy has one"
    criterion, named = CRITERIA[strategy.criterion.name], f"{where}: class policy {classes.name!r}"
    if not raw_inputs(criterion) & TEACHER_INPUTS:
        raise UserError(f"{named} reduces the teacher's rows, and criterion {criterion.name!r} reads no teacher")
    if strategy.kd_weight == 0:
        raise UserError(f"{named} reduces the teacher's rows, and lambda 0 leaves the teacher out")
    allowed = classes.traits["criteria"]
    if allowed and criterion.name not in allowed:
        raise UserError(
            f"{named} goes with {', '.join(allowed)} only, not with {criterion.name!r}: {classes.traits['because']}"
        )
    if criterion.traits["whole"]:
        raise UserError(
            f"{named} keeps a few classes, and criterion {criterion.name!r} is about all of them one by one: it would "
            "mean something else"
        )
    foreign = [name for name in criterion.inputs if name not in ("teacher_logprobs", "student_logprobs")]
    if foreign:
        raise UserError(
            f"{named} keeps a few classes, and criterion {criterion.name!r} reads {foreign[0]!r}, which is about all "
            "of them: choose a criterion that reads teacher_logprobs and student_logprobs alone"
        )
    if classes.traits["fixed"] and strategy.temperature != 1.0:
        given = strategy.temperature
        raise UserError(
            f"{named} is unbiased only at the temperature it is drawn at, which is 1; temperature is "
            f"{given.name if isinstance(given, Choice) else format(given, 'g')}"
        )
    budget = classes.traits["budget"]
    if budget is not None:
        value, share = float(choice.options[budget]), classes.options[budget].type is float
        if not (0 < value <= 1 if share else value >= 1):
            raise UserError(f"{named}: {budget} must be {'in (0, 1]' if share else 'at least 1'}, it is {value:g}")


def check_vocabulary(strategy: Strategy, vocab_size: int) -> None:
    """Refuse to keep more classes than there are.

    Raises:
        UserError: the class policy, its option and the size of the vocabulary.
    """
    if strategy.classes is None:
        return
    num = int(strategy.classes.options.get("num", 0))
    if num > vocab_size:
        raise UserError(
            f"strategy {strategy.label!r}: class policy {strategy.classes.name!r} cannot keep {num} of {vocab_size} "
            "classes"
        )


def check_layers(strategy: Strategy, student_layers: int, teacher_layers: int) -> None:
    """Refuse to compare layers that there are not.

    Raises:
        UserError: the pair, and how many layers the model has.
    """
    if strategy.feature is None or strategy.feature.layers == "last":
        return
    for ours, theirs in strategy.feature.layers:
        for model, layer, most in (("student", ours, student_layers), ("teacher", theirs, teacher_layers)):
            if layer > most:
                raise UserError(
                    f"strategy {strategy.label!r}: feature.layers names the {model}'s layer {layer}, and it has {most}"
                )


def check_workload(strategy: Strategy, workload: Workload) -> None:
    """Refuse a strategy that the workload cannot serve.

    Raises:
        UserError: the strategy needs a teacher, prompts or room and the workload has none, or cannot be shared out.
    """
    check_prompts(strategy, workload)
    if strategy.rollout is not None and workload.resources.data_parallel > 1:
        raise UserError(
            f"strategy {strategy.label!r}: rollout: a global batch is generated in one process, and "
            f"resources.data_parallel is {workload.resources.data_parallel}: set it to 1"
        )
    needs = teacher_reader(strategy)
    if workload.teacher is None and needs:
        raise UserError(
            f"strategy {strategy.label!r}: {needs} reads the teacher, and workload {workload.name!r} has none "
            "(teacher: null)"
        )


def teacher_reader(strategy: Strategy) -> str | None:
    """Name the first part of a strategy that reads the teacher, or None."""
    if strategy.model == "teacher":
        return "model: teacher"
    if strategy.feature is not None:
        return f"feature {strategy.feature.distance.name!r}"
    for component in components(strategy):
        if component.kind == "criterion" and strategy.kd_weight == 0:
            continue
        if component.kind in ("signal", "criterion") and raw_inputs(component) & TEACHER_INPUTS:
            return f"{component.kind} {component.name!r}"
    return None


def components(strategy: Strategy) -> list[Component]:
    """Return every registered component a strategy runs, signals that others are made of included."""
    used: list[Component] = []
    if strategy.position is not None:
        used.append(POLICIES[strategy.position.policy.name])
        if strategy.position.signal is not None:
            used.extend(SIGNALS[name] for name in order_signals([strategy.position.signal.name]))
    if strategy.classes is not None:
        used.append(CLASSES[strategy.classes.name])
    if strategy.criterion is not None:
        criterion = CRITERIA[strategy.criterion.name]
        used.append(criterion)
        used.extend(SIGNALS[name] for name in order_signals(name for name in criterion.inputs if name in SIGNALS))
    if isinstance(strategy.temperature, Choice):
        temperature = TEMPERATURES[strategy.temperature.name]
        used.append(temperature)
        used.extend(SIGNALS[name] for name in order_signals(name for name in temperature.inputs if name in SIGNALS))
    if strategy.feature is not None:
        used.append(FEATURES[strategy.feature.distance.name])
        used.extend(
            SIGNALS[name] for name in order_signals([strategy.feature.signal] if strategy.feature.signal else [])
        )
    if strategy.samples is not None:
        used.append(SAMPLES[strategy.samples.policy.name])
        if strategy.samples.signal is not None:
            used.extend(SIGNALS[name] for name in order_signals([strategy.samples.signal.name]))
    return used


def _component(registry: Registry, choice: Choice, where: str) -> Component:
    """Look a component up and check the options set on it."""
    component = registry[choice.name]
    for option in choice.options:
        if option not in component.options:
            raise UserError(
                f"{where}: {unknown(f'option of {registry.kind} {choice.name!r}', option, component.options)}"
            )
    for name, value in choice.options.items():
        wanted = component.options[name].type
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(
                f"{where}: option {name!r} of {registry.kind} {choice.name!r} must be {wanted.__name__}, "
                f"it is {value!r}"
            )
    missing = [name for name, option in component.options.items() if option.required and name not in choice.options]
    if missing:
        raise UserError(f"{where}: {registry.kind} {choice.name!r} needs the option {missing[0]!r}")
    return component
