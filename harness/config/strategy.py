"""What a strategy is: which positions, classes and samples are supervised, and how rows are compared."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from harness.config.base import Choice, Frozen, Positive, Share
from harness.config.errors import UserError
from harness.config.yaml import parse

Layer = Annotated[int, Field(ge=0)]
Normaliser = Literal["sequence_mean", "batch_mean", "all_positions", "sum"]

# The class policies whose targets each cache of targets holds.
_TARGETS_OF = {"sampled": ("rs",), "topk": ("top_k", "top_k_tail")}


def _kind_of_temperature(value: Any) -> str:
    return "number" if isinstance(value, int | float) else "component"


Temperature = Annotated[
    Annotated[float, Field(gt=0, allow_inf_nan=False), Tag("number")] | Annotated[Choice, Tag("component")],
    Discriminator(_kind_of_temperature),
]


class Position(Frozen):
    """The position axis: which token positions are supervised.

    Attributes:
        signal: what scores a position; None for a policy that reads no scores.
        policy: how scores become weights.
        budget: share of valid positions to keep, in (0, 1]; None for a policy that has no budget.
        frozen: whether positions are scored by the student as it was before training, which stays in memory beside it:
            a mask that could have been stored. Diagnostics show the signals of the student in training.
    """

    signal: Choice | None = None
    policy: Choice
    budget: Share | None = None
    frozen: bool = Field(default=False, exclude_if=lambda value: not value)


class Samples(Frozen):
    """The sample axis: which training sequences a trial learns from, chosen once before training.

    Attributes:
        signal: scores a sequence by its mean over the sequence's valid positions, under the frozen initial student;
            None for a policy that reads no scores.
        policy: how scores become a subset.
        budget: share of the training sequences to keep, in (0, 1]; round(budget * sequences), at least 1.
        filtered: None fills batches with kept sequences, so that steps are fewer. A number cuts all sequences into
            groups of so many and leaves out of each what is not kept; a step takes batch_size / filtered groups that
            have any left, so that it is smaller and there are more. 2 is the released code's, batch_size nearly as many
            steps as without the axis.
    """

    signal: Choice | None = None
    policy: Choice
    budget: Share
    filtered: Positive | None = Field(default=None, exclude_if=lambda value: value is None)


class Feature(Frozen):
    """A second branch of the loss: the student's hidden states, projected, are drawn to the teacher's.

    A selected position's loss gains weight * distance(W student, teacher). W is a matrix without bias, trained with the
    student and not kept; there is one per pair of layers, and distances are averaged over pairs.

    Attributes:
        distance: how two hidden states are compared.
        weight: of the branch, above 0.
        signal: what tells hard positions; None for all selected ones. By name, with its own defaults.
        above: positions whose score is above this are hard.
        layers: `last`, the final states, or pairs of a student's and a teacher's layer: 0 is the embeddings, n what the
            n-th layer returns.
    """

    distance: Choice
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    signal: str | None = None
    above: Annotated[float, Field(allow_inf_nan=False)] | None = None
    layers: Literal["last"] | Annotated[tuple[tuple[Layer, Layer], ...], Field(min_length=1)] = "last"

    @model_validator(mode="after")
    def _both_or_none(self) -> "Feature":
        if (self.signal is None) != (self.above is None):
            raise ValueError("give both of signal and above, which say what a hard position is, or neither")
        return self


class Rollout(Frozen):
    """On-policy data: the student continues prompts of the training data, and is trained on what it wrote.

    Prompts are those of prompt/answer pairs, or cuts of plain text. Generated positions are the valid ones.

    Attributes:
        share: share of the training sequences that the student writes itself, in (0, 1]; the others are the data's.
        max_new_tokens: generated at most; None goes on to the end of the sequence (`data.sequence_length`).
        temperature: of sampling; 0 takes the likeliest token.
        top_p: the smallest set of likeliest tokens whose mass reaches this is sampled from; 1 is all of them.
        prompt_tokens: for plain text: tokens of the cut, at a random place of the training sequence, that is continued.
        preference: beta of DPKD (arXiv:2406.19774): every sequence that the student writes stands behind the data's own
            answer to the same prompt, and the loss is the preference of the data's over the student's, with the teacher
            as reference; a step then holds twice its batch. None compares single positions.
    """

    share: Share
    max_new_tokens: Positive | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    top_p: Share
    prompt_tokens: Positive | None = None
    preference: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _whole_pairs(self) -> "Rollout":
        if self.preference is not None and self.share != 1:
            raise ValueError(
                "preference sets the student's answer to every prompt against the data's, so share must be 1, not "
                f"{self.share:g}"
            )
        return self


class AsItIs(Frozen):
    """The student or the teacher as it is, a row that others are compared with: nothing is trained.

    Attributes:
        label: the row name in tables.
        source: what it is.
        model: which model is evaluated.
    """

    label: str
    source: str = ""
    model: Literal["student", "teacher"] = "student"
    train: Literal[False] = False

    # What some methods do without, a model as it is does without too: readers ask for it without asking which it is.
    samples: ClassVar[None] = None
    filtered: ClassVar[None] = None
    feature: ClassVar[None] = None
    rollout: ClassVar[None] = None
    stored: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _nothing_of_a_method(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        idle = [key for key, part in value.items() if key in _UNUSED and part not in (None, _UNUSED[key])]
        if idle:
            raise ValueError(f"train is false, so {' and '.join(idle)} would do nothing: leave them out")
        return {key: part for key, part in value.items() if key not in _UNUSED}

    def identity(self) -> dict[str, Any]:
        """Return what the row computes, with the settings that a method would have: ids are older than this class."""
        settings = {name: _UNUSED[name] for name in Method.model_fields if _UNUSED.get(name) is not None}
        return {**settings, "model": self.model, "train": False}


class Method(Frozen):
    """One selective-distillation method, complete.

    Attributes:
        label: the row name in tables.
        source: the paper that defines it.
        model: only the student can be trained.
        position: the position axis.
        criterion: how a student's row is compared with the teacher's.
        samples: the sample axis; None trains on every sequence.
        classes: the class axis: what is kept of the teacher's distribution at a position; None keeps it whole.
        normaliser: what the weighted sum of row losses is divided by. `sequence_mean` (the paper's): each sequence by
            its selection's own denominator, then the mean over sequences; `batch_mean`: one mean over all selected
            positions of the global batch; `all_positions`: each sequence by its valid positions; `sum`: nothing.
        kd_weight: the paper's lambda, in [0, 1]; the rest of the loss is cross-entropy with the data. Written `lambda`
            in YAML.
        cross_entropy: where that rest is taken: None at the selected positions, with their weights; `all` as a mean
            over every valid position of a sequence, whatever is selected.
        temperature: T of both distributions; the row loss is multiplied by T^2. A number, or a registered temperature,
            which gives every position its own.
        feature: a second branch of the loss, on hidden states; None without.
        rollout: what the student writes to be trained on; None trains on the data alone. Without a criterion of its own
            such a strategy has the reverse KL; cross-entropy, signed and weighed, where it is a preference.
        teacher: `cached` reads the teacher's hidden states from the workload's cache, `online` runs the teacher;
            `sampled` reads stored draws of class policy `rs`, `topk` stored classes of `top_k` or `top_k_tail`, and no
            teacher is in memory while training.
        flow: `chunked` never holds the logits of a whole batch; `dense` does, and is the memory baseline.
    """

    label: str
    source: str = ""
    model: Literal["student"] = "student"
    train: Literal[True] = True
    position: Position
    criterion: Choice
    samples: Samples | None = None
    classes: Choice | None = None
    normaliser: Normaliser = "sequence_mean"
    kd_weight: Annotated[float, Field(ge=0, le=1, alias="lambda")] = 1.0
    cross_entropy: Literal["all"] | None = Field(default=None, exclude_if=lambda value: value is None)
    temperature: Temperature = 1.0
    feature: Feature | None = None
    rollout: Rollout | None = None
    teacher: Literal["cached", "online", "sampled", "topk"] = "cached"
    flow: Literal["chunked", "dense"] = "chunked"

    @model_validator(mode="wrap")
    @classmethod
    def _of_two_parts(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(value, dict):
            value = _with_criterion(value)
        try:
            return handler(value)
        except ValidationError as error:
            if all(problem["type"] == "missing" for problem in error.errors()):
                raise ValueError("a trained strategy needs both position and criterion") from None
            raise

    @field_validator("classes")
    @classmethod
    def _whole(cls, value: Choice | None) -> Choice | None:
        # Keeping every class is what happens without a class policy: the same trial, whichever way it is written.
        return None if value is not None and value.name == "all" and not value.options else value

    @field_validator("temperature", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        # The same trial, whichever way it is written.
        written_out = isinstance(value, dict) and value.get("name") == "constant" and value.keys() == {"name", "value"}
        return value["value"] if written_out else value

    @property
    def budget(self) -> float:
        """Share of valid positions to keep; 1 for a policy that has no budget."""
        return 1.0 if self.position.budget is None else self.position.budget

    @property
    def filtered(self) -> int | None:
        """Size of the groups that sequences are left out of; None where batches are filled."""
        return None if self.samples is None else self.samples.filtered

    @property
    def preference(self) -> float | None:
        """Beta of a preference between the data's and the student's sequences; None without."""
        return None if self.rollout is None else self.rollout.preference

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


Strategy = AsItIs | Method

# Keys of a method that a model as it is has no use for, and what a method has where they are not written.
_UNUSED = {
    key: None if field.is_required() else field.default
    for name, field in Method.model_fields.items()
    if name not in AsItIs.model_fields
    for key in {name, field.alias or name}
}


def _with_criterion(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out parts written as null, and give on-policy training the criterion that it has without one."""
    fields = {key: part for key, part in fields.items() if part is not None or key not in ("position", "criterion")}
    if fields.get("rollout") is None or "criterion" in fields:
        return fields
    rollout = fields["rollout"]
    prefers = isinstance(rollout, dict) and rollout.get("preference") is not None
    return {**fields, "criterion": "cross_entropy" if prefers else "reverse_kl"}


class _Kind(Frozen):
    train: bool = True
    model: Literal["student", "teacher"] = "student"


def read_strategy(fields: Mapping[str, Any], *, where: str = "strategy") -> Strategy:
    """Check what a user wrote as a strategy, part by part; `harness.config.legality` says what may be combined.

    Raises:
        UserError: the first problem, with the key, the value and what is allowed.
    """
    kind = parse(_Kind, {name: fields[name] for name in _Kind.model_fields if name in fields}, where=where)
    if not kind.train:
        return parse(AsItIs, {**fields, "train": False}, where=where)
    if kind.model == "teacher":
        raise UserError(f"{where}: only the student can be trained: model must be student, or train false")
    return parse(Method, {**fields, "train": True}, where=where)


def recorded(strategy: Strategy) -> dict[str, Any]:
    """Return a strategy as a record holds it: with the same keys, whether it is a method or a model as it is."""
    fields = {name: None if field.is_required() else field.default for name, field in Method.model_fields.items()}
    written = strategy.model_dump(mode="json")
    # Settings that are left out of dumps where they are unset are younger than records.
    young = {name for name, field in Method.model_fields.items() if field.exclude_if is not None}
    return {
        Method.model_fields[name].alias or name: written.get(name, default)
        for name, default in fields.items()
        if name in written or name not in young
    }
