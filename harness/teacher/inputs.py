"""What every trial of a workload shares: packed tokens and the teacher's hidden states, prepared once, then mapped."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from harness import models
from harness.config import Split, Workload
from harness.config.annotations import PreTrainedTokenizerBase
from harness.data.text import TextSplit
from harness.data.tokens import Tokens, prepare_all
from harness.records.layout import Results
from harness.teacher.live import StoredTeacher, provide_teacher
from harness.teacher.provide import Progress, Spread
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


def prepare_inputs(
    workload: Workload,
    fingerprints: Mapping[str, str],
    split: Split,
    *,
    results: Results,
    needs_train_cache: bool,
    on_progress: Progress | None = None,
    spread: Spread | None = None,
) -> Inputs:
    """Map a workload's shared inputs, building what is missing. Idempotent, and safe to call from several processes.

    The teacher's states of the training text are among them where a trial reads them (`needs_train_cache`). The rest as
    in `provide`.
    """
    tokenizer = models.load_tokenizer(workload.student, workload.folder)
    train, heldout = prepare_tokens(workload, fingerprints, split, tokenizer, results=results)
    wanted: dict[str, Tokens] = {split: heldout} | ({"train": train} if needs_train_cache else {})
    caches = {
        name: provide_teacher(
            workload,
            teacher_source(workload, fingerprints, tokens, data=name),
            results=results,
            on_progress=on_progress,
            spread=spread,
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
