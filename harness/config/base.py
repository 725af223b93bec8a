"""What every setting is: a value that cannot change after it was checked, of which nothing is unknown."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar = bool | int | float | str
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Split = Literal["validation", "test"]
# Names that become names of files: nothing in them leads out of a folder.
Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Frozen(BaseModel):
    """A value: it cannot change after it was checked, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Choice(Frozen):
    """A registered component and the options a grid sets on it.

    Written in YAML as a bare name, or as `{name: at_kd, hard_fraction: 0.5}`.
    """

    name: str
    options: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "name" in value and isinstance(value.get("options", {}), dict):
            # Both ways at once where a sweep sets an option of a preset's component: `sweep: {classes.draws: [12]}`.
            flat = {key: item for key, item in value.items() if key not in ("name", "options")}
            return {"name": value["name"], "options": {**value.get("options", {}), **flat}}
        return value
