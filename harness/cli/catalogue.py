"""What is registered, on the terminal: names, what they are, and where they come from."""

from functools import cache

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.cli.components import Description, of_registry, of_source, reads
from harness.config import Choice, Method, Samples, Strategy
from harness.config.errors import unknown
from harness.config.expand import presets
from harness.config.labels import describe_classes, describe_rollout, describe_temperature
from harness.config.plugins import as_config as loaded_plugins
from harness.config.workloads import built_in, read_workload
from strategies.registry import CLASSES, CRITERIA, FEATURES, POLICIES, SAMPLES, SIGNALS, TEMPERATURES, Registry

_REGISTRIES: dict[str, Registry] = {
    "signals": SIGNALS,
    "policies": POLICIES,
    "samples": SAMPLES,
    "classes": CLASSES,
    "criteria": CRITERIA,
    "temperatures": TEMPERATURES,
    "features": FEATURES,
}

KINDS = (*_REGISTRIES, "presets", "workloads")


def print_catalogue(console: Console, kind: str | None) -> None:
    """Print one kind, or all of them.

    Raises:
        UnknownNameError: no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    for name in KINDS if kind is None else (kind,):
        table = Table(title=f"[bold]{name}[/]", title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for row, (what, detail) in _rows(name).items():
            table.add_row(row, f"{escape(what)}\n[dim]{escape(detail)}[/]")
        console.print(table)
        console.print()


def _described(kind: str) -> dict[str, Description]:
    """Describe the components of a kind, without importing them unless a plugin's are among them."""
    return of_registry(_REGISTRIES[kind]) if loaded_plugins() else _of_source(kind)


@cache
def _of_source(kind: str) -> dict[str, Description]:
    try:
        return of_source(_REGISTRIES[kind])
    except ValueError:
        return of_registry(_REGISTRIES[kind])


def _rows(kind: str) -> dict[str, tuple[str, str]]:
    """Return what each name is and, in a second line, the details."""
    if kind == "presets":
        return {
            name: (f"{strategy.label}: {_parts(strategy)}", strategy.source) for name, strategy in presets().items()
        }
    if kind == "workloads":
        return {name: _workload(name) for name in built_in()}
    return {name: (part.summary, _detail(kind, part)) for name, part in _described(kind).items()}


def _parts(strategy: Strategy) -> str:
    if not isinstance(strategy, Method):
        return f"the {strategy.model}, not trained"
    position, criterion = strategy.position, strategy.criterion
    budget = f" {100 * position.budget:g}%" if position.budget is not None else ""
    signal = f" by {position.signal.name}" if position.signal is not None else ""
    classes = f", classes {_classes(strategy.classes)}" if strategy.classes is not None else ""
    extras = "" if strategy.temperature == 1.0 else f", temperature {describe_temperature(strategy.temperature)}"
    extras += f", feature {strategy.feature.distance.name}" if strategy.feature is not None else ""
    extras += f", {describe_rollout(strategy.rollout)}" if strategy.rollout is not None else ""
    return f"{position.policy.name}{budget}{signal}, {criterion.name}{classes}{extras}{_sample_part(strategy.samples)}"


def _classes(choice: Choice) -> str:
    return describe_classes(choice, budget=_described("classes")[choice.name].traits["budget"])


def _sample_part(samples: Samples | None) -> str:
    if samples is None:
        return ""
    signal = f" by {samples.signal.name}" if samples.signal is not None else ""
    return f", samples {samples.policy.name} {100 * samples.budget:g}%{signal}"


def _detail(kind: str, part: Description) -> str:
    details = [part.source]
    if kind == "signals":
        details.insert(0, f"reads {', '.join(_models(part))}")
    if kind == "classes" and part.traits["criteria"]:
        details.insert(0, f"for {', '.join(part.traits['criteria'])} only")
    if part.module.partition(".")[0] != "strategies":
        details.append(f"from {part.module}")
    if part.options:
        details.insert(0, f"options {', '.join(part.options)}")
    return "; ".join(details)


def _models(signal: Description) -> list[str]:
    return sorted({name.split("_")[0] for name in reads(signal, _described("signals"))} - {"valid"})


def _workload(name: str) -> tuple[str, str]:
    workload = read_workload(name)
    teacher = workload.teacher.path if workload.teacher else "no teacher"
    seeds = ", ".join(map(str, workload.seeds))
    return f"{teacher} -> {workload.student.path}", f"{workload.data.train_tokens:,} training tokens, seeds {seeds}"
