"""From a grid file to its strategies: presets, overrides, sweeps."""

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import strategies
from harness.config import Grid, Method, Strategy, Workload
from harness.config.errors import UserError, unknown
from harness.config.labels import describe
from harness.config.legality import check_strategy
from harness.config.overrides import overridden, parse_row, put
from harness.config.strategy import read_strategy
from harness.config.yaml import first_comment, merge, parse, read_yaml

PRESETS_FILE = Path(strategies.__file__).parent / "presets.yaml"


def load_grid(path: Path) -> Grid:
    """Read and check a grid file, without its workload.

    Raises:
        UserError: anything wrong with the file; names the entry, the key, the value and what is allowed.
        UnknownNameError: an unknown preset, signal, policy or criterion; suggests the nearest.
    """
    payload = read_yaml(path)
    entries = payload.get("strategies")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: strategies is empty: list at least one preset or strategy")
    if "overrides" in payload:
        raise UserError(f"{path}: unknown key 'overrides': what a row changes of the workload is the row's `workload`")
    rows = [
        row
        for number, entry in enumerate(entries, start=1)
        for row in expand(entry, where=f"{path}: strategies[{number}]")
    ]
    fields = {"name": path.stem, "hypothesis": first_comment(path), **payload}
    fields["strategies"] = [strategy for strategy, _ in rows]
    fields["overrides"] = {strategy.label: overrides for strategy, overrides in rows if overrides}
    return parse(Grid, fields, where=str(path))


def taught(rows: Sequence[Strategy], teacher: str) -> tuple[Strategy, ...]:
    """Let strategies that read the teacher's cached states run it instead.

    How a strategy has its teacher is part of what identifies a trial, since a GPU rounds differently then.

    Raises:
        UserError: not `online`, or a strategy that cannot be trained so.
    """
    if teacher != "online":
        raise UserError(f"--teacher is {teacher!r}; it takes online, which runs the teacher where its cache is read")
    changed = tuple(
        one.model_copy(update={"teacher": teacher}) if isinstance(one, Method) and one.teacher == "cached" else one
        for one in rows
    )
    for one in changed:
        check_strategy(one, where=f"{one.label} with --teacher {teacher}")
    return changed


def with_further_seeds(grid: Grid, workload: Workload, most: int | None, *, part: bool) -> tuple[Grid, tuple[int, ...]]:
    """Return a grid under the name of its report, and the seeds that undecided rows may get beyond its own.

    They are those after its largest. The report has a name of its own: its table must not replace the grid's.

    Args:
        grid: the grid.
        workload: whose seeds the grid has, unless it names its own.
        most: seeds of a row, in all; None for those of the grid.
        part: whether a part of its rows or seeds was asked for.

    Raises:
        UserError: that, or the grid has no baseline, fewer than two seeds, or as many as are asked for.
    """
    if most is None:
        return grid, ()
    seeds = grid.seeds or workload.seeds
    if part:
        raise UserError(f"--decide {most} looks at every row and seed of {grid.name}: leave out --only and --seeds")
    if grid.baseline is None:
        raise UserError(f"--decide {most}: {grid.name} names no baseline that rows could be undecided against")
    if len(seeds) < 2:
        raise UserError(f"--decide {most}: {grid.name} has one seed, and nothing is tested with fewer than two")
    if most <= len(seeds):
        raise UserError(f"--decide is {most}; {grid.name} has {len(seeds)} seeds, so it takes {len(seeds) + 1} or more")
    first = max(seeds) + 1
    further = tuple(range(first, first + most - len(seeds)))
    return grid.model_copy(update={"name": f"{grid.name}-decide-{most}"}), further


@cache
def presets() -> dict[str, Strategy]:
    """Return every named method, in the order of the presets file."""
    return {
        name: read_strategy(fields, where=f"{PRESETS_FILE.name}: {name}")
        for name, fields in read_yaml(PRESETS_FILE).items()
    }


def method(name: str) -> Method:
    """Return a named method that trains.

    Raises:
        UnknownNameError: there is none of this name.
    """
    methods = {key: preset for key, preset in presets().items() if isinstance(preset, Method)}
    if name not in methods:
        raise unknown("method", name, methods)
    return methods[name]


def expand(entry: Any, *, where: str) -> Iterator[tuple[Strategy, dict[str, Any]]]:
    """Turn one entry of a grid file, named `where` in an error, into the strategies it stands for.

    Each comes with what its row changes of the workload, by dotted path.

    Raises:
        UserError: it cannot mean what it says.
        UnknownNameError: an unknown preset or component.
    """
    if not isinstance(entry, str | dict):
        raise UserError(f"{where}: an entry is a preset's name or a mapping, not {entry!r}")
    fields = {"preset": entry} if isinstance(entry, str) else dict(entry)
    preset = fields.pop("preset", None)
    if preset is not None:
        if not isinstance(preset, str) or preset not in presets():
            raise unknown("preset", str(preset), presets())
        base = presets()[preset].model_dump(by_alias=True, exclude_unset=True)
        fields = merge(base, fields)
    if "workload" in fields:
        fields["workload"] = overridden({}, parse_row(fields["workload"], where=where), where=where)
    for variant in _sweep(fields, where):
        label, overrides = variant.get("label"), parse_row(variant.pop("workload", {}), where=where)
        strategy = read_strategy({**variant, "label": str(label or "")}, where=where)
        check_strategy(strategy, where=where)
        if overrides and not strategy.train:
            raise UserError(f"{where}: train is false, so workload would do nothing: leave it out")
        named = describe(strategy, str(label) if label else None, overrides)
        yield strategy.model_copy(update={"label": named}), overrides


def _sweep(fields: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Yield one copy per element of the Cartesian product of `sweep: {dotted.path: [values]}`."""
    sweep = fields.pop("sweep", {})
    if not isinstance(sweep, dict) or not all(
        isinstance(key, str) and isinstance(values, list) and values for key, values in sweep.items()
    ):
        raise UserError(f"{where}: sweep maps a dotted path to a list of values, e.g. position.budget: [0.1, 0.2]")
    for values in itertools.product(*sweep.values()):
        variant = dict(fields)
        for dotted, value in zip(sweep, values, strict=True):
            variant = put(variant, dotted, value, where=f"{where}: sweep path {dotted!r}")
        yield variant
