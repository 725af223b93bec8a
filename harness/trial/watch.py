"""Diagnostics of a trial: what is shown of its workload, and their cost kept apart from the training's."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedTokenizerBase

from harness.distill.diagnostics import Watch
from harness.distill.step import Core
from harness.teacher.inputs import Inputs
from harness.teacher.live import cached_teacher
from harness.trial.meter import Clock, LiveBytes
from harness.trial.trial import Trial


def watch_training(
    trial: Trial, core: Core, inputs: Inputs, device: str, *, clock: Clock, live: LiveBytes
) -> Watch | None:
    """Return what watches a trial's training, None where its grid asks for no diagnostics.

    The first held-out sequences are shown: the same for every strategy and seed of a workload and split, never trained
    on, and with the teacher's states in a cache whether the strategy reads them or not.

    Args:
        trial: the trial.
        core: its training.
        inputs: its data.
        device: where the student is.
        clock: the time of looking is booked on phase `diagnostics`.
        live: does not count what looking brings to life.
    """
    settings, cache = trial.diagnostics, inputs.heldout_cache
    if settings is None:
        return None

    @contextmanager
    def aside() -> Iterator[None]:
        with clock.phase("diagnostics"), live.paused():
            yield

    return Watch(
        core=core,
        settings=settings,
        shown=inputs.heldout.batch(torch.arange(min(settings.sequences, len(inputs.heldout)))).to(device),
        teacher=None if cache is None else lambda: cached_teacher(cache, device),
        text=token_text(inputs.tokenizer),
        aside=aside,
    )


def token_text(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
    """Return how tokens are written: decoded, or as the vocabulary has them where they are no whole characters."""

    def text(token: int) -> str:
        decoded = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in decoded or not decoded else decoded

    return functools.cache(text)
