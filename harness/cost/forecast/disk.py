"""Bytes on disk, before anything is written."""

from dataclasses import dataclass

import torch

from harness.config import Method, Strategy, Workload
from harness.config.legality import kept_samples
from harness.distill.objective import compile_strategy
from harness.models import DTYPES
from harness.models.shapes import configuration
from harness.models.vocabulary import num_tokens
from harness.teacher.kinds.bits import PairLayout
from harness.teacher.targets import draws_of, largest_of
from harness.trial.samples import prepass_reads_cache, scored_by

_ID_BYTES, _SCORE_BYTES, _TAIL_BYTES = 4, 8, 4


@dataclass(frozen=True, kw_only=True)
class Cached:
    """Something that is stored once and shared by all trials that read it.

    Attributes:
        kind: tokens, head, hidden, heldout states, scores, sampled, topk or prepass.
        what: what of it, by which trials share it.
        num_bytes: its size.
        at_most: whether `num_bytes` is a bound: how many distinct classes are drawn is not known before.
    """

    kind: str
    what: str
    num_bytes: int
    at_most: bool = False


def caches(strategy: Strategy, workload: Workload) -> tuple[Cached, ...]:
    """Return what a strategy has stored before it trains, on a workload; equal entries are stored once."""
    data, samples = workload.data, workload.data.train_tokens // workload.data.sequence_length
    heldout = data.heldout_tokens // data.sequence_length
    found = [Cached(kind="tokens", what="", num_bytes=_ID_BYTES * data.sequence_length * (samples + heldout))]
    if workload.teacher is None:
        return tuple(found)
    head = num_tokens(workload.student, workload.folder)
    found.append(Cached(kind="head", what="", num_bytes=_states(workload, head)))
    found.append(Cached(kind="heldout states", what="", num_bytes=_states(workload, heldout * data.sequence_length)))
    if not strategy.train:
        return tuple(found)
    kept = kept_samples(strategy, samples)
    whole = prepass_reads_cache(strategy)
    if whole or (strategy.teacher == "cached" and compile_strategy(strategy).reads_teacher):
        num = samples if whole else kept
        # Choices of the same number by other signals, or of other seeds, are other sequences.
        what = "" if num == samples else f"{strategy.samples}"
        found.append(Cached(kind="hidden", what=what, num_bytes=_states(workload, num * data.sequence_length)))
    for name in compile_strategy(strategy).stored_scores:
        of = name if kept == samples else f"{name}, {strategy.samples}"
        each = torch.promote_types(DTYPES[workload.resources.dtype], torch.float32).itemsize
        found.append(Cached(kind="scores", what=of, num_bytes=kept * data.sequence_length * each))
    if strategy.stored:
        found.append(_targets(strategy, workload, kept))
    signal = scored_by(strategy)
    if signal is not None:
        found.append(Cached(kind="prepass", what=str(signal), num_bytes=_SCORE_BYTES * samples))
    return tuple(found)


def _states(workload: Workload, rows: int) -> int:
    """Return the size of the teacher's final states in the workload's dtype, or of rows of its head."""
    assert workload.teacher is not None, "only for workloads with a teacher"
    width = int(configuration(workload.teacher, workload.folder).hidden_size)
    return rows * width * DTYPES[workload.resources.dtype].itemsize


def _targets(strategy: Method, workload: Workload, sequences: int) -> Cached:
    """Return the size of stored draws or classes, every position but a sequence's last with a target."""
    vocab, length = num_tokens(workload.student, workload.folder), workload.data.sequence_length
    positions = sequences * (length - 1)
    what = f"{strategy.classes}, {strategy.temperature}, {strategy.samples}"
    if strategy.teacher == "topk":
        kept = largest_of(strategy, vocab)
        each = kept.k * (kept.layout.num_bytes + torch.float32.itemsize) + _TAIL_BYTES
        return Cached(kind="topk", what=what, num_bytes=positions * each + sequences * length)
    draws = draws_of(strategy, vocab)
    record = PairLayout(vocab_size=vocab, draws=draws.draws).num_bytes + (4 if draws.proposal != 1.0 else 0)
    lengths = 1 if draws.draws < 1 << 8 else 2
    num_bytes = positions * draws.draws * record + sequences * length * lengths
    return Cached(kind="sampled", what=what, num_bytes=num_bytes, at_most=True)


def size_of(num_bytes: int) -> str:
    """Write a size as disks are sold: TB, GB, MB or kB of powers of ten, to three digits."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"
