"""harness cache ls, build, verify, rm."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import caches_in

from harness import models
from harness.cli import main as cli
from harness.config.workloads import load_workload
from harness.data.tokens import Tokens
from harness.records.layout import Results
from harness.teacher.inputs import Inputs, prepare_inputs, teacher_source
from harness.teacher.kinds.draws import StoredDraws
from harness.teacher.kinds.hidden import HiddenStates
from harness.teacher.live import provide_rows
from harness.teacher.manage import entries
from harness.teacher.provide import open_stored
from harness.teacher.store import building
from harness.trial.identity import fingerprints

SIZE, LENGTH = 24, 32


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line and return its exit code and what it printed."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "240")
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out + printed.err

    return run


@pytest.fixture
def inputs(workload_file: Path, tmp_path: Path) -> Inputs:
    """The small workload's inputs, prepared under `tmp_path / results`."""
    workload = load_workload(str(workload_file))
    return prepare_inputs(
        workload, fingerprints(workload), "validation", results=Results(tmp_path / "results"), needs_train_cache=True
    )


def test_ls_shows_what_a_cache_is_of_and_what_it_costs(inputs: Inputs, harness: Any, tmp_path: Path) -> None:
    assert inputs.train_cache is not None
    assert inputs.heldout_cache is not None
    code, printed = harness("cache", "ls", "--results", tmp_path / "results")
    assert code == 0
    (head,) = (tmp_path / "results" / "cache").glob("head-*")  # of both: a teacher has one
    assert f"head    {head.name.removeprefix('head-')}  ./teacher " in " ".join(printed.splitlines())
    for cache, data, num in ((inputs.train_cache, "train", 12), (inputs.heldout_cache, "validation", 6)):
        line = next(line for line in printed.splitlines() if cache.states.store.meta.key in line)
        total = sum(file.stat().st_size for file in cache.states.store.path.iterdir())
        assert f"workload {data}, ./teacher" in line
        assert f"{num * LENGTH:,}" in line
        assert f"{total:,}" in line
        assert f"{cache.states.store.meta.bytes_per_token:.1f}" in line
        assert 4 * SIZE <= cache.states.store.meta.bytes_per_token <= 4 * SIZE + 1
        assert line.rstrip().endswith("complete")


def test_ls_of_nothing(harness: Any, tmp_path: Path) -> None:
    code, printed = harness("cache", "ls", "--results", tmp_path / "none")
    assert code == 0
    assert "no teacher caches" in printed
    assert not (tmp_path / "none").exists()


def test_verify_finds_one_flipped_bit_and_rm_and_run_rebuild(inputs: Inputs, harness: Any, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert inputs.train_cache is not None
    path = inputs.train_cache.states.store.path
    assert harness("cache", "verify", "--results", results)[0] == 0
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    for name in before:
        damaged = bytearray(before[name])
        damaged[len(damaged) // 2] ^= 4
        (path / name).write_bytes(damaged)
        code, printed = harness("cache", "verify", "--results", results)
        assert code == 1
        assert f"bad: {path / name} " in printed
        assert printed.count("bad:") == 1
        assert "good: hidden-" in printed  # the other cache
        (path / name).write_bytes(before[name])
    (path / "shard-00000.safetensors").unlink()
    assert (
        f"{path / 'shard-00000.safetensors'} has 0 bytes"
        in harness("cache", "verify", path.name, "--results", results)[1]
    )
    code, printed = harness("cache", "rm", inputs.train_cache.states.store.meta.key, "--results", results)
    assert code == 0
    assert f"removed {path}" in printed
    assert not path.exists()
    assert not list((results / "cache").glob(".*"))


def test_rm_and_run_rebuild(inputs: Inputs, harness: Any, workload_file: Path, tmp_path: Path) -> None:
    assert inputs.train_cache is not None
    path = inputs.train_cache.states.store.path
    before = {file.name: file.read_bytes() for file in path.glob("*.safetensors")}
    assert harness("cache", "rm", path.name, "--results", tmp_path / "results")[0] == 0
    code, printed = harness("cache", "build", workload_file, "--results", tmp_path / "results")
    assert code == 0
    assert printed.count("complete") == 4  # the head; states of train, validation, test
    assert {file.name: file.read_bytes() for file in path.glob("*.safetensors")} == before


def test_build_of_a_grid_builds_what_its_trials_read(
    harness: Any, write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    for entry, expected in (("sft", {"validation"}), ("se_kd", {"train", "validation"})):
        grid = write_grid([entry], workload=str(workload_file), stem=entry)
        results = tmp_path / entry
        assert harness("cache", "build", grid, "--results", results)[0] == 0
        metas = [entry.meta for entry in entries(Results(results))]
        assert {meta.about["data"] for meta in metas if meta is not None and meta.kind == "hidden"} == expected


def test_what_is_built_beforehand_is_what_a_run_reads(harness: Any, workload_file: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert harness("cache", "build", workload_file, "--results", results)[0] == 0
    workload = load_workload(str(workload_file))
    told: list[Any] = []
    found = prepare_inputs(
        workload,
        fingerprints(workload),
        "test",
        results=Results(results),
        needs_train_cache=True,
        on_progress=lambda *step: told.append(step),
    )
    assert told == [], "nothing was left to build"
    assert isinstance(found.train, Tokens)
    source = teacher_source(workload, fingerprints(workload), found.train, data="train")
    assert open_stored(HiddenStates(), source, Results(results)) is not None


def test_a_workload_without_a_teacher_has_nothing_to_cache(
    harness: Any, write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    code, printed = harness("cache", "build", write_workload(teacher=None), "--results", tmp_path / "results")
    assert code == 2
    assert "has no teacher" in printed


def test_an_unknown_workload_suggests_the_nearest(harness: Any, tmp_path: Path) -> None:
    code, printed = harness("cache", "build", "tinny", "--results", tmp_path / "results")
    assert code == 2
    assert "Did you mean 'tiny'?" in printed


@pytest.mark.parametrize("command", ["rm", "verify"])
def test_an_unknown_key_suggests_the_nearest(command: str, inputs: Inputs, harness: Any, tmp_path: Path) -> None:
    assert inputs.train_cache is not None
    key = inputs.train_cache.states.store.meta.key
    code, printed = harness("cache", command, key[:-1], "--results", tmp_path / "results")
    assert code == 2
    assert f"Did you mean {key!r}?" in printed
    assert inputs.train_cache.states.store.path.exists()


def test_rm_names_nothing_outside_the_caches(inputs: Inputs, harness: Any, tmp_path: Path) -> None:
    for key in ("", ".", "..", "../..", "tokens-train", "locks", str(tmp_path)):
        assert harness("cache", "rm", key, "--results", tmp_path / "results")[0] == 2
    assert len(entries(Results(tmp_path / "results"))) == 3


def test_a_cache_that_is_being_built_is_not_removed(inputs: Inputs, harness: Any, tmp_path: Path) -> None:
    import subprocess
    import time

    assert inputs.train_cache is not None
    path, ready = inputs.train_cache.states.store.path, tmp_path / "ready"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom harness.records.layout import Results\n"
        "from harness.teacher.store import building\n"
        "with building(Results(Path(sys.argv[1]).parent), sys.argv[2]):\n"
        "    Path(sys.argv[3]).touch()\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path.parent), path.name, str(ready)])
    try:
        for _ in range(600):
            if ready.exists():
                break
            time.sleep(0.05)
        status, printed = harness("cache", "rm", path.name, "--results", tmp_path / "results")
        assert status == 2
        assert f"is in use: built by process {holder.pid}" in printed
    finally:
        holder.kill()
        holder.wait()
    assert path.exists()
    assert harness("cache", "rm", path.name, "--results", tmp_path / "results")[0] == 0


@pytest.mark.parametrize("states_first", [False, True])
def test_draws_are_prepared_with_or_without_the_teacher(
    states_first: bool, workload_file: Path, harness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, results = load_workload(str(workload_file)), tmp_path / "results"
    found = fingerprints(workload)
    cache = results / "cache"
    shared = prepare_inputs(workload, found, "validation", results=caches_in(cache), needs_train_cache=states_first)
    settings = StoredDraws(draws=8, proposal=1.0, seed=0, temperature=1.0, vocab_size=shared.vocab_size)
    loads: list[Any] = []
    real = models.load_model
    monkeypatch.setattr(models, "load_model", lambda *given, **named: loads.append(given) or real(*given, **named))
    only = torch.tensor([1, 4, 7, 8])
    source = teacher_source(workload, found, shared.train, data="train", only=only)
    first = provide_rows(settings, workload, source, results=caches_in(cache))
    assert len(loads) == (0 if states_first else 1)
    again = provide_rows(settings, workload, source, results=caches_in(cache))
    assert (first.built, again.built) == (True, False)
    assert len(loads) == (0 if states_first else 1)
    batch = shared.train.batch(only)
    targets = [settings.target(each.store, batch) for each in (first, again)]
    assert torch.equal(targets[0].ids, targets[1].ids)
    assert (targets[0].counts.sum(dim=-1) == 8 * batch.valid).all()
    printed = harness("cache", "ls", "--results", results)[1]
    line = next(line for line in printed.splitlines() if line.startswith("sampled"))
    for part in ("workload train, ./teacher", "4 chosen sequences", "draws 8", "temperature 1.0", "complete"):
        assert part in line


def test_ls_and_verify_tell_unfinished_and_foreign_caches(inputs: Inputs, harness: Any, tmp_path: Path) -> None:
    cache = tmp_path / "results" / "cache"
    (cache / "hidden-empty").mkdir()
    (cache / "hidden-old").mkdir()
    (cache / "hidden-old" / "meta.json").write_text('{"dtype": "float32"}')
    printed = harness("cache", "ls", "--results", tmp_path / "results")[1]
    lines = {line.split()[1]: line for line in printed.splitlines() if line.startswith("hidden")}
    assert "unfinished" in lines["empty"]
    assert "another version" in lines["old"]
    code, printed = harness("cache", "verify", "--results", tmp_path / "results")
    assert code == 1
    assert "hidden-old/meta.json damaged, or of another version" in printed
    for key in ("empty", "old"):
        assert harness("cache", "rm", key, "--results", tmp_path / "results")[0] == 0
    with building(caches_in(cache), "hidden-empty", timeout_s=0.0):
        pass
