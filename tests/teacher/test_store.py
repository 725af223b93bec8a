"""What every kind of cache promises: named by all it depends on, verified, resumable, safe for many processes."""

import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import caches_in
from sampling import sampled
from torch import Tensor

from harness.config import Choice
from harness.config.errors import UserError
from harness.data.tokens import Batch, Tokens
from harness.models import Head
from harness.records import files as records
from harness.records.layout import Results
from harness.records.lock import owner_of
from harness.teacher.kind import KINDS as NAMES
from harness.teacher.kind import Kind
from harness.teacher.kinds.draws import StoredDraws
from harness.teacher.kinds.hidden import HiddenStates, TeacherHead
from harness.teacher.kinds.rows import RowTeacher
from harness.teacher.kinds.scores import SignalScores
from harness.teacher.kinds.top_classes import TopClasses
from harness.teacher.provide import Make, open_stored, provide
from harness.teacher.source import Source
from harness.teacher.store import building, key_of, open_store
from harness.trial.prepass import SampleScores
from strategies.digest import digest_of

NUM, LENGTH, SIZE, VOCAB = 11, 6, 4, 50
DRAWS = StoredDraws(draws=8, proposal=1.0, seed=3, temperature=1.0, vocab_size=VOCAB)
TOP = TopClasses(k=3, precision="float16", temperature=1.0, vocab_size=VOCAB)
KINDS: dict[str, Kind[RowTeacher, Any]] = {
    "hidden": HiddenStates(),
    "sampled": DRAWS,
    "scores": SignalScores(signal="teacher_ce"),
    "topk": TOP,
}


def make_source(**changes: Any) -> Source:
    ids = np.random.RandomState(0).randint(1, VOCAB, size=(NUM, LENGTH)).astype(np.int32)
    tokens = Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=0.5, key="tokens")
    return Source(**{"tokens": tokens, "teacher": "teacher", "tokenizer": "map", "dtype": "float32", **changes})


def trunk(batch: Batch) -> Tensor:
    return torch.from_numpy(np.random.RandomState(1).standard_normal((NUM, LENGTH, SIZE))).float()[batch.index]


HEAD = Head(weight=torch.from_numpy(np.random.RandomState(2).standard_normal((VOCAB, SIZE))).float())


@dataclass(frozen=True)
class Built:
    """A cache of any kind, as a test looks at it."""

    path: Path
    values: Callable[[], tuple[Tensor, ...]]


def build(
    kind: str, folder: Path, source: Source | None = None, run: Callable[[Batch], Tensor] = trunk, **changes: Any
) -> Built:
    source = source or make_source()
    asked = RowTeacher(trunk=run, head=HEAD, batch_size=2, chunk=4)
    provide(KINDS[kind], source, lambda: asked, results=caches_in(folder), batch_size=2, shard_size=2, **changes)
    found = opened(kind, folder, source)
    assert found is not None
    return found


def opened(kind: str, folder: Path, source: Source | None = None) -> Built | None:
    source = source or make_source()
    batch = source.tokens.batch(torch.from_numpy(source.sequences))
    stored = open_stored(KINDS[kind], source, caches_in(folder))

    def values() -> tuple[Tensor, ...]:
        assert stored is not None
        if kind == "sampled":
            target = DRAWS.target(stored.store, batch)
            return target.ids, target.counts
        return tuple(vars(TOP.target(stored.store, batch)).values()) if kind == "topk" else (stored.read(batch),)

    return stored and Built(stored.store.path, values)


def use(kind: str, folder: Path, source: Source | None = None) -> tuple[Tensor, ...]:
    found = opened(kind, folder, source)
    assert found is not None
    return found.values()


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "meta.json"}


def row_teacher() -> RowTeacher:
    return RowTeacher(trunk=trunk, head=HEAD, batch_size=2, chunk=4)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("kind", list(KINDS))
def test_as_many_processes_as_there_are_make_the_bytes_of_one(kind: str, workers: int, tmp_path: Path) -> None:
    def spread(what: str, make: Make, numbers: Sequence[int], waiting: Callable[[], None]) -> None:
        assert list(numbers) == list(range(6))
        for rank in range(workers):
            # As another process has it: the kind, the data and what it is made with have been sent there.
            pickle.loads(pickle.dumps(make))(numbers[rank::workers])
            waiting()
        monkeypatch.setattr(type(KINDS[kind]), "make", lambda *_: pytest.fail("nothing was left to make"))

    alone = build(kind, tmp_path / "alone")
    with pytest.MonkeyPatch.context() as monkeypatch:
        size = {"batch_size": 2, "shard_size": 2}
        results = caches_in(tmp_path / "together")
        together = provide(KINDS[kind], make_source(), row_teacher, results=results, spread=spread, **size)
    assert len(files_of(alone.path)) == 6
    assert files_of(together.store.path) == files_of(alone.path)


# ---- identity


def test_every_kind_is_one_that_the_command_line_shows() -> None:
    kinds = [*KINDS.values(), TeacherHead(), SampleScores(signal=Choice(name="kl"), student="student", seed=0)]
    assert sorted(kind.name for kind in kinds) == sorted(NAMES)
    assert all(isinstance(kind, Kind) for kind in kinds)


def test_the_key_changes_with_every_ingredient() -> None:
    source = make_source()
    tokens = source.tokens
    sources = [
        source,
        make_source(tokens=replace(tokens, key="other")),
        make_source(teacher="other"),
        make_source(tokenizer="other"),
        make_source(dtype="bfloat16"),
        make_source(only=np.array([0, 3])),
        make_source(only=np.array([0, 4])),
    ]
    assert len({key_of("hidden", each.ingredients) for each in sources}) == len(sources)
    sources.append(make_source(tokens=replace(tokens, cross_document_targets=True)))
    draws = [{"draws": 9}, {"proposal": 0.8}, {"seed": 4}, {"temperature": 2.0}, {"vocab_size": VOCAB + 1}]
    keys = [key_of("sampled", DRAWS.ingredients(each)) for each in sources]
    keys += [key_of("sampled", replace(DRAWS, **change).ingredients(source)) for change in draws]
    assert len(set(keys)) == len(sources) + len(draws)
    tops: list[Any] = [{"k": 4}, {"precision": "float32"}, {"temperature": 2.0}, {"vocab_size": VOCAB + 1}]
    keys = [key_of("topk", TOP.ingredients(each)) for each in sources]
    keys += [key_of("topk", replace(TOP, **change).ingredients(source)) for change in tops]
    assert len(set(keys)) == len(sources) + len(tops)


def test_the_key_does_not_change_with_names() -> None:
    source = make_source()
    assert make_source(about={"workload": "mine"}).ingredients == source.ingredients


def test_the_draws_change_with_the_function_that_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = DRAWS.ingredients(make_source())["function"]
    with monkeypatch.context() as edited:
        edited.setattr("strategies.digest.source_digest", lambda text: "edited")
        digest_of.cache_clear()  # an edit is seen by the next process
        after = DRAWS.ingredients(make_source())["function"]
    digest_of.cache_clear()
    assert after != before
    assert DRAWS.ingredients(make_source())["function"] == before


@pytest.mark.parametrize(
    ("name", "change"), [("teacher", "other"), ("tokenizer", "other"), ("tokens", None), ("temperature", 2.0)]
)
def test_a_cache_of_something_else_is_refused_by_what_differs(name: str, change: Any, tmp_path: Path) -> None:
    # A folder that was copied or renamed: its name promises what is asked for, its description says what it is.
    source, settings = make_source(), DRAWS
    build("sampled", tmp_path)
    if name == "temperature":
        settings = replace(DRAWS, temperature=change)
    elif name == "tokens":
        source = make_source(tokens=replace(source.tokens, key="other"))
    else:
        source = make_source(**{name: change})
    asked, held = settings.ingredients(source)[name], DRAWS.ingredients(make_source())[name]
    wanted = tmp_path / f"sampled-{key_of('sampled', settings.ingredients(source))}"
    (tmp_path / f"sampled-{key_of('sampled', DRAWS.ingredients(make_source()))}").rename(wanted)
    with pytest.raises(UserError) as caught:
        open_stored(settings, source, caches_in(tmp_path))
    assert f"is of another {name}: asked for {asked!r}, it holds {held!r}" in str(caught.value)
    assert f"harness cache rm {wanted.name}" in str(caught.value)


def test_a_cache_of_another_kind_is_refused(tmp_path: Path) -> None:
    ingredients = make_source().ingredients
    build("hidden", tmp_path)
    (tmp_path / f"hidden-{key_of('hidden', ingredients)}").rename(tmp_path / f"topk-{key_of('topk', ingredients)}")
    with pytest.raises(UserError, match="another kind: asked for 'topk', it holds 'hidden'"):
        open_store(caches_in(tmp_path), "topk", ingredients)


# ---- integrity


@pytest.mark.parametrize("kind", list(KINDS))
def test_one_flipped_bit_in_any_file_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = build(kind, tmp_path, make_source(only=np.array([1, 2, 5, 9]))).path
    draws = random.Random(0)
    names = sorted(file.name for file in path.iterdir())
    assert {"meta.json", "sequences.safetensors", "shard-00001.safetensors"} <= set(names)
    for name in names:
        file = path / name
        content = file.read_bytes()
        for place in {0, len(content) - 1, *(draws.randrange(len(content)) for _ in range(12))}:
            flipped = bytearray(content)
            flipped[place] ^= 1 << draws.randrange(8)
            file.write_bytes(flipped)
            with pytest.raises(UserError) as caught:
                use(kind, tmp_path, make_source(only=np.array([1, 2, 5, 9])))
            assert str(file) in str(caught.value), place
            assert f"`harness cache rm {path.name}" in str(caught.value)
            file.write_bytes(content)
    use(kind, tmp_path, make_source(only=np.array([1, 2, 5, 9])))


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("how", ["shorter", "longer", "empty", "missing"])
def test_a_file_of_another_size_is_refused_when_the_cache_is_opened(kind: str, how: str, tmp_path: Path) -> None:
    path = build(kind, tmp_path).path / "shard-00002.safetensors"
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes({"shorter": content[:-5], "longer": content + b"x", "empty": b""}[how])
    with pytest.raises(UserError, match=f"shard-00002.safetensors has \\d+ bytes instead of {len(content)}"):
        opened(kind, tmp_path)


def test_a_checksum_is_computed_once_per_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = records.checksum

    def counted(path: Path) -> str:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(records, "checksum", counted)
    path = build("hidden", tmp_path).path
    for _ in range(3):
        use("hidden", tmp_path)
    assert sorted(read) == sorted(files_of(path))


def test_a_description_from_another_version_is_refused(tmp_path: Path) -> None:
    path = build("hidden", tmp_path).path / "meta.json"
    path.write_text(json.dumps({"dtype": "float32", "bytes": {}, "num_tokens": 5, "build_s": 1.0}))
    with pytest.raises(UserError, match=r"meta\.json is damaged or was written by another version"):
        opened("hidden", tmp_path)


def test_a_folder_without_its_description_does_not_block_a_new_build(tmp_path: Path) -> None:
    first = build("hidden", tmp_path)
    values = first.values()
    (first.path / "meta.json").unlink()
    assert opened("hidden", tmp_path) is None
    assert all(torch.equal(a, b) for a, b in zip(values, build("hidden", tmp_path).values(), strict=True))


# ---- building


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_failed_build_is_no_cache_and_the_next_one_continues_it(kind: str, tmp_path: Path) -> None:
    seen: list[int] = []

    def fails_late(batch: Batch) -> Tensor:
        if len(seen) >= 6:
            raise RuntimeError("out of memory")
        seen.extend(batch.index.tolist())
        return trunk(batch)

    with pytest.raises(RuntimeError, match="out of memory"):
        build(kind, tmp_path, run=fails_late)
    assert opened(kind, tmp_path) is None
    assert owner_of(caches_in(tmp_path).cache_locks, next(tmp_path.glob(f"{kind}-*")).name) is None

    def counted(batch: Batch) -> Tensor:
        seen.extend(batch.index.tolist())
        return trunk(batch)

    done: list[int] = []
    continued = build(kind, tmp_path, run=counted, on_progress=lambda _, count, __: done.append(count))
    assert seen == list(range(NUM))
    assert done == [2, 4, 6, 8, 10, 11]
    fresh = build(kind, tmp_path / "fresh")
    assert files_of(continued.path) == files_of(fresh.path)


@pytest.mark.parametrize("what", ["shard", "note"])
def test_a_damaged_shard_of_an_unfinished_build_is_made_again(what: str, tmp_path: Path) -> None:
    seen: list[int] = []

    def counted(batch: Batch) -> Tensor:
        if len(seen) == 6:
            raise RuntimeError("stop")
        seen.extend(batch.index.tolist())
        return trunk(batch)

    with pytest.raises(RuntimeError, match="stop"):
        build("hidden", tmp_path, run=counted)
    path = next(tmp_path.glob("hidden-*")) / ("shard-00001.safetensors" if what == "shard" else "shard-00001.json")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    seen.clear()
    seen.append(-1)
    continued = build("hidden", tmp_path, run=lambda batch: (seen.extend(batch.index.tolist()), trunk(batch))[1])
    assert seen == [-1, 2, 3, 6, 7, 8, 9, 10]
    assert files_of(continued.path) == files_of(build("hidden", tmp_path / "fresh").path)


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/teacher']
import test_store as shared
kind, folder, after, where = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
calls = 0
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def run(batch):
    global calls
    calls += 1
    if where == "trunk" and calls > after:
        die()
    with (folder / "calls.txt").open("a") as log:
        log.write(" ".join(map(str, batch.index.tolist())) + " ")
    return shared.trunk(batch)
real = os.fsync
syncs = 0
def fsync(descriptor):
    global syncs
    syncs += 1
    if where == "write" and syncs > 3 * after:
        die()
    real(descriptor)
os.fsync = fsync
shared.build(kind, folder, run=run)
"""


@pytest.mark.parametrize(("kind", "where"), sampled([("hidden", "trunk"), ("sampled", "write")], [1]))
def test_a_killed_build_is_continued(kind: str, where: str, tmp_path: Path) -> None:
    after = random.Random(f"{kind} {where}").randint(1, 3)
    command = [sys.executable, "-c", _KILLED, str(Path(__file__).parents[1]), kind, str(tmp_path), str(after), where]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert opened(kind, tmp_path) is None
    folder = next(tmp_path.glob(f"{kind}-*"))
    whole = len(list(folder.glob("shard-*.json")))
    assert whole >= 1
    seen: list[int] = []
    continued = build(kind, tmp_path, run=lambda batch: (seen.extend(batch.index.tolist()), trunk(batch))[1])
    assert seen == list(range(2 * whole, NUM)), "finished shards must not be computed again"
    before = [int(index) for index in (tmp_path / "calls.txt").read_text().split()]
    assert before[: 2 * whole] == list(range(2 * whole))
    assert not list(folder.glob(".*")), "what was half written must be gone"
    assert files_of(continued.path) == files_of(build(kind, tmp_path / "fresh").path)


# Processes are spawned: a fork of a process in which torch has started threads can hang.


def _race(kind: str, folder: Path, barrier: Any, results: Any) -> None:
    calls = 0

    def slow(batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        time.sleep(0.02)
        return trunk(batch)

    barrier.wait()
    values = build(kind, folder, run=slow).values()
    results.put((calls, [value.numpy().tobytes() for value in values]))


# The store is the same for every kind.
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hidden"])
def test_two_builders_leave_one_good_cache(kind: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_race, args=(kind, tmp_path, barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=180) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    assert sorted(calls for calls, _ in found) == [0, 6], "one builds, the other waits and reads"
    assert found[0][1] == found[1][1]
    assert {path.name for path in tmp_path.iterdir()} == {next(tmp_path.glob(f"{kind}-*")).name, "locks"}
    alone = build(kind, tmp_path / "alone")
    assert files_of(alone.path) == files_of(next(tmp_path.glob(f"{kind}-*")))


def test_two_builders_in_one_process_leave_one_good_cache(tmp_path: Path) -> None:
    calls: list[int] = []
    errors: list[BaseException] = []

    def slow(batch: Batch) -> Tensor:
        calls.append(int(batch.index[0]))
        time.sleep(0.01)
        return trunk(batch)

    def work() -> None:
        try:
            build("hidden", tmp_path, run=slow)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    assert calls == [0, 2, 4, 6, 8, 10]


def _read(kind: str, folder: Path, results: Any) -> None:
    found = opened(kind, folder)
    assert found is not None
    results.put([value.numpy().tobytes() for _ in range(5) for value in found.values()])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hidden"])
def test_any_number_of_processes_read_at_once(kind: str, tmp_path: Path) -> None:
    expected = [value.numpy().tobytes() for value in build(kind, tmp_path).values()] * 5
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_read, args=(kind, tmp_path, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=180) for _ in workers] == [expected] * 2
    for worker in workers:
        worker.join(timeout=60)


def test_readers_survive_the_removal_of_the_cache(tmp_path: Path) -> None:
    found = build("hidden", tmp_path)
    before = found.values()
    shutil.rmtree(found.path)
    assert all(torch.equal(a, b) for a, b in zip(before, found.values(), strict=True))


def test_a_dead_owners_lock_is_taken_over(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom harness.records.layout import Results\n"
        "from harness.teacher.store import building\n"
        "with building(Results(Path(sys.argv[1])), 'hidden-x'):\n    Path(sys.argv[2]).touch()\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(ready)])
    try:
        for _ in range(600):
            if ready.exists():
                break
            time.sleep(0.05)
        owner = owner_of(Results(tmp_path).cache_locks, "hidden-x")
        assert owner is not None
        assert f"process {holder.pid} on " in owner
        in_use = pytest.raises(UserError, match=f"is in use: built by process {holder.pid}")
        with in_use, building(Results(tmp_path), "hidden-x", timeout_s=0.0):
            pass
    finally:
        holder.kill()
        holder.wait()
    assert owner_of(Results(tmp_path).cache_locks, "hidden-x") is None
    with building(Results(tmp_path), "hidden-x", timeout_s=0.0):
        assert json.loads((Results(tmp_path).cache_locks / "hidden-x.owner.json").read_text())["pid"] == os.getpid()


def test_a_full_disk_is_told_by_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    build("hidden", tmp_path / "warm")
    real, calls = os.fsync, [0]

    def late(descriptor: int) -> None:
        calls[0] += 1
        (full if calls[0] == 3 else real)(descriptor)

    monkeypatch.setattr(os, "fsync", late)
    with pytest.raises(UserError, match=r"shard-00000.safetensors cannot be written: No space left on device"):
        build("hidden", tmp_path)
    monkeypatch.setattr(os, "fsync", real)
    assert opened("hidden", tmp_path) is None
    assert not list(next(tmp_path.glob("hidden-*")).glob(".*"))
    build("hidden", tmp_path)


def test_a_cache_of_nothing_is_refused(tmp_path: Path) -> None:
    tokens = Tokens(
        ids=np.zeros((0, 4), dtype=np.int32), separator=1, cross_document_targets=False, tokens_per_byte=1.0, key="k"
    )
    nothing = Source(tokens=tokens, teacher="teacher", tokenizer="tokenizer", dtype="float32")
    with pytest.raises(UserError, match="no sequences"):
        build("hidden", tmp_path, nothing)
