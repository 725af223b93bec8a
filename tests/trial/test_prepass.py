"""The prepass: scores against a dense oracle, what it reads, and its cache on disk."""

import itertools
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SEPARATOR, VOCAB, Pair, caches_in
from torch import Tensor

from harness.config import Choice
from harness.config.seeds import derive
from harness.data.tokens import Batch, Tokens
from harness.models import Head, head_of, trunk
from harness.teacher.kinds.hidden import HiddenStates
from harness.teacher.kinds.rows import RowTeacher
from harness.teacher.provide import Make, Stored, open_stored, provide
from harness.teacher.source import Source
from harness.teacher.store import key_of
from harness.trial import prepass as prepass_module
from harness.trial.prepass import SampleScores, Scorer, reads_student, reads_teacher
from strategies.noise import streams, uniform
from strategies.registry import SIGNALS, Component

NUM, LENGTH = 7, 13
ROW_SIGNALS = [name for name in SIGNALS if SIGNALS[name].traits["scope"] == "row"]
STUDENT_ONLY = [name for name in ROW_SIGNALS if not reads_teacher(Choice(name=name))]


@pytest.fixture(scope="module")
def pair(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair(torch.float64)


@pytest.fixture(scope="module")
def tokens(make_batch: Callable[..., Batch]) -> Tokens:
    ids = make_batch(NUM, LENGTH, seed=3).input_ids.to(torch.int32).numpy().copy()
    ids[2, 4:] = SEPARATOR  # most of a sequence without targets
    ids[5] = SEPARATOR  # and one without any
    return Tokens(ids=ids, separator=SEPARATOR, cross_document_targets=False, tokens_per_byte=0.5, key="tokens")


def teacher_of(pair: Pair) -> RowTeacher:
    head = Head(weight=head_of(pair.teacher, VOCAB).weight.detach())
    return RowTeacher(trunk=lambda batch: trunk(pair.teacher, batch.input_ids), head=head, batch_size=3, chunk=1)


def source_of(tokens: Tokens, **changes: Any) -> Source:
    return Source(**{"tokens": tokens, "teacher": "t", "tokenizer": "k", "dtype": "float64", **changes})


def kind_of(name: str, *, options: Any = None, student: str = "s", seed: int = 1) -> SampleScores:
    return SampleScores(signal=Choice(name=name, options=options or {}), student=student, seed=seed)


def scorer(pair: Pair, teacher: RowTeacher | None = None, *, batch_size: int = 3, chunk: int = 5) -> Scorer:
    return Scorer(
        student=pair.student, teacher=teacher, vocab_size=VOCAB, batch_size=batch_size, chunk=chunk, device="cpu"
    )


def score(
    name: str,
    pair: Pair,
    tokens: Tokens,
    teacher: RowTeacher | None = None,
    *,
    options: Any = None,
    seed: int = 1,
    **changes: Any,
) -> Tensor:
    """Return the score of every sequence."""
    kind, asked = kind_of(name, options=options, seed=seed), scorer(pair, teacher, **changes)
    with torch.no_grad():
        made = kind.make(source_of(tokens), asked, np.arange(len(tokens)), lambda _: None)
    return made["scores"]


def oracle(name: str, pair: Pair, tokens: Tokens, *, eps: float = 1e-6) -> list[float]:
    """Score one sequence at a time, from all its logits, by formulas written out here."""
    scores = []
    for number in range(len(tokens)):
        ids = torch.from_numpy(tokens.ids[number].astype("int64"))
        places = [t for t in range(LENGTH - 1) if ids[t] != SEPARATOR]
        if not places:
            scores.append(0.0)
            continue
        with torch.no_grad():
            log_q, log_p = (
                F.log_softmax(model(input_ids=ids[None]).logits[0, :, :VOCAB], dim=-1)[places]
                for model in (pair.student, pair.teacher)
            )
        gold = ids[[t + 1 for t in places]][:, None]
        q, p = log_q.exp(), log_p.exp()
        ce_q, ce_p = -log_q.gather(1, gold)[:, 0], -log_p.gather(1, gold)[:, 0]
        entropy = -(q * log_q).sum(-1)
        kl = (p * (log_p - log_q)).sum(-1)
        ratio = ce_q / ce_p.clamp(min=eps)
        found = {
            "student_entropy": entropy,
            "teacher_entropy": -(p * log_p).sum(-1),
            "student_ce": ce_q,
            "teacher_ce": ce_p,
            "kl": kl,
            "reverse_kl": (q * (log_q - log_p)).sum(-1),
            "ce_ratio": ratio,
            "kl_plus_student_entropy": kl + entropy,
            "ce_ratio_plus_student_entropy": ratio + entropy,
            "teacher_uncertainty": 1 - p.gather(1, gold)[:, 0],
        }[name]
        scores.append(float(found.mean()))
    return scores


ORACLE = [
    "student_entropy", "teacher_entropy", "student_ce", "teacher_ce", "kl", "reverse_kl", "ce_ratio",
    "kl_plus_student_entropy", "ce_ratio_plus_student_entropy", "teacher_uncertainty",
]  # fmt: skip


@pytest.mark.parametrize("name", ORACLE)
def test_a_sequence_scores_the_mean_over_its_valid_positions(name: str, pair: Pair, tokens: Tokens) -> None:
    scores = score(name, pair, tokens, teacher_of(pair))
    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx(oracle(name, pair, tokens), rel=1e-10)
    assert scores[5] == 0.0


@pytest.mark.parametrize("name", ROW_SIGNALS)
def test_batches_and_chunks_do_not_change_a_score(name: str, pair: Pair, tokens: Tokens) -> None:
    found = [
        score(name, pair, tokens, teacher_of(pair), batch_size=size, chunk=chunk)
        for size, chunk in itertools.product((1, 3, 7), (1, 4, 1000))
    ]
    for scores in found[1:]:
        torch.testing.assert_close(scores, found[0], rtol=1e-10, atol=1e-12)


def test_options_reach_the_signal(pair: Pair, tokens: Tokens) -> None:
    scores = score("ce_ratio", pair, tokens, teacher_of(pair), options={"eps": 2.5})
    assert scores.tolist() == pytest.approx(oracle("ce_ratio", pair, tokens, eps=2.5), rel=1e-10)
    assert scores.tolist() != pytest.approx(oracle("ce_ratio", pair, tokens), rel=1e-3)


def test_noise_is_keyed_by_seed_and_sequence(pair: Pair, tokens: Tokens) -> None:
    scores = score("random", pair, tokens, seed=4)
    noise = uniform(streams(derive(4, "samples", "signal"), torch.arange(NUM)), LENGTH)
    valid = tokens.batch(torch.arange(NUM)).valid
    for number in range(NUM):
        wanted = float(noise[number][valid[number]].double().mean()) if valid[number].any() else 0.0
        assert float(scores[number]) == pytest.approx(wanted)
    assert not torch.equal(scores, score("random", pair, tokens, seed=5))


def _raise(*_: Any) -> Any:
    raise AssertionError("this model must not be touched")


@pytest.mark.parametrize("name", STUDENT_ONLY)
def test_student_only_signals_never_touch_the_teacher(name: str, pair: Pair, tokens: Tokens) -> None:
    head = Head(weight=torch.full((VOCAB, 24), torch.nan))
    raising = RowTeacher(trunk=_raise, head=head, batch_size=3, chunk=1)
    scores = score(name, pair, tokens, raising)
    assert torch.equal(scores, score(name, pair, tokens))


def test_teacher_only_signals_never_run_the_student(
    pair: Pair, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = score("teacher_entropy", pair, tokens, teacher_of(pair))
    teacher = teacher_of(pair)
    monkeypatch.setattr(prepass_module, "trunk", _raise)
    assert torch.equal(score("teacher_entropy", pair, tokens, teacher), wanted)
    assert not reads_student(Choice(name="teacher_entropy"))


def test_the_hidden_cache_gives_the_scores_of_the_online_teacher(pair: Pair, tokens: Tokens, tmp_path: Path) -> None:
    online = teacher_of(pair)
    states = provide(HiddenStates(), source_of(tokens), lambda: online, results=caches_in(tmp_path), batch_size=3)
    cached = replace(online, trunk=states.read)
    found, wanted = (score("kl", pair, tokens, each) for each in (cached, online))
    assert torch.equal(found, wanted)


def test_the_prepass_leaves_the_student_as_it_was(pair: Pair, tokens: Tokens) -> None:
    before = {name: value.clone() for name, value in pair.student.state_dict().items()}
    score("student_entropy", pair, tokens)
    assert all(torch.equal(value, before[name]) for name, value in pair.student.state_dict().items())
    assert all(parameter.grad is None for parameter in pair.student.parameters())
    assert not pair.student.training


def test_scores_that_are_no_numbers_are_refused(make_pair: Callable[..., Pair], tokens: Tokens) -> None:
    broken = make_pair(torch.float64)
    with torch.no_grad():
        broken.student.get_output_embeddings().weight[3, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"signal 'student_entropy' scores 6 of 7 training sequences as not"):
        score("student_entropy", broken, tokens)


# ---- what a prepass is called


def key(
    name: str = "kl", tokens: Tokens | None = None, options: Any = None, *, student: str = "s", seed: int = 1, **of: Any
) -> str:
    ids = torch.zeros((2, 3), dtype=torch.int32).numpy()
    tokens = tokens or Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=1.0, key="k")
    kind = kind_of(name, options=options, student=student, seed=seed)
    return key_of(kind.name, kind.ingredients(source_of(tokens, **of)))


def test_a_prepass_is_named_by_what_it_depends_on(monkeypatch: pytest.MonkeyPatch, tokens: Tokens) -> None:
    keys = [
        key(), key("reverse_kl"), key("ce_ratio"), key("ce_ratio", options={"eps": 0.1}), key(tokens=tokens),
        key(student="x"), key(teacher="x"), key(dtype="float32"), key("student_entropy"),
        key("random"), key("random", seed=2),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    original = Component.digest.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Component, "digest", property(lambda self: "new" if self.name == "kl" else original(self)))
    assert key() != keys[0]
    assert key("kl_plus_student_entropy") != key("student_entropy")
    assert key("reverse_kl") == keys[1]


def test_what_a_signal_does_not_read_does_not_name_its_prepass() -> None:
    assert key("student_entropy", teacher="x") == key("student_entropy", teacher="")
    assert key("kl", seed=2) == key("kl", seed=1)


# ---- on disk: what every kind promises is in tests/teacher/test_store.py


def build(folder: Path, pair: Pair, tokens: Tokens, **changes: Any) -> Stored[Callable[[], Tensor]]:
    kind, asked = kind_of("student_entropy"), partial(scorer, pair)
    return provide(kind, source_of(tokens), asked, results=caches_in(folder), batch_size=3, **changes)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_as_many_processes_as_there_are_make_the_bytes_of_one(
    workers: int, pair: Pair, tokens: Tokens, tmp_path: Path
) -> None:
    def spread(what: str, make: Make, numbers: Sequence[int], waiting: Callable[[], None]) -> None:
        assert list(numbers) == [0, 1, 2]
        for rank in range(workers):
            pickle.loads(pickle.dumps(make))(numbers[rank::workers])
        monkeypatch.setattr(SampleScores, "make", lambda *_: pytest.fail("nothing was left to make"))

    alone = build(tmp_path / "alone", pair, tokens, shard_size=3).store.path
    with pytest.MonkeyPatch.context() as monkeypatch:
        together = build(tmp_path / "together", pair, tokens, shard_size=3, spread=spread).store.path
    shards = [path.name for path in sorted(alone.glob("*.safetensors"))]
    assert len(shards) == 3
    assert all((together / name).read_bytes() == (alone / name).read_bytes() for name in shards)


def test_a_stored_prepass_is_read_back_whole(pair: Pair, tokens: Tokens, tmp_path: Path) -> None:
    assert open_stored(kind_of("student_entropy"), source_of(tokens), caches_in(tmp_path)) is None
    seen: list[tuple[str, int, int]] = []
    built = build(tmp_path, pair, tokens, shard_size=4, on_progress=lambda *step: seen.append(step))
    assert seen == [("samples by student_entropy, ", done, 7) for done in (3, 6, 7)]
    found = open_stored(kind_of("student_entropy"), source_of(tokens), caches_in(tmp_path))
    assert found is not None
    assert torch.equal(found.read(), score("student_entropy", pair, tokens))
    assert found.build_s == built.build_s > 0
    assert (built.built, found.built) == (True, False)
    assert json.loads((found.store.path / "meta.json").read_text())["ingredients"]["signal"] == "student_entropy"


def test_a_failed_build_is_no_prepass(make_pair: Callable[..., Pair], tokens: Tokens, tmp_path: Path) -> None:
    broken = make_pair(torch.float64)
    with torch.no_grad():
        broken.student.get_output_embeddings().weight[3, 0] = torch.nan
    for _ in range(2):
        with pytest.raises(FloatingPointError):
            build(tmp_path, broken, tokens)
        assert open_stored(kind_of("student_entropy"), source_of(tokens), caches_in(tmp_path)) is None
