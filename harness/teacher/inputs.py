"""What every trial of a workload shares: packed tokens and the teacher's hidden states, prepared once, then mapped."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from harness import models
from harness.config import Split, Workload
from harness.config.annotations import PreTrainedTokenizerBase
from harness.data.text import TextSplit
from harness.data.tokens import Tokens, prepare_all
from harness.records.layout import Results
from harness.teacher.kinds.hidden import HiddenStates
from harness.teacher.live import StoredTeacher, provide_teacher, run_teacher
from harness.teacher.provide import Progress, Spread, make_shards
from harness.teacher.source import Source

# K = kept sequences


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a trial reads besides its models.

    Attributes:
        tokenizer: the shared tokenizer.
        train: distillation text.
        heldout: text of the reported split.
        train_cache: the teacher over `train`, None where no trial reads it or there is no teacher.
        heldout_cache: the teacher over `heldout`, None without a teacher.
    """

    tokenizer: PreTrainedTokenizerBase
    train: Tokens
    heldout: Tokens
    train_cache: StoredTeacher | None
    heldout_cache: StoredTeacher | None

    @property
    def vocab_size(self) -> int:
        """Tokens of the tokenizer; logit columns beyond are padding."""
        return len(self.tokenizer)


@dataclass(frozen=True, kw_only=True)
class JointBuild:
    """A cache of teacher states that several processes build.

    Attributes:
        workload: the workload.
        fingerprints: see `harness.trial.identity.fingerprints`.
        split: the reported split.
        data: which data: train, or the split.
    """

    workload: Workload
    fingerprints: Mapping[str, str]
    split: Split
    data: str


def prepare_inputs(
    workload: Workload,
    fingerprints: Mapping[str, str],
    split: Split,
    *,
    results: Results,
    needs_train_cache: bool,
    on_progress: Progress | None = None,
    spread: Callable[[JointBuild], Spread] | None = None,
) -> Inputs:
    """Map a workload's shared inputs, building what is missing. Idempotent, and safe to call from several processes.

    The teacher's states of the training text are among them where a trial reads them (`needs_train_cache`). `spread`
    lets other processes build parts of the teacher's caches, with `build_part`.
    """
    tokenizer = models.load_tokenizer(workload.student, workload.folder)
    train, heldout = prepare_tokens(workload, fingerprints, split, tokenizer, results=results)
    wanted: dict[str, Tokens] = {split: heldout} | ({"train": train} if needs_train_cache else {})
    loaded = functools.cache(lambda: run_teacher(workload))
    caches = {
        name: provide_teacher(
            workload,
            teacher_source(workload, fingerprints, tokens, data=name),
            results=results,
            asked=loaded,
            on_progress=on_progress,
            spread=spread and spread(JointBuild(workload=workload, fingerprints=fingerprints, split=split, data=name)),
        )
        for name, tokens in (wanted if workload.teacher is not None else {}).items()
    }
    return Inputs(
        tokenizer=tokenizer,
        train=train,
        heldout=heldout,
        train_cache=caches.get("train"),
        heldout_cache=caches.get(split),
    )


def build_part(part: JointBuild, numbers: Sequence[int], *, results: Results) -> None:
    """Make some shards of a cache that another process is building, with a teacher of this process's own.

    Raises:
        UserError: nobody is building that cache; or bad input.
    """
    workload = part.workload
    tokenizer = models.load_tokenizer(workload.student, workload.folder)
    train, heldout = prepare_tokens(workload, part.fingerprints, part.split, tokenizer, results=results)
    source = teacher_source(workload, part.fingerprints, train if part.data == "train" else heldout, data=part.data)
    make_shards(HiddenStates(), source, lambda: run_teacher(workload), results=results, numbers=numbers)


def prepare_tokens(
    workload: Workload,
    fingerprints: Mapping[str, str],
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    *,
    results: Results,
) -> tuple[Tokens, Tokens]:
    """Map the packed text for training and that of the reported split; nothing is written if either is bad.

    Raises:
        UserError: a data file that cannot be read, or too little text.
    """
    source_key = f"{fingerprints['data']}-{fingerprints['tokenizer']}"
    splits: tuple[TextSplit, ...] = ("train", split)
    tokens = prepare_all(workload.data, workload.folder, splits, tokenizer, source_key=source_key, results=results)
    return tokens["train"], tokens[split]


def teacher_source(
    workload: Workload,
    fingerprints: Mapping[str, str],
    tokens: Tokens,
    *,
    data: str,
    only: Int[Tensor, " K"] | None = None,
) -> Source:
    """Describe the teacher over a data set (train, validation or test), or over the `only` sequences that were kept."""
    teacher = {"teacher": workload.teacher.path} if workload.teacher is not None else {}
    return Source(
        tokens=tokens,
        teacher=fingerprints.get("teacher", ""),
        tokenizer=fingerprints["tokenizer"],
        dtype=workload.resources.dtype,
        only=None if only is None else only.numpy(),
        about={"workload": workload.name, "data": data, **teacher},
    )
