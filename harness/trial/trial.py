"""A trial: one strategy on one workload under one seed, identified by what it computes."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness.distill
from harness.config import Diagnostics, Grid, Method, Split, Strategy, Workload
from harness.config.errors import UserError, unknown
from harness.config.legality import NO_FACTS, Facts, check, components
from harness.config.plugins import as_config as plugins_as_config
from harness.config.plugins import load_config as load_plugins
from harness.config.strategy import read_strategy
from harness.distill import NUMERICS
from harness.distill.objective import Objective, compile_strategy
from strategies.digest import digest_of, source_digest

# What changes where and how fast a trial runs, but not what it computes.
NOT_IDENTITY = {
    "name": True,
    "fetched": True,
    "seeds": True,
    "resources": {
        "cpus",
        "gpus",
        "logit_memory_mib",
        "checkpoint_activations",
        "compile",
        "data_parallel",
        "teacher_gpus",
        "shard_student",
        "arithmetic",
    },
    "optimisation": {"micro_batch_size"},
    "data": {"streaming"},
    # The content of data files is in the fingerprints.
    "evaluation": {"batch_size", "data_files"},
    "teacher": True,
    "student": True,
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row and one seed of a table.

    Attributes:
        strategy: what is distilled.
        workload: what it is applied to.
        seed: None where nothing is random: a model evaluated as it is.
        split: what is reported on.
        sources: digest of every registered component used, by "kind name".
        fingerprints: what the workload's names stand for (see `harness.trial.identity.fingerprints`).
        diagnostics: what is looked at while training; changes no number, so it is no part of the id.
    """

    strategy: Strategy
    workload: Workload
    seed: int | None
    split: Split
    sources: Mapping[str, str]
    fingerprints: Mapping[str, str]
    diagnostics: Diagnostics | None = None

    @property
    def method(self) -> Method:
        """The strategy of a trial that trains."""
        assert isinstance(self.strategy, Method), "only for trials that train"
        return self.strategy

    @functools.cached_property
    def objective(self) -> Objective:
        """What a trained trial minimises."""
        return compile_strategy(self.method)

    @functools.cached_property
    def id(self) -> str:
        """Hash of what the trial computes: not of its label, its grid or where it runs."""
        payload = {
            "numerics": NUMERICS,
            "strategy": self.strategy.identity(),
            "workload": self.workload.model_dump(mode="json", exclude=NOT_IDENTITY),  # type: ignore[arg-type]
            "seed": self.seed,
            "split": self.split,
            "sources": dict(self.sources),
            "fingerprints": dict(self.fingerprints),
        }
        if self.strategy.train and self.objective.stored_scores:
            # Scored before training, rows lie in other chunks than while training, which may round differently.
            payload["scores"] = "stored"
        if self.strategy.train and self.strategy.rollout is not None:
            # How its tokens are drawn is no component's, as that of classes and positions is.
            payload["draws"] = digest_of("strategies.cumulative")
        return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """How the trial is called on screen."""
        return self.strategy.label if self.seed is None else f"{self.strategy.label}, seed {self.seed}"


def shows_enough(trial: Trial, had: Mapping[str, int] | None) -> bool:
    """Tell whether diagnostics that a record has, if any, serve those a trial is asked for."""
    wanted = trial.diagnostics
    return wanted is None or (had is not None and Diagnostics.model_validate(had).covers(wanted))


def make_trials(
    grid: Grid,
    workload: Workload,
    fingerprints: Mapping[str, str],
    facts: Facts = NO_FACTS,
    *,
    own: Mapping[str, Workload] | None = None,
) -> list[Trial]:
    """Pair every strategy of a grid with every seed; a model evaluated as it is needs no seed.

    Args:
        grid: the grid.
        workload: what it runs on.
        fingerprints: what the workload's names stand for.
        facts: what its models tell.
        own: by label, the workload of each row that changes it.

    Raises:
        UserError: a strategy that the workload cannot serve.
    """
    seeds = grid.seeds or workload.seeds
    trials: list[Trial] = []
    for strategy in grid.strategies:
        of_row = (own or {})[strategy.label] if strategy.label in grid.overrides else workload
        check(strategy, of_row, facts)
        sources = {f"{part.kind} {part.name}": part.digest for part in components(strategy)}
        trials.extend(
            Trial(
                strategy=strategy,
                workload=of_row,
                seed=seed,
                split=grid.split,
                sources=sources,
                fingerprints=fingerprints,
                diagnostics=grid.diagnostics if strategy.train else None,
            )
            for seed in (seeds if strategy.train else (None,))
        )
    return trials


def only(trials: list[Trial], *, labels: Iterable[str] = (), seeds: Iterable[int] | None = None) -> list[Trial]:
    """Keep a part of a grid's trials: strategies called, or beginning like, a label, and seeds; what has none stays.

    Raises:
        UnknownNameError: no strategy of the grid is called that.
        UserError: a seed that the grid does not have.
    """
    known = {trial.strategy.label for trial in trials}
    kept: set[str] = set() if labels else known
    for label in labels:
        matching = {name for name in known if name.lower() == label.lower()}
        matching = matching or {name for name in known if name.lower().startswith(label.lower())}
        if not matching:
            raise unknown("strategy label", label, known)
        kept |= matching
    of_grid = {trial.seed for trial in trials}
    for seed in seeds or ():
        if seed not in of_grid:
            allowed = ", ".join(str(each) for each in sorted(each for each in of_grid if each is not None))
            raise UserError(f"seed {seed} is not one of the grid's: {allowed}")
    chosen = of_grid if seeds is None else {None, *seeds}
    return [trial for trial in trials if trial.strategy.label in kept and trial.seed in chosen]


@functools.cache
def core_digest() -> str:
    """Hash the distillation core's source, so that a table can say when its rows come from different versions."""
    package = Path(harness.distill.__file__).parent.parent
    files = [*(package / "distill").glob("*.py"), *(package / "models").glob("*.py"), package / "data" / "tokens.py"]
    digests = sorted(source_digest(path.read_text(encoding="utf-8")) for path in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def as_config(trial: Trial) -> dict[str, Any]:
    """Return the trial as plain data, to hand it to a worker process."""
    return {
        "strategy": trial.strategy.model_dump(by_alias=True),
        "workload": {**trial.workload.model_dump(by_alias=True), "folder": str(trial.workload.folder)},
        "seed": trial.seed,
        "split": trial.split,
        "sources": dict(trial.sources),
        "fingerprints": dict(trial.fingerprints),
        "diagnostics": trial.diagnostics.model_dump() if trial.diagnostics is not None else None,
        "plugins": plugins_as_config(),
    }


def from_config(config: Mapping[str, Any]) -> Trial:
    """Rebuild a trial from `as_config`, and load the plugins its components may come from.

    Raises:
        UserError: a plugin that is missing here, or computes something else than where the trial was made.
    """
    load_plugins(config["plugins"])
    watched = config["diagnostics"]
    return Trial(
        strategy=read_strategy(config["strategy"]),
        workload=Workload.model_validate(config["workload"]),
        seed=config["seed"],
        split=config["split"],
        sources=config["sources"],
        fingerprints=config["fingerprints"],
        diagnostics=Diagnostics.model_validate(watched) if watched is not None else None,
    )
