"""What a strategy is applied to: models, data, optimisation, evaluation, resources."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from harness.config.arithmetic import Arithmetic
from harness.config.base import Frozen, Positive, Slug


def _unset(value: object) -> bool:
    """Tell whether a field is as it was before it existed: left out of dumps, so that older trials keep their id."""
    return value is None or value is False or value in ({}, ())


def _numbers(entries: object) -> object:
    """Write out ranges of layers: [0-2, 7] is 0, 1, 2, 7."""
    numbers: list[int] = []
    for entry in entries if isinstance(entries, list | tuple) else [entries]:
        first, dash, last = str(entry).partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else not last)):
            raise ValueError(f"layers takes numbers and ranges such as 0-11, counted from 0; {entry!r} is neither")
        numbers.extend(range(int(first), int(last or first) + 1))
    if not numbers or numbers != sorted(set(numbers)):
        raise ValueError(f"layers must be ascending, each once, at least one; they are {entries!r}")
    return tuple(numbers)


Layers = Annotated[tuple[int, ...], BeforeValidator(_numbers)]


class ModelSource(Frozen):
    """Where a model comes from.

    Attributes:
        path: a hub name (`Qwen/Qwen3-8B`), or a folder written by save_pretrained; a relative folder is looked up
            beside the workload file first.
        revision: hub commit or tag; not allowed for a folder.
        trust_remote_code: whether Python code that lies beside the weights is executed; a run says so.
        layers: of a student, the layers of that model that it keeps, counted from 0 (`[0-11, 18-29]`); None for all.
            A student `from: teacher` is cut out of the workload's teacher.
    """

    path: str
    revision: str | None = None
    trust_remote_code: bool = False
    layers: Layers | None = Field(default=None, exclude_if=_unset)


class Pairs(Frozen):
    """Prompts and answers instead of plain text: a pair to a sequence, padded.

    Targets are the answer and its end, and the prompt too if asked for.

    An answer that does not fit its sequence is cut, and has no end then.

    Attributes:
        prompt_field: the column that holds the prompt.
        answer_field: the column that holds the answer.
        prompt_template: what the student reads, `{prompt}` replaced; as the evaluation asks it.
        answer_template: what follows, `{answer}` replaced.
        prompt_targets: whether a prompt's tokens are targets as well, all but the first.
        halved: whether validation and test are the rows of even and of odd index of the one split `test`.
    """

    prompt_field: str
    answer_field: str
    prompt_template: str = "{prompt}"
    answer_template: str = " {answer}"
    prompt_targets: bool = Field(default=False, exclude_if=_unset)
    halved: bool = False

    @model_validator(mode="after")
    def _holds_text(self) -> "Pairs":
        for name, slot in (("prompt_template", "{prompt}"), ("answer_template", "{answer}")):
            if slot not in getattr(self, name):
                raise ValueError(f"{name} {getattr(self, name)!r} must contain {slot}")
        return self


def _each_once(packages: tuple[str, ...]) -> tuple[str, ...]:
    names = [package.partition("==")[0] for package in packages]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"packages names {twice} twice")
    return packages


Package = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(==[0-9][A-Za-z0-9.!]*)?$")]
Packages = Annotated[tuple[Package, ...], AfterValidator(_each_once)]


class Data(Frozen):
    """Where text comes from and how it is cut.

    Attributes:
        generator: `tiny`, the embedded corpus, or `tiny_math`, its word problems as pairs of fields question and
            answer; `docstrings` or `code`, the documentation or the functions of installed `packages`; None to read
            `dataset`.
        packages: distributions, each with the version that is expected (`numpy==2.4.6`) or without; another version is
            read all the same, and noted.
        dataset: a hub data set, or `json`, `parquet`, `text` with `data_files`.
        name: configuration of a hub data set.
        revision: commit or tag of a hub data set.
        data_files: file or files of each split (train, validation, test), relative to the workload file.
        streaming: whether reading that was cut off goes on at its next document; for data sets that take hours.
        heldout_documents: for a data set with one split, train: its first so many documents are for validation, the
            next so many for test, and all that follow for training.
        text_field: the column that holds the text.
        pairs: how rows become prompts and answers; None packs the text of `text_field`.
        sequence_length: tokens per packed or padded sequence.
        train_tokens: distillation tokens per epoch, rounded down to whole sequences; padding counts, so that this is
            pairs times `sequence_length` where there are pairs.
        heldout_tokens: tokens of each held-out split that loss and KL are measured on.
        cross_document_targets: whether the token after an end-of-document token is a target.
    """

    generator: Literal["tiny", "tiny_math", "docstrings", "code"] | None = None
    packages: Packages = Field(default=(), exclude_if=_unset)
    dataset: str | None = None
    name: str | None = None
    revision: str | None = Field(default=None, exclude_if=_unset)
    data_files: dict[Literal["train", "validation", "test"], str | list[str]] | None = None
    streaming: bool = Field(default=False, exclude_if=_unset)
    heldout_documents: Positive | None = Field(default=None, exclude_if=_unset)
    text_field: str = "text"
    pairs: Pairs | None = Field(default=None, exclude_if=_unset)
    sequence_length: Annotated[int, Field(ge=2)]
    train_tokens: Positive
    heldout_tokens: Positive
    cross_document_targets: bool

    @model_validator(mode="after")
    def _one_source(self) -> "Data":
        if (self.generator is None) == (self.dataset is None):
            raise ValueError("give exactly one of generator and dataset")
        extra = [name for name in ("revision", "streaming", "heldout_documents") if getattr(self, name)]
        if self.generator is not None and extra:
            raise ValueError(f"{extra[0]} is for a dataset, and this is the generator {self.generator!r}")
        if self.generator is not None and (self.generator == "tiny_math") != (self.pairs is not None):
            raise ValueError("generator tiny_math makes pairs and needs `pairs`; the others make plain text")
        if (self.generator in ("docstrings", "code")) != bool(self.packages):
            raise ValueError("generators docstrings and code read `packages`, at least one; nothing else does")
        if self.pairs is not None and self.cross_document_targets:
            raise ValueError("a pair has its sequence to itself, so cross_document_targets must be false")
        if self.pairs is not None and {"streaming", "heldout_documents"} & {*extra}:
            raise ValueError("streaming and heldout_documents are for plain text, and this data set has pairs")
        return self


class Optimisation(Frozen):
    """How the student is trained; the same for every row of a grid that does not say otherwise.

    Attributes:
        optimiser: `adamw`, or `adamw_8bit` with states of 8 bits (torchao or bitsandbytes, for a GPU).
            `adamw_8bit_if_available` becomes one of the two when the workload is loaded, `adamw` where the student is
            sharded; that one is in the trial's identity and record.
        master_weights: whether the optimiser steps on a float32 copy of the student's weights, which are rounded to
            `resources.dtype` after every step. Without it a step much smaller than a weight is lost to rounding: in
            bfloat16, at a learning rate of 1e-5, most are.
        learning_rate: peak of the schedule.
        schedule: after a linear warm-up: constant, or linear or cosine decay to zero.
        warmup: share of the steps, in [0, 1).
        batch_size: sequences per optimiser step.
        micro_batch_size: sequences per forward pass; does not change the result.
        epochs: passes over the training sequences.
        max_grad_norm: gradient clipping threshold.
    """

    optimiser: Literal["adamw", "adamw_8bit", "adamw_8bit_if_available"] = "adamw"
    master_weights: bool = Field(default=False, exclude_if=_unset)
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
        suite: a suite's name, or a list of suites, lm-eval tasks and task files (see `harness.evaluate.suite`).
        num_items: the first items of each task, at most; null asks all there are.
        items: of a task, instead of `num_items`: an answer that is generated costs many times one that is read off.
        batch_size: sequences per evaluation batch.
        data_files: a task's data (json, jsonl, parquet; relative to the workload file) instead of the hub's: one file
            for validation and test, or files by split: `test`, and `validation` and `train` (examples) where there are.
        split: what is asked of a task with one split for validation and test: its items of even and of odd index
            (`halves`), or all of them for test (`whole`), and for validation those of its training split.
        validation: the tasks that a grid on validation asks instead, with the first so many items of each at most;
            the suite if left out.
        fewshot: examples before a question, by task, instead of as many as the task's definition says.
        max_new_tokens: of a generated answer at most, by task, instead of what the task's definition says.
        chat_template: whether prompts and examples are put as turns of the tokenizer's chat template.
        packages: whose documentation the tasks of suite `docs` are made from; `data.packages` if left out.
    """

    suite: str | tuple[str, ...]
    num_items: Positive | None
    items: dict[str, Positive] = Field(default_factory=dict, exclude_if=_unset)
    batch_size: Positive
    data_files: dict[str, str | dict[str, str]] = Field(default_factory=dict)
    split: Literal["halves", "whole"] = Field(default="halves", exclude_if=lambda split: split == "halves")
    validation: dict[str, Positive | None] | None = Field(default=None, exclude_if=_unset)
    fewshot: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict, exclude_if=_unset)
    max_new_tokens: dict[str, Positive] = Field(default_factory=dict, exclude_if=_unset)
    chat_template: bool = Field(default=False, exclude_if=_unset)
    packages: Packages = Field(default=(), exclude_if=_unset)

    @model_validator(mode="after")
    def _has_test_files(self) -> "Evaluation":
        for task, files in self.data_files.items():
            if isinstance(files, dict) and not {"test"} <= set(files) <= {"train", "validation", "test"}:
                raise ValueError(f"data_files.{task}: give test, and validation and train where there are")
        return self


class Lora(Frozen):
    """Low-rank adapters (arXiv:2106.09685) that are trained in place of the student's own weights.

    Evaluated and exported is the student with its adapters added to the weights.

    Attributes:
        rank: of each adapter.
        alpha: an adapter's product is multiplied by alpha / rank.
        targets: last names of linear layers of the trunk (`q_proj`), or `all-linear`.
        head: whether the head is trained too, in full, and with it the embeddings where both are one matrix; without,
            it stays as it is.
    """

    rank: Positive
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    head: bool = False


class Resources(Frozen):
    """What one trial occupies.

    Attributes:
        cpus: threads, of each process.
        gpus: share of a GPU of each process; a run without one is refused, unless it is told --cpu.
        teacher_gpus: GPUs of its own for a teacher that runs, its layers spread over them; 0 puts it on the student's.
            Where its cache is made there is no student.
        data_parallel: processes that train one student together, each on its share of every batch's micro-batches;
            does not change the result.
        shard_student: whether these processes share out the student's layers and its optimiser's state, for a student
            that one GPU can hold but not train; does not change the result, but for an optimiser left to what is
            installed.
        dtype: of weights and activations; statistics and losses are float32 at least.
        logit_memory_mib: ceiling of what one chunk of logits and its temporaries may occupy.
        checkpoint_activations: whether the student's backward pass computes activations anew instead of keeping them.
        compile: whether the numbers of a chunk are computed by kernels that torch.compile makes; `peak_gib.step` is
            left out of the record then.
        arithmetic: which of a processor's instructions the libraries use (`harness.config.arithmetic`): `pinned` to
            AVX2, for the same digits on every machine of a vendor, `compatible` for both vendors', slower, or `native`.
    """

    cpus: Positive
    gpus: Annotated[float, Field(ge=0)]
    dtype: Literal["float32", "bfloat16", "float64"]
    logit_memory_mib: Positive
    checkpoint_activations: bool = False
    compile: bool = False
    teacher_gpus: Annotated[int, Field(ge=0)] = 0
    data_parallel: Positive = 1
    shard_student: bool = False
    arithmetic: Arithmetic = "pinned"


class Workload(Frozen):
    """Teacher, student, data, optimisation and evaluation: everything a strategy is applied to.

    Attributes:
        lora: adapters of the student; None trains all its weights.
        folder: where the workload file lies; relative paths in it are resolved against it.
        fetched: whether they are models that `harness workload fetch` puts under the results' cache instead.
    """

    name: Slug
    folder: Path = Field(exclude=True)
    fetched: bool = Field(default=False, exclude_if=_unset)
    teacher: ModelSource | None
    student: ModelSource
    lora: Lora | None = Field(default=None, exclude_if=_unset)
    data: Data
    optimisation: Optimisation
    evaluation: Evaluation
    resources: Resources
    seeds: tuple[int, ...]

    @model_validator(mode="before")
    @classmethod
    def _student_of_teacher(cls, fields: Any) -> Any:
        student, teacher = (fields.get(name) for name in ("student", "teacher"))
        if not isinstance(student, dict) or "from" not in student:
            return fields
        if student["from"] != "teacher" or not isinstance(teacher, dict):
            raise ValueError(f"student.from is {student['from']!r}; it must be teacher, and the workload must have one")
        if student.keys() != {"from", "layers"}:
            raise ValueError("a student from the teacher says its layers, and nothing else")
        return {**fields, "student": {**teacher, "layers": student["layers"]}}

    @model_validator(mode="before")
    @classmethod
    def _one_list_of_packages(cls, fields: Any) -> Any:
        data, evaluation = (fields.get(name) for name in ("data", "evaluation"))
        if not (isinstance(data, dict) and isinstance(evaluation, dict) and data.get("packages")):
            return fields
        return {**fields, "evaluation": {"packages": data["packages"], **evaluation}}

    @model_validator(mode="after")
    def _whole_teacher(self) -> "Workload":
        if self.teacher is not None and self.teacher.layers is not None:
            raise ValueError("teacher.layers: only a student is cut out of a model")
        return self
