"""What every trial of a workload shares: packed tokens and the teacher's hidden states, prepared once, then mapped."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from harness import models
from harness.config import Split, Workload
from harness.data.text import TextSplit
from harness.data.tokens import Tokens, prepare_all
from harness.teacher.hidden import HiddenCache, build_hidden, make_hidden_shards, open_hidden
from harness.teacher.live import read_head, row_teacher, run_teacher
from harness.teacher.sampled import Draws, SampledCache, build_sampled, open_sampled
from harness.teacher.scores import ScoreCache, build_scores, open_scores
from harness.teacher.source import Source
from harness.teacher.store import Spread
from harness.teacher.topk import TopK, TopKCache, build_topk, open_topk

# (what is being built, sequences done, sequences in all)
Progress = Callable[[str, int, int], None]


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
    train_cache: HiddenCache | None
    heldout_cache: HiddenCache | None

    @property
    def vocab_size(self) -> int:
        """Tokens of the tokenizer; logit columns beyond are padding."""
        return len(self.tokenizer)


@dataclass(frozen=True, kw_only=True)
class Part:
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
    cache: Path,
    needs_train_cache: bool,
    on_progress: Progress | None = None,
    spread: Callable[[Part], Spread] | None = None,
) -> Inputs:
    """Map a workload's shared inputs, building what is missing. Idempotent, and safe to call from several processes.

    Args:
        workload: the workload.
        fingerprints: see `harness.trial.identity.fingerprints`.
        split: the reported split.
        cache: folder of caches.
        needs_train_cache: whether a trial trains from the teacher's hidden states.
        on_progress: told of the building of caches.
        spread: lets other processes build parts of the teacher's caches, with `build_part`.
    """
    tokenizer = models.load_tokenizer(workload.student, workload.folder)
    train, heldout = prepare_tokens(workload, fingerprints, split, tokenizer, cache=cache)
    wanted: dict[str, Tokens] = {split: heldout} | ({"train": train} if needs_train_cache else {})
    caches: dict[str, HiddenCache] = {}
    if workload.teacher is not None:
        sources = {name: teacher_source(workload, fingerprints, each, data=name) for name, each in wanted.items()}
        spreads = {}
        if spread is not None:
            spreads = {
                name: spread(Part(workload=workload, fingerprints=fingerprints, split=split, data=name))
                for name in wanted
            }
        caches = _caches(workload, sources, cache, on_progress, spreads)
    return Inputs(
        tokenizer=tokenizer,
        train=train,
        heldout=heldout,
        train_cache=caches.get("train"),
        heldout_cache=caches.get(split),
    )


def build_part(part: Part, numbers: Sequence[int], *, cache: Path) -> None:
    """Make some shards of a cache that another process is building, with a teacher of this process's own.

    Args:
        part: the cache.
        numbers: which shards.
        cache: folder of caches, shared with the other process.

    Raises:
        UserError: nobody is building that cache; or bad input.
    """
    workload = part.workload
    tokenizer = models.load_tokenizer(workload.student, workload.folder)
    train, heldout = prepare_tokens(workload, part.fingerprints, part.split, tokenizer, cache=cache)
    source = teacher_source(workload, part.fingerprints, train if part.data == "train" else heldout, data=part.data)
    trunk, _ = run_teacher(workload)
    make_hidden_shards(cache, source, trunk, batch_size=workload.optimisation.micro_batch_size, numbers=numbers)


def prepare_tokens(
    workload: Workload,
    fingerprints: Mapping[str, str],
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    *,
    cache: Path,
) -> tuple[Tokens, Tokens]:
    """Map the packed text for training and that of the reported split; nothing is written if either is bad.

    Args:
        workload: the workload.
        fingerprints: see `harness.trial.identity.fingerprints`.
        split: the reported split.
        tokenizer: the shared tokenizer.
        cache: folder of caches.

    Raises:
        UserError: a data file that cannot be read, or too little text.
    """
    source_key = f"{fingerprints['data']}-{fingerprints['tokenizer']}"
    splits: tuple[TextSplit, ...] = ("train", split)
    tokens = prepare_all(workload.data, workload.folder, splits, tokenizer, source_key=source_key, cache=cache)
    return tokens["train"], tokens[split]


def prepare_train_cache(
    workload: Workload,
    fingerprints: Mapping[str, str],
    train: Tokens,
    *,
    cache: Path,
    only: Int[Tensor, " K"],
    on_progress: Progress | None = None,
) -> HiddenCache:
    """Map the teacher's states of the chosen training sequences, building them if they are missing.

    Args:
        workload: a workload with a teacher.
        fingerprints: see `harness.trial.identity.fingerprints`.
        train: distillation text.
        cache: folder of caches.
        only: the training sequences that will be asked for, ascending. A cache of all of them serves too, if there is
            one; otherwise only these are run through the teacher and stored.
        on_progress: told of the building.
    """
    whole = open_hidden(cache, teacher_source(workload, fingerprints, train, data="train"))
    if whole is not None:
        return whole
    source = teacher_source(workload, fingerprints, train, data="train", only=only.numpy())
    return _caches(workload, {"train": source}, cache, on_progress)["train"]


def teacher_source(
    workload: Workload,
    fingerprints: Mapping[str, str],
    tokens: Tokens,
    *,
    data: str,
    only: npt.NDArray[np.int64] | None = None,
) -> Source:
    """Describe the teacher over a data set: what every cache of it is made from.

    Args:
        workload: the workload; it has a teacher.
        fingerprints: see `harness.trial.identity.fingerprints`.
        tokens: the data set.
        data: what it is called: train, validation or test.
        only: the sequences that the sample axis kept, ascending; all if None.
    """
    assert workload.teacher is not None
    return Source(
        tokens=tokens,
        teacher=fingerprints["teacher"],
        tokenizer=fingerprints["tokenizer"],
        dtype=workload.resources.dtype,
        only=only,
        about={"workload": workload.name, "teacher": workload.teacher.path, "data": data},
    )


def _caches(
    workload: Workload,
    sources: Mapping[str, Source],
    cache: Path,
    on_progress: Progress | None,
    spreads: Mapping[str, Spread] | None = None,
) -> dict[str, HiddenCache]:
    """Map the teacher's caches; load the teacher only if something has to be computed here."""
    found = {name: open_hidden(cache, source) for name, source in sources.items()}
    if all(found.values()):
        return {name: opened for name, opened in found.items() if opened is not None}
    online = functools.cache(lambda: run_teacher(workload))
    for name, source in sources.items():
        if found[name] is None:
            found[name] = build_hidden(
                cache,
                source,
                lambda batch: online()[0](batch),
                read_head(workload) if spreads else online()[1],
                spread=(spreads or {}).get(name),
                batch_size=workload.optimisation.micro_batch_size,
                on_progress=None if on_progress is None else _named(on_progress, f"teacher states, {name}"),
            )
    return {name: opened for name, opened in found.items() if opened is not None}


def prepare_sampled(
    workload: Workload,
    fingerprints: Mapping[str, str],
    tokens: Tokens,
    settings: Draws,
    *,
    cache: Path,
    only: npt.NDArray[np.int64] | None = None,
    on_progress: Progress | None = None,
) -> SampledCache:
    """Map the cache of the teacher's draws over the training text; build what is missing.

    The teacher is run only where no `hidden` cache holds its states. Idempotent, and safe to call from several
    processes.

    Args:
        workload: the workload; it has a teacher.
        fingerprints: see `harness.trial.identity.fingerprints`.
        tokens: the training text.
        settings: what is drawn.
        cache: folder of caches.
        only: the sequences that the sample axis kept, ascending; all if None.
        on_progress: told of the building.
    """
    source = teacher_source(workload, fingerprints, tokens, data="train", only=only)
    found = open_sampled(cache, source, settings)
    if found is not None:
        return found
    return build_sampled(
        cache,
        source,
        settings,
        row_teacher(workload, source, cache),
        on_progress=None if on_progress is None else _named(on_progress, "teacher draws, train"),
    )


def prepare_topk(
    workload: Workload,
    fingerprints: Mapping[str, str],
    tokens: Tokens,
    settings: TopK,
    *,
    cache: Path,
    only: npt.NDArray[np.int64] | None = None,
    on_progress: Progress | None = None,
) -> TopKCache:
    """Map the cache of the teacher's largest classes over the training text; build what is missing.

    The same as `prepare_sampled`, of another kind.
    """
    source = teacher_source(workload, fingerprints, tokens, data="train", only=only)
    found = open_topk(cache, source, settings)
    if found is not None:
        return found
    return build_topk(
        cache,
        source,
        settings,
        row_teacher(workload, source, cache),
        on_progress=None if on_progress is None else _named(on_progress, "teacher's largest classes, train"),
    )


def prepare_scores(
    workload: Workload,
    fingerprints: Mapping[str, str],
    tokens: Tokens,
    signal: str,
    *,
    cache: Path,
    only: npt.NDArray[np.int64] | None = None,
    on_progress: Progress | None = None,
) -> tuple[ScoreCache, bool]:
    """Map the cache of a signal's scores of the training text, or build it; return it and whether it was there.

    The same as `prepare_sampled`, of another kind, but scores of all sequences serve where some are asked for.
    """
    source = teacher_source(workload, fingerprints, tokens, data="train", only=only)
    found = open_scores(cache, replace(source, only=None), signal) or open_scores(cache, source, signal)
    if found is not None:
        return found, True
    built = build_scores(
        cache,
        source,
        signal,
        row_teacher(workload, source, cache),
        on_progress=None if on_progress is None else _named(on_progress, f"{signal}, train"),
    )
    return built, False


def _named(on_progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(name, done, total)
