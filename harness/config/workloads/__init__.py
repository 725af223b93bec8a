"""Workloads: a teacher, a student, their data and how they are trained. The embedded ones lie here, loaded by name."""

from pathlib import Path
from typing import Any

from harness.config import Grid, Workload, installed
from harness.config.errors import UserError, unknown
from harness.config.legality import check_resources
from harness.config.overrides import NOTHING, Overrides, overridden, slug
from harness.config.yaml import merge, parse, read_yaml

_BUILT_IN = Path(__file__).parent
ASSETS = _BUILT_IN / "tiny"


def built_in() -> list[str]:
    """Return the names of the workloads that ship with the harness."""
    return sorted(path.stem for path in _BUILT_IN.glob("*.yaml"))


def load_workload(
    name: str, models: Path | None = None, overrides: Overrides = NOTHING, *, by: str = "--set"
) -> Workload:
    """Load a workload by its built-in name or the path of a YAML file, with the optimiser that it comes down to here.

    Args:
        name: of the workload.
        models: where fetched models are; None where shapes are enough.
        overrides: what stands there instead, by dotted path.
        by: who overrides, for an error.

    Raises:
        UserError: as `read_workload`; or its models are to be fetched and are not there.
        UnknownNameError: as `read_workload`.
    """
    workload = _decided(read_workload(name, overrides, by=by))
    if not workload.fetched or models is None:
        return workload
    for source in (workload.teacher, workload.student):
        if source is not None and not (models / source.path).is_dir():
            where = "" if models.parents[1] == Path("results") else f" --results {models.parents[1]}"
            raise UserError(
                f"workload {name!r} needs the model {source.path}, which is not in {models}: "
                f"harness workload fetch {name}{where}"
            )
    return workload.model_copy(update={"folder": models.resolve()})


def load_workloads(
    name: str, models: Path | None, grid: Grid, overrides: Overrides
) -> tuple[Workload, dict[str, Workload]]:
    """Load the workload that a grid runs on, and by label those of the rows that change it.

    Raises:
        UserError: as `load_workload`.
        UnknownNameError: as `load_workload`.
    """
    if "seeds" in overrides and grid.seeds is not None:
        raise UserError(f"--set seeds would do nothing: grid {grid.name} names its own, {list(grid.seeds)}")
    whole = load_workload(name, models, overrides)
    return whole, {
        label: load_workload(name, models, {**overrides, **own, "name": whole.name}, by=f"strategy {label!r}")
        for label, own in grid.overrides.items()
    }


def read_workload(name: str, overrides: Overrides = NOTHING, *, by: str = "--set") -> Workload:
    """Read a workload as it is written, or with overrides, which its name then tells.

    Raises:
        UserError: the file is missing or wrong; names the key and the value.
        UnknownNameError: no built-in workload of this name; suggests the nearest.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else _BUILT_IN / f"{name}.yaml"
    if not name.endswith((".yaml", ".yml")) and name not in built_in():
        raise unknown("workload", name, built_in())
    fields, where = {"name": path.stem, **_based(path)}, str(path)
    if overrides:
        where = f"{path} with {by}"
        fields = overridden({**fields, "name": f"{fields['name']}-{slug(overrides)}"}, overrides, where=where)
    workload = parse(Workload, {**fields, "folder": path.resolve().parent}, where=where)
    check_resources(workload, where)
    return workload


def _based(path: Path) -> dict[str, Any]:
    """Read a workload's file, laid over that of the workload that it names as `base`, which lies beside it."""
    fields = read_yaml(path)
    if "base" not in fields:
        return fields
    name = fields.pop("base")
    base = path.parent / str(name)
    # Relative paths in either file are looked up in the one folder.
    if not isinstance(name, str) or Path(name).name != name or not base.is_file() or base.samefile(path):
        raise UserError(f"{path}: base is {name!r}; it takes the name of another workload's file in the same folder")
    under = read_yaml(base)
    if "base" in under:
        raise UserError(f"{path}: base is {name!r}, which has a base itself")
    return merge({key: value for key, value in under.items() if key != "name"}, fields)


def _decided(workload: Workload) -> Workload:
    """Replace an optimiser that depends on what is installed by the one it comes down to here."""
    settings = workload.optimisation
    if settings.optimiser != "adamw_8bit_if_available":
        return workload
    # Asked for such workloads alone, because it imports torch.
    optimiser = "adamw" if workload.resources.shard_student or installed.eight_bit() is None else "adamw_8bit"
    return workload.model_copy(update={"optimisation": settings.model_copy(update={"optimiser": optimiser})})
