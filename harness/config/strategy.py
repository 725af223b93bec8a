"""What a strategy is: which positions, classes and samples are supervised, and how rows are compared."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from harness.config.base import Choice, Frozen, Positive, Share

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
    model: Literal["student", "teacher"] = "student"
    train: bool = True
    position: Position | None = None
    criterion: Choice | None = None
    samples: Samples | None = None
    classes: Choice | None = None
    normaliser: Normaliser = "sequence_mean"
    kd_weight: Annotated[float, Field(ge=0, le=1, alias="lambda")] = 1.0
    temperature: Temperature = 1.0
    feature: Feature | None = None
    rollout: Rollout | None = None
    teacher: Literal["cached", "online", "sampled", "topk"] = "cached"
    flow: Literal["chunked", "dense"] = "chunked"

    @model_validator(mode="before")
    @classmethod
    def _on_policy_criterion(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("rollout") is not None and value.get("criterion") is None:
            rollout = value["rollout"]
            prefers = isinstance(rollout, dict) and rollout.get("preference") is not None
            return {**value, "criterion": "cross_entropy" if prefers else "reverse_kl"}
        return value

    @field_validator("classes")
    @classmethod
    def _whole(cls, value: Choice | None) -> Choice | None:
        # Keeping every class is what happens without a class policy: the same trial, whichever way it is written.
        return None if value == Choice(name="all") else value

    @field_validator("temperature", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        # The same trial, whichever way it is written.
        written_out = isinstance(value, dict) and value.get("name") == "constant" and value.keys() == {"name", "value"}
        return value["value"] if written_out else value

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
