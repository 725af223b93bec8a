"""One small registry per kind of strategy component: adding a component is adding a file.

A component registers itself with a decorator; in this package its file's stem is its name, elsewhere a file may hold
several. The package is walked on first use, so there is no central table to edit. Importing this module needs no torch.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_type_hints

from strategies.digest import digest_of
from strategies.names import unknown

T = TypeVar("T", bound=Callable[..., Any])

Scope = Literal["row", "batch"]
Keeps = Literal["budget", "valid", "varies"]

# The inputs that the core supplies. Any other keyword of a signal or criterion names a signal.
TEACHER_INPUTS = frozenset({"teacher_logits", "teacher_logprobs"})
STUDENT_INPUTS = frozenset({"student_logits", "student_logprobs"})
RAW_INPUTS = TEACHER_INPUTS | STUDENT_INPUTS | {"targets", "noise", "valid"}
# What a temperature may read of the step: a number, and yet no option.
STEP_INPUTS = frozenset({"progress"})


@dataclass(frozen=True, kw_only=True)
class Option:
    """A scalar that a grid may set on a component.

    Attributes:
        type: int, float, bool or str.
        default: what it is where a grid does not set it; None where a grid must.
    """

    type: type
    default: bool | int | float | str | None = None

    @property
    def required(self) -> bool:
        """Whether a grid must set it."""
        return self.default is None


@dataclass(frozen=True, kw_only=True)
class Component:
    """A registered function or class and what the harness may know of it without calling it.

    Attributes:
        kind: signal, policy, class policy, criterion, sample policy, temperature or feature distance.
        name: what grids call it; equal to the stem of its file.
        build: the class (policy, sample policy) or the function (any other).
        source: the paper and section that defines it.
        inputs: names of the tensors it takes, raw inputs or signals. Empty for policies.
        options: the scalars a grid may set.
        traits: declared properties (scope, scored, ...).
    """

    kind: str
    name: str
    build: Callable[..., Any]
    source: str
    inputs: tuple[str, ...]
    options: dict[str, Option]
    traits: dict[str, Any]

    @property
    def summary(self) -> str:
        """First line of the docstring: of a file of the component's name, where the idea is put in one line."""
        module = inspect.getmodule(self.build)
        alone = module is not None and module.__name__.rpartition(".")[2] == self.name
        doc = (module.__doc__ if module is not None and alone else None) or self.build.__doc__ or ""
        return doc.strip().splitlines()[0] if doc.strip() else ""

    @property
    def origin(self) -> tuple[str, str]:
        """The module that defines it, and what it is called there."""
        return self.build.__module__, getattr(self.build, "__qualname__", "")

    @property
    def defaults(self) -> dict[str, bool | int | float | str]:
        """The options that have a default, with it."""
        return {name: option.default for name, option in self.options.items() if option.default is not None}

    @property
    def digest(self) -> str:
        """Hash of what the component's file and the helpers it imports compute (see `strategies.digest`)."""
        return digest_of(self.build.__module__)


@dataclass(kw_only=True)
class Registry:
    """The components of one kind, found by walking a package the first time one is asked for."""

    kind: str
    package: str
    _components: dict[str, Component] = field(default_factory=dict)
    _walked: bool = False

    def add(self, component: Component) -> None:
        """Register a component.

        Raises:
            ValueError: the name is taken, or differs from the stem of the file that defines it.
        """
        module = component.build.__module__
        stem = module.rpartition(".")[2]
        if module.startswith(f"{self.package}.") and stem != component.name:
            raise ValueError(f"{self.kind} {component.name!r} must live in {component.name}.py, not {stem}.py")
        known = self._components.get(component.name)
        # The same function again is its file, imported again.
        if known is not None and known.origin != component.origin:
            raise ValueError(f"{self.kind} {component.name!r} is registered twice: {known.build.__module__}, {module}")
        self._components[component.name] = component

    def __getitem__(self, name: str) -> Component:
        self._walk()
        if name not in self._components:
            raise unknown(self.kind, name, self._components)
        return self._components[name]

    def __contains__(self, name: str) -> bool:
        self._walk()
        return name in self._components

    def __iter__(self) -> Iterator[str]:
        self._walk()
        return iter(sorted(self._components))

    def _walk(self) -> None:
        if self._walked:
            return
        self._walked = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.package}.{module.name}")


SIGNALS = Registry(kind="signal", package="strategies.signals")
POLICIES = Registry(kind="policy", package="strategies.policies")
CLASSES = Registry(kind="class policy", package="strategies.classes")
CRITERIA = Registry(kind="criterion", package="strategies.criteria")
SAMPLES = Registry(kind="sample policy", package="strategies.samples")
TEMPERATURES = Registry(kind="temperature", package="strategies.temperatures")
FEATURES = Registry(kind="feature distance", package="strategies.features")


REGISTRIES = (SIGNALS, POLICIES, CLASSES, CRITERIA, SAMPLES, TEMPERATURES, FEATURES)


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Register what the block registers after this package's own components, or nothing of it if the block raises."""
    before = [(registry, {name: registry[name] for name in registry}) for registry in REGISTRIES]
    try:
        yield
    except BaseException:
        for registry, components in before:
            registry._components.clear()
            registry._components.update(components)
        raise


def signal(name: str, *, source: str, scope: Scope = "row") -> Callable[[T], T]:
    """Register an importance signal u(t): a function whose keyword names are its inputs.

    Args:
        name: the registered name, equal to the file's stem.
        source: the paper that defines it.
        scope: "row" signals get flattened positions, any number at a time, and return (N,); "batch" signals get their
            inputs as (B, L) with a mask `valid` (B, L), and return (B, L).
    """
    return _register(SIGNALS, name, source, scope=scope)


def criterion(name: str, *, source: str, whole: bool = False) -> Callable[[T], T]:
    """Register an alignment criterion D(p, q): a function of rows, inputs named as a signal's, returning (N,) nats.

    Args:
        name: the registered name, equal to the file's stem.
        source: the paper that defines it.
        whole: it is about all classes, one by one (their number, their order, the entropy), so that it means something
            else on a row in which classes were merged.
    """
    return _register(CRITERIA, name, source, whole=whole)


def temperature(name: str, *, source: str, scope: Scope = "row") -> Callable[[T], T]:
    """Register a temperature: a function that gives every position its own, above 0, without a gradient.

    Its keywords are signals by name (B, L), `valid` (B, L), and `progress`, the share of training done, in [0, 1). It
    returns (B, L). The core divides both models' logits by it and multiplies the row's loss by its square.

    Args:
        name: the registered name, equal to the file's stem.
        source: the paper that defines it.
        scope: "batch" when the temperature of one position depends on others of the global batch.
    """
    return _register(TEMPERATURES, name, source, scope=scope)


def feature(name: str, *, source: str) -> Callable[[T], T]:
    """Register a feature distance: a function of `student_states` and `teacher_states` (N, D), returning (N,).

    The student's states come projected to the teacher's size, and carry the gradient; the teacher's carry none.
    """
    return _register(FEATURES, name, source)


def policy(
    name: str,
    *,
    source: str,
    scored: bool = True,
    budgeted: bool = True,
    scope: Scope = "row",
    keeps: Keeps = "varies",
) -> Callable[[T], T]:
    """Register a selection policy: a frozen dataclass with `select(scores, valid, ctx, state)`.

    Args:
        name: the registered name, equal to the file's stem.
        source: the paper that defines it.
        scored: it reads scores, so a strategy must name a signal.
        budgeted: it reads the budget, so a strategy must state one.
        scope: "row" when each sequence is selected on its own; "batch" when the selection of one sequence depends on
            others, so that the core selects on the whole global batch at once.
        keeps: how many positions get a weight: exactly `budget_count` of each sequence ("budget"), no more than all
            valid ones ("valid"), or a number that only the device knows ("varies"), which a GPU has to be asked for.
    """
    return _register(POLICIES, name, source, scored=scored, budgeted=budgeted, scope=scope, keeps=keeps)


def sample_policy(name: str, *, source: str, scored: bool = True) -> Callable[[T], T]:
    """Register a sample policy: a frozen dataclass with `choose(scores, budget, noise)`, scores of training sequences.

    Args:
        name: the registered name, equal to the file's stem.
        source: the paper that defines it.
        scored: it reads scores, so a strategy must name a signal for its samples.
    """
    return _register(SAMPLES, name, source, scored=scored)


def classes(
    name: str,
    *,
    source: str,
    budget: str | None,
    criteria: tuple[str, ...] = (),
    because: str = "",
    fixed: bool = False,
) -> Callable[[T], T]:
    """Register a class policy: a function of `teacher_logprobs` (N, V), and `keys` (N,) if it draws, to a SparseTarget.

    Args:
        name: the registered name, equal to the file's stem.
        source: the paper that defines it.
        budget: the option that says how much is kept: a number (`num` if of classes, V at most) or a share in (0, 1].
        criteria: the only criteria that may compare its target; empty for a distribution over all classes, which any
            criterion may read that reads log-probabilities alone.
        because: why only those, for the one who asks for another.
        fixed: its target is right at temperature 1 only.
    """
    traits = {"budget": budget, "criteria": criteria, "because": because, "fixed": fixed}
    return _register(CLASSES, name, source, **traits)


def _register(registry: Registry, name: str, source: str, **traits: Any) -> Callable[[T], T]:
    def add(build: T) -> T:
        inputs, options = _keywords(build)
        registry.add(
            Component(
                kind=registry.kind,
                name=name,
                build=build,
                source=source,
                inputs=inputs,
                options=options,
                traits=traits,
            )
        )
        return build

    return add


def _keywords(build: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Option]]:
    """Split keywords into tensors (inputs) and scalars (options)."""
    hints = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    inputs: list[str] = []
    options: dict[str, Option] = {}
    for parameter in inspect.signature(build).parameters.values():
        if hints.get(parameter.name) in (int, float, bool, str) and parameter.name not in STEP_INPUTS:
            default = None if parameter.default is inspect.Parameter.empty else parameter.default
            options[parameter.name] = Option(type=hints[parameter.name], default=default)
        else:
            inputs.append(parameter.name)
    return tuple(inputs), options


def order_signals(names: Iterable[str]) -> tuple[str, ...]:
    """Return the named signals and every signal they are made of, each after its inputs.

    Raises:
        UnknownNameError: a keyword is neither a raw input nor a signal.
        ValueError: signals that are made of each other.
    """
    ordered: dict[str, None] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ValueError(f"signals are made of each other: {' -> '.join((*path, name))}")
        if name in ordered:
            return
        component = SIGNALS[name]
        for needed in component.inputs:
            if needed in RAW_INPUTS:
                continue
            visit(needed, (*path, name))
            if component.traits["scope"] == "row" and SIGNALS[needed].traits["scope"] == "batch":
                raise ValueError(f"row signal {name!r} reads batch signal {needed!r}: declare it scope='batch'")
        ordered[name] = None

    for name in names:
        visit(name, ())
    return tuple(ordered)


def raw_inputs(component: Component) -> frozenset[str]:
    """Return the raw inputs a signal, criterion or temperature reads, through every signal it is made of."""
    direct = {name for name in component.inputs if name in RAW_INPUTS}
    for name in order_signals(name for name in component.inputs if name not in RAW_INPUTS | STEP_INPUTS):
        direct.update(needed for needed in SIGNALS[name].inputs if needed in RAW_INPUTS)
    return frozenset(direct)
