"""What a strategy, a workload and a grid are: frozen models that refuse unknown keys.

Everything that the science depends on is a field here, so that a record can state it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Scalar = bool | int | float | str
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Normaliser = Literal["sequence_mean", "batch_mean", "all_positions", "sum"]
Split = Literal["validation", "test"]


# The class policies whose targets each cache of targets holds.
_TARGETS_OF = {"sampled": ("rs",), "topk": ("top_k", "top_k_tail")}


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


class Position(Frozen):
    """The position axis: which token positions are supervised.

    Attributes:
        signal: what scores a position; None for a policy that reads no scores.
        policy: how scores become weights.
        budget: share of valid positions to keep, in (0, 1]; None for a policy that has no budget.
    """

    signal: Choice | None = None
    policy: Choice
    budget: Share | None = None


class Samples(Frozen):
    """The sample axis: which training sequences a trial learns from, chosen once before training.

    Attributes:
        signal: scores a sequence by its mean over the sequence's valid positions, under the frozen initial student;
            None for a policy that reads no scores.
        policy: how scores become a subset.
        budget: share of the training sequences to keep, in (0, 1]; round(budget * sequences), at least 1.
    """

    signal: Choice | None = None
    policy: Choice
    budget: Share


class Strategy(Frozen):
    """One selective-distillation method, complete.

    Attributes:
        label: the row name in tables.
        source: the paper that defines it.
        model: which model is evaluated; only the student can be trained.
        train: False for the student or the teacher as it is.
        position: the position axis; None if and only if nothing is trained.
        criterion: how a student's row is compared with the teacher's.
        samples: the sample axis; None trains on every sequence.
        classes: the class axis: what is kept of the teacher's distribution at a position; None keeps it whole.
        normaliser: what the weighted sum of row losses is divided by. `sequence_mean` (the paper's): each sequence by
            its selection's own denominator, then the mean over sequences; `batch_mean`: one mean over all selected
            positions of the global batch; `all_positions`: each sequence by its valid positions; `sum`: nothing.
        kd_weight: the paper's lambda, in [0, 1]; the rest of the loss is cross-entropy with the data at the selected
            positions. Written `lambda` in YAML.
        temperature: T of both distributions; the row loss is multiplied by T^2.
        teacher: `cached` reads the teacher's hidden states from the workload's cache, `online` runs the teacher;
            `sampled` reads stored draws of class policy `rs`, `topk` stored classes of `top_k` or `top_k_tail`, and no
            teacher is in memory while training.
        flow: `chunked` never holds the logits of a whole batch; `dense` does, and is the memory baseline.
    """

    label: str
    source: str = ""
    model: Literal["student", "teacher"] = "student"
    train: bool = True
    position: Position | None = None
    criterion: Choice | None = None
    samples: Samples | None = None
    classes: Choice | None = None
    normaliser: Normaliser = "sequence_mean"
    kd_weight: Annotated[float, Field(ge=0, le=1, alias="lambda")] = 1.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    teacher: Literal["cached", "online", "sampled", "topk"] = "cached"
    flow: Literal["chunked", "dense"] = "chunked"

    @field_validator("classes")
    @classmethod
    def _whole(cls, value: Choice | None) -> Choice | None:
        # Keeping every class is what happens without a class policy: the same trial, whichever way it is written.
        return None if value == Choice(name="all") else value

    @property
    def stored(self) -> bool:
        """Whether training reads stored targets instead of a teacher."""
        return self.teacher in _TARGETS_OF

    @property
    def stored_policies(self) -> tuple[str, ...]:
        """The class policies whose targets the strategy's teacher cache holds; none if it reads no stored targets."""
        return _TARGETS_OF.get(self.teacher, ())

    def identity(self) -> dict[str, Any]:
        """Return what the strategy computes: everything but how it is called. Axes it does not use leave no trace."""
        return self.model_dump(exclude={"label", "source"}, exclude_none=True)


class ModelSource(Frozen):
    """Where a model comes from.

    Attributes:
        path: a hub name (`Qwen/Qwen3-8B`), or a folder written by save_pretrained; a relative folder is looked up
            beside the workload file first.
        revision: hub commit or tag; not allowed for a folder.
    """

    path: str
    revision: str | None = None


class Data(Frozen):
    """Where text comes from and how it is cut.

    Attributes:
        generator: `tiny`, the embedded corpus; or None to read `dataset`.
        dataset: a hub data set, or `json`, `parquet`, `text` with `data_files`.
        name: configuration of a hub data set.
        data_files: file or files of each split (train, validation, test), relative to the workload file.
        text_field: the column that holds the text.
        sequence_length: tokens per packed sequence.
        train_tokens: distillation tokens per epoch, rounded down to whole sequences.
        heldout_tokens: tokens of each held-out split that loss and KL are measured on.
        cross_document_targets: whether the token after an end-of-document token is a target.
    """

    generator: Literal["tiny"] | None = None
    dataset: str | None = None
    name: str | None = None
    data_files: dict[Literal["train", "validation", "test"], str | list[str]] | None = None
    text_field: str = "text"
    sequence_length: Annotated[int, Field(ge=2)]
    train_tokens: Positive
    heldout_tokens: Positive
    cross_document_targets: bool

    @model_validator(mode="after")
    def _one_source(self) -> "Data":
        if (self.generator is None) == (self.dataset is None):
            raise ValueError("give exactly one of generator and dataset")
        return self


class Optimisation(Frozen):
    """How the student is trained; the same for every strategy of a grid.

    Attributes:
        learning_rate: peak of the schedule.
        schedule: after a linear warm-up: constant, or linear or cosine decay to zero.
        warmup: share of the steps, in [0, 1).
        batch_size: sequences per optimiser step.
        micro_batch_size: sequences per forward pass; does not change the result.
        epochs: passes over the training sequences.
        max_grad_norm: gradient clipping threshold.
    """

    learning_rate: Annotated[float, Field(gt=0)]
    betas: tuple[float, float]
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["constant", "linear", "cosine"]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    batch_size: Positive
    micro_batch_size: Positive
    epochs: Positive
    max_grad_norm: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> "Optimisation":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class Evaluation(Frozen):
    """How the trained student is judged.

    Attributes:
        suite: the lm-eval tasks (see harness.evaluate.suite).
        num_items: items per task.
        batch_size: sequences per evaluation batch.
    """

    suite: str
    num_items: Positive
    batch_size: Positive


class Resources(Frozen):
    """What one trial occupies.

    Attributes:
        cpus: threads.
        gpus: share of a GPU, asked for only where there is one.
        dtype: of weights and activations; statistics and losses are float32 at least.
        logit_memory_mib: ceiling of what one chunk of logits and its temporaries may occupy.
    """

    cpus: Positive
    gpus: Annotated[float, Field(ge=0)]
    dtype: Literal["float32", "bfloat16", "float64"]
    logit_memory_mib: Positive


class Workload(Frozen):
    """Teacher, student, data, optimisation and evaluation: everything a strategy is applied to.

    Attributes:
        folder: where the workload file lies; relative paths in it are resolved against it.
    """

    name: str
    folder: Path = Field(exclude=True)
    teacher: ModelSource | None
    student: ModelSource
    data: Data
    optimisation: Optimisation
    evaluation: Evaluation
    resources: Resources
    seeds: tuple[int, ...]


class Grid(Frozen):
    """A question put to the harness: which strategies, on which workload, over which seeds.

    Attributes:
        name: the grid's folder under results/ and reports/.
        hypothesis: the file's first comment.
        baseline: label of the row that the others are compared with.
        split: what the reported numbers are measured on; choose budgets on validation only.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    hypothesis: str
    workload: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    baseline: str | None = None
    split: Split
    strategies: tuple[Strategy, ...]

    @model_validator(mode="after")
    def _labels(self) -> "Grid":
        labels = [strategy.label for strategy in self.strategies]
        if not labels:
            raise ValueError("strategies is empty: name at least one preset or strategy")
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two strategies share the label {twice[0]!r}: give one of them a label of its own")
        if self.baseline is not None and self.baseline not in labels:
            raise ValueError(f"baseline {self.baseline!r} is not the label of a strategy: {', '.join(labels)}")
        return self
