"""The prepass: scores against a dense oracle, what it reads, and its cache on disk."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import SEPARATOR, VOCAB, Pair

from harness.config import Choice
from harness.config.errors import UserError
from harness.config.seeds import derive
from harness.data.tokens import Batch, Tokens
from harness.models import Head, head_of, trunk
from harness.teacher.hidden import build_hidden
from harness.teacher.interface import Teacher
from harness.teacher.prepass import open_prepass, store_prepass
from harness.teacher.source import Source
from harness.trial import prepass as prepass_module
from harness.trial.prepass import (
    Scorer,
    build_prepass,
    describe_prepass,
    prepass_key,
    reads_student,
    reads_teacher,
    score_sequences,
)
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


def teacher_of(pair: Pair) -> Teacher:
    head = Head(weight=head_of(pair.teacher, VOCAB).weight.detach())
    return Teacher(hidden=lambda batch: trunk(pair.teacher, batch.input_ids), head=head, online=True)


def scorer(name: str, pair: Pair, *, teacher: Teacher | None = None, **changes: Any) -> Scorer:
    fields: dict[str, Any] = {"batch_size": 3, "chunk": 5, "device": "cpu", "seed": 1, "vocab_size": VOCAB}
    signal = Choice(name=name, options=changes.pop("options", {}))
    return Scorer(signal=signal, student=pair.student, teacher=teacher, **{**fields, **changes})


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
    scores, num_positions = score_sequences(tokens, scorer(name, pair, teacher=teacher_of(pair)))
    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx(oracle(name, pair, tokens), rel=1e-10)
    assert num_positions == int((tokens.ids[:, :-1] != SEPARATOR).sum())
    assert scores[5] == 0.0


@pytest.mark.parametrize("name", ROW_SIGNALS)
def test_batches_and_chunks_do_not_change_a_score(name: str, pair: Pair, tokens: Tokens) -> None:
    found = [
        score_sequences(tokens, scorer(name, pair, teacher=teacher_of(pair), batch_size=size, chunk=chunk))
        for size, chunk in itertools.product((1, 3, 7), (1, 4, 1000))
    ]
    for scores, num_positions in found[1:]:
        assert num_positions == found[0][1]
        torch.testing.assert_close(scores, found[0][0], rtol=1e-10, atol=1e-12)


def test_options_reach_the_signal(pair: Pair, tokens: Tokens) -> None:
    scores, _ = score_sequences(tokens, scorer("ce_ratio", pair, teacher=teacher_of(pair), options={"eps": 2.5}))
    assert scores.tolist() == pytest.approx(oracle("ce_ratio", pair, tokens, eps=2.5), rel=1e-10)
    assert scores.tolist() != pytest.approx(oracle("ce_ratio", pair, tokens), rel=1e-3)


def test_noise_is_keyed_by_seed_and_sequence(pair: Pair, tokens: Tokens) -> None:
    scores, _ = score_sequences(tokens, scorer("random", pair, seed=4))
    noise = uniform(streams(derive(4, "samples", "signal"), torch.arange(NUM)), LENGTH)
    valid = tokens.batch(torch.arange(NUM)).valid
    for number in range(NUM):
        wanted = float(noise[number][valid[number]].double().mean()) if valid[number].any() else 0.0
        assert float(scores[number]) == pytest.approx(wanted)
    assert not torch.equal(scores, score_sequences(tokens, scorer("random", pair, seed=5))[0])


def _raise(*_: Any) -> Any:
    raise AssertionError("this model must not be touched")


@pytest.mark.parametrize("name", STUDENT_ONLY)
def test_student_only_signals_never_touch_the_teacher(name: str, pair: Pair, tokens: Tokens) -> None:
    raising = Teacher(hidden=_raise, head=Head(weight=torch.full((VOCAB, 24), torch.nan)), online=True)
    scores, _ = score_sequences(tokens, scorer(name, pair, teacher=raising))
    assert torch.equal(scores, score_sequences(tokens, scorer(name, pair, teacher=None))[0])


def test_teacher_only_signals_never_run_the_student(
    pair: Pair, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = score_sequences(tokens, scorer("teacher_entropy", pair, teacher=teacher_of(pair)))
    teacher = teacher_of(pair)
    monkeypatch.setattr(prepass_module, "trunk", _raise)
    assert torch.equal(score_sequences(tokens, scorer("teacher_entropy", pair, teacher=teacher))[0], wanted)
    assert not reads_student(Choice(name="teacher_entropy"))


def test_the_hidden_cache_gives_the_scores_of_the_online_teacher(pair: Pair, tokens: Tokens, tmp_path: Path) -> None:
    online = teacher_of(pair)
    dtype = str(online.head.weight.dtype).removeprefix("torch.")
    source = Source(tokens=tokens, teacher="t", tokenizer="k", dtype=dtype)
    cache = build_hidden(tmp_path, source, online.hidden, online.head, batch_size=3)
    cached = Teacher(hidden=cache.hidden, head=cache.head, online=False)
    found, wanted = (score_sequences(tokens, scorer("kl", pair, teacher=each))[0] for each in (cached, online))
    assert torch.equal(found, wanted)


def test_the_prepass_leaves_the_student_as_it_was(pair: Pair, tokens: Tokens) -> None:
    before = {name: value.clone() for name, value in pair.student.state_dict().items()}
    score_sequences(tokens, scorer("student_entropy", pair))
    assert all(torch.equal(value, before[name]) for name, value in pair.student.state_dict().items())
    assert all(parameter.grad is None for parameter in pair.student.parameters())
    assert not pair.student.training


def test_scores_that_are_no_numbers_are_refused(make_pair: Callable[..., Pair], tokens: Tokens) -> None:
    broken = make_pair(torch.float64)
    with torch.no_grad():
        broken.student.get_output_embeddings().weight[3, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"signal 'student_entropy' scores 6 of 7 training sequences as not"):
        score_sequences(tokens, scorer("student_entropy", broken))


def test_progress_is_told(pair: Pair, tokens: Tokens) -> None:
    seen: list[tuple[int, int]] = []
    score_sequences(tokens, scorer("student_ce", pair), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


# ---- what a prepass is called


def about(name: str = "kl", tokens: Tokens | None = None, options: Any = None, **changes: Any) -> str:
    fields: dict[str, Any] = {"student": "s", "teacher": "t", "dtype": "float32", "seed": 1}
    ids = torch.zeros((2, 3), dtype=torch.int32).numpy()
    tokens = tokens or Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=1.0, key="k")
    return prepass_key(describe_prepass(Choice(name=name, options=options or {}), tokens, **{**fields, **changes}))


def test_a_prepass_is_named_by_what_it_depends_on(monkeypatch: pytest.MonkeyPatch, tokens: Tokens) -> None:
    keys = [
        about(), about("reverse_kl"), about("ce_ratio"), about("ce_ratio", options={"eps": 0.1}), about(tokens=tokens),
        about(student="x"), about(teacher="x"), about(dtype="float64"), about("student_entropy"),
        about("random"), about("random", seed=2),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    original = Component.digest.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Component, "digest", property(lambda self: "new" if self.name == "kl" else original(self)))
    assert about() != keys[0]
    assert about("kl_plus_student_entropy") != about("student_entropy")
    assert about("reverse_kl") == keys[1]


def test_what_a_signal_does_not_read_does_not_name_its_prepass() -> None:
    assert about("student_entropy", teacher="x") == about("student_entropy", teacher=None)
    assert about("kl", seed=2) == about("kl", seed=1)


# ---- on disk


def build(folder: Path, pair: Pair, tokens: Tokens, name: str = "student_entropy") -> tuple[str, Any]:
    made = scorer(name, pair)
    depends = describe_prepass(made.signal, tokens, student="s", teacher=None, dtype="float64", seed=1)
    return prepass_key(depends), build_prepass(folder, depends, tokens, made)


def test_a_stored_prepass_is_read_back_whole(pair: Pair, tokens: Tokens, tmp_path: Path) -> None:
    assert open_prepass(tmp_path, "nothing") is None
    key, built = build(tmp_path, pair, tokens)
    found = open_prepass(tmp_path, key)
    assert found is not None
    assert torch.equal(found.scores, score_sequences(tokens, scorer("student_entropy", pair))[0])
    assert found.build_s == built.build_s > 0
    assert found.num_positions == built.num_positions
    assert found.num_bytes == (found.path / "scores.npy").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == [f"prepass-{key}"]
    assert json.loads((found.path / "meta.json").read_text())["key"]["signal"]["name"] == "student_entropy"


@pytest.mark.parametrize("name", ["scores.npy", "meta.json"])
def test_one_changed_byte_anywhere_is_refused_by_name(name: str, pair: Pair, tokens: Tokens, tmp_path: Path) -> None:
    key, built = build(tmp_path, pair, tokens)
    path = built.path / name
    whole = path.read_bytes()
    for place in range(len(whole)):
        for flip in (1, 32):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            with pytest.raises(UserError, match="is damaged: its checksum differs; remove") as caught:
                open_prepass(tmp_path, key)
            assert str(path) in str(caught.value)
    path.write_bytes(whole)
    assert open_prepass(tmp_path, key) is not None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{}", b"[]", b"null"])
def test_a_file_that_was_cut_or_replaced_is_refused(content: bytes, pair: Pair, tokens: Tokens, tmp_path: Path) -> None:
    key, built = build(tmp_path, pair, tokens)
    for name in ("scores.npy", "meta.json"):
        path = built.path / name
        whole = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(UserError, match=name):
            open_prepass(tmp_path, key)
        path.write_bytes(whole)
    (built.path / "scores.npy").unlink()
    with pytest.raises(UserError, match=r"scores\.npy"):
        open_prepass(tmp_path, key)


def test_a_failed_build_leaves_nothing_behind(make_pair: Callable[..., Pair], tokens: Tokens, tmp_path: Path) -> None:
    broken = make_pair(torch.float64)
    with torch.no_grad():
        broken.student.get_output_embeddings().weight[3, 0] = torch.nan
    with pytest.raises(FloatingPointError):
        build(tmp_path, broken, tokens)
    assert list(tmp_path.iterdir()) == []


def test_two_builders_and_a_half_made_folder_end_with_one_prepass(pair: Pair, tokens: Tokens, tmp_path: Path) -> None:
    key, first = build(tmp_path, pair, tokens)
    _, second = build(tmp_path, pair, tokens)  # finds the folder taken when it wants to rename
    assert torch.equal(first.scores, second.scores)
    assert second.build_s == first.build_s
    (first.path / "meta.json").unlink()
    assert open_prepass(tmp_path, key) is None
    build(tmp_path, pair, tokens)
    assert open_prepass(tmp_path, key) is not None
    assert [path.name for path in tmp_path.iterdir()] == [f"prepass-{key}"]


def test_what_cannot_be_stored_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        store_prepass(tmp_path, "k", torch.zeros(2), num_positions=1, build_s=0.0, about={"key": object()})
    assert list(tmp_path.iterdir()) == []
