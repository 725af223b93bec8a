"""What a row is called: a label made from its strategy's parts, or from a template that names them."""

from harness.config import Choice, Method, Rollout, Strategy
from harness.config.errors import UserError
from harness.config.overrides import NOTHING, Overrides, describe_value
from strategies.registry import CLASSES

_SLOTS = (
    "signal", "policy", "budget", "criterion", "classes", "temperature", "feature", "lambda",
    "sample_signal", "sample_policy", "sample_budget", "rollout",
)  # fmt: skip


def describe(strategy: Strategy, template: str | None = None, overrides: Overrides = NOTHING) -> str:
    """Fill a label template, or make a label from the strategy's parts and what its row changes of the workload.

    A template is text with any of `_SLOTS`, or of the settings that are changed (`learning_rate`), in braces.

    Raises:
        UserError: the template names something else.
    """
    parts = dict.fromkeys(_SLOTS, "") | {"temperature": "1", "lambda": "1"}
    if isinstance(strategy, Method):
        parts |= _parts(strategy)
    changed = {path.rpartition(".")[2]: describe_value(value) for path, value in overrides.items()}
    parts |= changed
    if template is None:
        named = [parts[key] for key in ("signal", "policy", "budget", "criterion", "classes") if parts[key]]
        chosen = [parts[key] for key in ("sample_signal", "sample_policy", "sample_budget") if parts[key]]
        named += [f"samples {' '.join(chosen)}"] if chosen else []
        named += [parts["rollout"]] if parts["rollout"] else []
        return ", ".join(named + [f"{key.replace('_', ' ')} {value}" for key, value in changed.items()]) or "as it is"
    try:
        return template.format(**parts)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        raise UserError(f"label {template!r} may use {', '.join('{' + key + '}' for key in parts)}") from None


def _parts(method: Method) -> dict[str, str]:
    """Name the parts that a method has."""
    position, samples = method.position, method.samples
    parts = {
        "policy": _words(position.policy),
        "criterion": _words(method.criterion),
        "temperature": describe_temperature(method.temperature),
        "lambda": f"{method.kd_weight:g}",
    }
    if position.signal is not None:
        parts["signal"] = _words(position.signal)
    if position.budget is not None:
        parts["budget"] = f"{100 * position.budget:g}%"
    if method.classes is not None:
        parts["classes"] = describe_classes(method.classes)
    if method.feature is not None:
        parts["feature"] = _words(method.feature.distance)
    if samples is not None:
        parts |= {"sample_policy": _words(samples.policy), "sample_budget": f"{100 * samples.budget:g}%"}
    if samples is not None and samples.signal is not None:
        parts["sample_signal"] = _words(samples.signal)
    if method.rollout is not None:
        parts["rollout"] = describe_rollout(method.rollout)
    return parts


def _words(choice: Choice) -> str:
    return choice.name.replace("_", " ")


def describe_temperature(temperature: float | Choice) -> str:
    """Name a temperature: "2", or a registered one's name with its options in their order, "linear 4 1"."""
    if not isinstance(temperature, Choice):
        return f"{temperature:g}"
    options = (f"{value:g}" if type(value) in (int, float) else str(value) for value in temperature.options.values())
    return " ".join([_words(temperature), *options])


def describe_rollout(rollout: Rollout) -> str:
    """Name whose text is trained on: "on-policy", "50% on-policy", "data preferred over its own, beta 0.1"."""
    if rollout.preference is not None:
        return f"data preferred over its own, beta {rollout.preference:g}"
    share = "" if rollout.share == 1 else f"{100 * rollout.share:g}% "
    return f"{share}on-policy"


def describe_classes(choice: Choice, *, budget: str | None = None) -> str:
    """Name a class policy with its options: "rs 64", "top k 12 renormalise", "rs 64 proposal 0.5".

    Args:
        choice: the policy.
        budget: the option that says how much is kept, which comes first; looked up, which imports it, if None.
    """
    budget = budget or CLASSES[choice.name].traits["budget"]
    words = [_words(choice)]
    for option, value in sorted(choice.options.items(), key=lambda item: item[0] != budget):
        if option == budget:
            words.append(f"{value:g}")
        elif value is True:
            words.append(option)
        elif value is not False:
            words.append(f"{option} {value}")
    return " ".join(words)
