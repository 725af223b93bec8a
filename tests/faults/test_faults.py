"""Runs that are killed, damaged, starved of disk and raced end with the records of a run that was left alone."""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from commands import Command
from conftest import small_model, workload_fields
from safetensors.torch import load_file
from table import Faults
from world import World, flip, grow, make_world, small_filesystem, truncate

from harness.config.expand import presets
from harness.config.workloads import ASSETS

STRATEGIES: list[Any] = [
    "gls_ce",
    {"preset": "se_kd_3x", "samples": {"budget": 0.5}},
    {"preset": "rs_kd", "label": "stored", "teacher": "sampled"},
]
RESUMED = ["se_kd", "gls_ce", "curriculum", "pos_rs", "se_kd_3x"]
# What is there when a phase begins.
PHASES = {"trials": ("prepare",), "prepare": (), "report": ("prepare", "trials")}
KILLS_IN_A_ROW = 3


@pytest.fixture(scope="module")
def faults(request: pytest.FixtureRequest) -> Iterator[Faults]:
    """Count faults; write the table after a whole run, and show it after any."""
    counted, failed = Faults(), request.session.testsfailed
    yield counted
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{counted.markdown()}")  # noqa: T201
    options = request.config.option
    if options.markexpr == "faults" and not options.keyword and request.session.testsfailed == failed:
        counted.write()


def _world(
    checkpoints: Path,
    tmp_path_factory: pytest.TempPathFactory,
    faults: Faults,
    *,
    epochs: int,
    optimiser: str = "adamw",
    changes: dict[str, Any] | None = None,
    **grid: Any,
) -> Iterator[World]:
    fields = workload_fields() | (changes or {})
    fields["optimisation"] |= {"epochs": epochs, "optimiser": optimiser}
    path = checkpoints / f"epochs-{epochs}.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    made = make_world(path, tmp_path_factory.mktemp("world"), faults, **grid)
    try:
        made.run_whole()
        yield made
    finally:
        made.server.close()


@pytest.fixture(scope="module")
def world(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory, faults: Faults) -> Iterator[World]:
    """Three trials of twelve and six steps that use every kind of cache and of checkpointed state."""
    yield from _world(checkpoints, tmp_path_factory, faults, strategies=STRATEGIES, seeds=[5], epochs=4)


def kill_in_a_row(phase: str, seed: int, world: World, folder: Path) -> None:
    draws, kills, num_events = random.Random(f"{phase}/{seed}"), 0, world.num_events[phase]
    world.begin(folder, *PHASES[phase])
    for _ in range(KILLS_IN_A_ROW):
        ended = world.server.run(**world.order(folder, phase, die=draws.randint(1, num_events)))
        assert ended.status in (-9, 0), ended.text
        kills += ended.status == -9
        if ended.status == 0:
            # It went on from what an earlier one left, which has fewer events, and came to its end before it died.
            shutil.rmtree(folder)
            world.begin(folder, *PHASES[phase])
            num_events = ended.events
    assert kills
    world.finish(folder, f"killed at an event: {phase}", faults=kills, same_report=phase == "report")


@pytest.mark.slow
def test_a_killed_run_loses_nothing(world: World, tmp_path: Path) -> None:
    kill_in_a_row("trials", 0, world, tmp_path / "run")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("phase", "seed"),
    [("trials", seed) for seed in range(1, 10)]
    + [("prepare", seed) for seed in range(7)]
    + [("report", seed) for seed in range(1, 6)],
)
def test_a_killed_run_loses_nothing_whenever(phase: str, seed: int, world: World, tmp_path: Path) -> None:
    kill_in_a_row(phase, seed, world, tmp_path / "run")


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(8))
def test_a_run_killed_from_outside_loses_nothing(seed: int, world: World, tmp_path: Path) -> None:
    draws, folder, kills = random.Random(f"outside/{seed}"), tmp_path / "run", 0
    world.begin(folder)
    for _ in range(KILLS_IN_A_ROW):
        ended = world.server.run(after_s=draws.uniform(0.05, 4.0), **world.order(folder))
        kills += ended.status == -9
    assert kills
    world.finish(folder, "killed after some seconds", faults=kills)


# ---- damage

# What is damaged, what is there then, and how the run is told to make it again; None removes the named folder by hand.
DAMAGED = {
    "cache/hidden-*/shard-00000.safetensors": (("prepare",), None),
    "cache/head-*/shard-00000.safetensors": (("prepare",), None),
    "cache/hidden-*/meta.json": (("prepare",), None),
    "cache/sampled-*/shard-00000.safetensors": (("prepare",), None),
    "cache/tokens-train-*/ids.npy": (("prepare",), None),
    "cache/tokens-train-*/meta.json": (("prepare",), None),
    "cache/prepass-*/shard-00000.safetensors": (("prepare",), None),
    "cache/prepass-*/meta.json": (("prepare",), None),
    "trials/*/record.json": (("prepare", "trials"), "rebuild"),
    "trials/*/curve.parquet": (("prepare", "trials"), "rebuild"),
    "trials/*/items.parquet": (("prepare", "trials"), "rebuild"),
    "checkpoints/*/step-*/state.json": (("prepare",), "rebuild"),
    "checkpoints/*/step-*/tensors.safetensors": (("prepare",), "rebuild"),
}
DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {"flipped": flip, "truncated": truncate}


def damage(place: str, kind: str, seed: int, world: World, folder: Path) -> None:
    done, remedy = DAMAGED[place]
    draws = random.Random(f"{place}/{kind}/{seed}")
    world.begin(folder, *done)
    results = folder / "results"
    if place.startswith("checkpoints"):
        assert world.server.run(**world.order(folder, "trials", die=world.num_events["trials"] // 6)).status == -9
    path = draws.choice(sorted(results.glob(place)))
    before = path.read_bytes()
    DAMAGES[kind](path, draws)
    assert path.read_bytes() != before
    ended = world.server.run(**world.order(folder))
    if ended.status == 0:
        # A blank in a record, say: what it states is the same, to the last digit.
        assert path.suffix == ".json"
        world.finish(folder, f"{kind}: {place.partition('/')[0]}", faults=1)
        return
    assert ended.status == 2, ended.text
    named = path if path.parent.parent.name != "cache" else path.parent
    assert str(named) in ended.text, ended.text
    assert "\n" not in ended.text
    if remedy is None:
        assert "remove" in ended.text
        shutil.rmtree(path.parent)
    else:
        assert "--rebuild" in ended.text
        assert world.server.run(**world.order(folder, "prepare", rebuild=True)).status == 0
    world.finish(folder, f"{kind}: {place.partition('/')[0]}", faults=1)
    assert remedy is None or list(results.glob("trash/*/*")), "moved aside, not deleted"


@pytest.mark.slow
@pytest.mark.parametrize(("place", "kind"), [("checkpoints/*/step-*/tensors.safetensors", "flipped")])
def test_what_is_damaged_is_named_and_made_again(place: str, kind: str, world: World, tmp_path: Path) -> None:
    damage(place, kind, 0, world, tmp_path / "run")


@pytest.mark.faults
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("place", DAMAGED)
def test_whatever_is_damaged_is_named_and_made_again(place: str, kind: str, world: World, tmp_path: Path) -> None:
    damage(place, kind, 1, world, tmp_path / "run")


# ---- full disks

ROOM = 64 * 2**20


def fill(num_bytes: int, world: World, folder: Path) -> None:
    try:
        with small_filesystem(folder, num_bytes) as disk:
            ended = world.server.run(**world.order(disk))
            assert ended.status == 2, ended.text
            assert "No space left on device" in ended.text
            grow(disk, ROOM)
            world.finish(disk, "a full disk", faults=1)
    except PermissionError as error:
        pytest.skip(f"a file system can be mounted by root on Linux only: {error}")


@pytest.mark.slow
def test_a_full_disk_is_told_and_nothing_is_read_half(world: World, tmp_path: Path) -> None:
    fill(400_000, world, tmp_path / "disk")


@pytest.mark.faults
@pytest.mark.parametrize("num_bytes", [8_192, 60_000, 120_000, 150_000, 260_000, 500_000])
def test_a_full_disk_is_told_wherever_it_is_met(num_bytes: int, world: World, tmp_path: Path) -> None:
    fill(num_bytes, world, tmp_path / "disk")


# ---- races and locks


@pytest.mark.faults
@pytest.mark.parametrize("num", [2, 3, 4])
def test_runs_of_one_grid_side_by_side_share_the_work(num: int, world: World, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(num):
        world.server.start(**world.order(folder))
    assert [ended.status for ended in world.server.wait(num)] == [0] * num
    world.finish(folder, "runs side by side", faults=1)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(3))
def test_of_two_runs_one_is_killed_and_the_other_takes_over(seed: int, world: World, tmp_path: Path) -> None:
    draws, folder = random.Random(f"over/{seed}"), tmp_path / "run"
    world.begin(folder, "prepare")
    world.server.start(**world.order(folder, "trials", die=draws.randint(1, world.num_events["trials"])))
    world.server.start(**world.order(folder))
    first, second = world.server.wait(2)
    assert second.status == 0, second.text
    assert first.status in (-9, 0)
    world.finish(folder, "one of two runs killed", faults=1)


@pytest.mark.faults
def test_a_trial_without_memory_says_so_and_is_made_again(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    world.begin(folder, "prepare")
    ended = world.server.run(**world.order(folder, "trials", memory=2**28, hog=2**30))
    assert ended.status == 1
    assert "can't allocate memory" in ended.text
    (record,) = (folder / "results").glob("trials/*/record.json")
    assert '"reason": "memory"' in record.read_text()
    world.finish(folder, "out of memory", faults=1)


# ---- through Ray, as a user starts it


@pytest.fixture(scope="module")
def long_world(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory, faults: Faults) -> Iterator[World]:
    """Two trials of 150 steps: long enough to be caught."""
    yield from _world(checkpoints, tmp_path_factory, faults, strategies=["gls_ce", "se_kd"], seeds=[5], epochs=50)


def through_ray(kind: str, seed: int, world: World, folder: Path) -> None:
    draws, orphans = random.Random(f"{kind}/{seed}"), 0
    command = Command(world, folder)
    worker = command.wait_for_a_trial(draws)
    if kind == "a driver killed":
        command.kill()
        orphans += command.orphans()
    elif kind == "a worker killed":
        os.kill(worker, signal.SIGKILL)
        assert command.end() == 0, command.said
        assert "once more" in command.said
        orphans += command.orphans()
    elif kind in ("Ctrl-C", "SIGTERM"):
        command.interrupt({"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}[kind])
        assert command.end() == {"Ctrl-C": 130, "SIGTERM": 143}[kind], command.said
        assert "to go on: harness run" in command.said
        assert list(command.results.glob("checkpoints/*/step-*/state.json"))
        orphans += command.orphans()
    elif kind == "the node killed":
        command.kill_node()
        assert command.end() == 1, command.said
        assert "Traceback" not in command.said
        assert "the same command goes on from there" in command.said
        orphans += command.orphans()
    else:
        other = Command(world, folder)
        assert (command.end(), other.end()) == (0, 0), command.said + other.said
        orphans += command.orphans() + other.orphans()
    again = Command(world, folder)
    assert again.end() == 0, again.said
    orphans += again.orphans()
    world.faults.note(f"{kind}, through Ray", orphan_processes=orphans)
    assert orphans == 0
    world.finish(folder, f"{kind}, through Ray", faults=1)


@pytest.mark.faults
def test_a_killed_driver_leaves_no_orphans_and_loses_nothing(long_world: World, tmp_path: Path) -> None:
    through_ray("a driver killed", 0, long_world, tmp_path / "run")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "seed"),
    [(kind, seed) for kind in ("a driver killed", "a worker killed", "Ctrl-C", "SIGTERM", "the node killed",
                               "two commands at once") for seed in range(1, 3 if kind[0] == "t" else 4)],
)  # fmt: skip
def test_what_happens_to_a_command_is_made_good_by_the_same_command(
    kind: str, seed: int, long_world: World, tmp_path: Path
) -> None:
    through_ray(kind, seed, long_world, tmp_path / "run")


# ---- states of 8 bits


@pytest.fixture(scope="module")
def eight_bit_world(
    checkpoints: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory, faults: Faults
) -> Iterator[World]:
    """A trial of 21 steps by torchao's AdamW, of weights large enough to have states of 8 bits."""
    folder = tmp_path_factory.mktemp("eight-bits")
    small_model(64, seed=0, dtype=torch.float32, tied=True).save_pretrained(folder / "student")
    tokenizer.save_pretrained(folder / "student")
    yield from _world(
        checkpoints,
        tmp_path_factory,
        faults,
        epochs=7,
        changes={"student": {"path": str(folder / "student")}},
        optimiser="adamw_8bit",
        strategies=["se_kd"],
        seeds=[5],
    )


@pytest.mark.slow
def test_a_killed_trial_goes_on_from_states_of_eight_bits_to_the_same_weights(
    eight_bit_world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    eight_bit_world.begin(folder, "prepare")
    assert eight_bit_world.server.run(**eight_bit_world.order(folder, "trials", every=5, last=13)).status == -9
    (saved,) = folder.glob("results/checkpoints/*/step-*/tensors.safetensors")
    assert any(tensor.dtype == torch.uint8 and tensor.shape == (104, 64) for tensor in load_file(saved).values())
    eight_bit_world.finish(folder, "killed with states of 8 bits", faults=1)
    (path,) = folder.glob("results/trials/*/record.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["history"]["resumed_at"] == [10]
    assert record["environment"]["optimiser"] == "torchao.optim.AdamW8bit"
    assert len(pd.read_parquet(path.with_name("curve.parquet"))) == 21
    assert (folder / "results" / "weights" / f"{path.parent.name}.sha256").exists(), "they have been compared"


# ---- the embedded workload


@pytest.fixture(scope="module")
def tiny_world(tmp_path_factory: pytest.TempPathFactory, faults: Faults) -> Iterator[World]:
    """The embedded workload, cut to twenty steps."""
    folder = tmp_path_factory.mktemp("tiny")
    fields = yaml.safe_load((ASSETS.parent / "tiny.yaml").read_text(encoding="utf-8"))
    for name in ("teacher", "student"):
        fields[name]["path"] = str(ASSETS / name)
    fields["data"] |= {"train_tokens": 20 * 8 * 128, "heldout_tokens": 2048}
    fields["evaluation"] |= {"num_items": 4}
    (folder / "workload.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    made = make_world(folder / "workload.yaml", folder / "world", faults, strategies=RESUMED, seeds=[5])
    try:
        made.run_whole()
        yield made
    finally:
        made.server.close()


@pytest.mark.faults
@pytest.mark.parametrize("step", [2, 8, 19])
@pytest.mark.parametrize("preset", RESUMED)
def test_resuming_on_tiny_is_bit_for_bit(preset: str, step: int, tiny_world: World, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tiny_world.begin(folder, "prepare")
    chosen = {"only": presets()[preset].label, "every": 3}
    last = 4 if preset == "se_kd_3x" and step > 4 else step  # a fifth of the sequences: four steps
    ended = tiny_world.server.run(**tiny_world.order(folder, "trials", last=last, **chosen))
    assert ended.status == -9
    tiny_world.finish(folder, f"killed on tiny: {preset}", faults=1)
    (record,) = (
        path for path in folder.glob("results/trials/*/record.json") if preset_of(path) == presets()[preset].label
    )
    resumed = json.loads(record.read_text(encoding="utf-8"))["history"]["resumed_at"]
    saved = (last - 1) - (last - 1) % 3  # it died before its last step was saved
    assert resumed == ([saved] if saved else [])


def preset_of(path: Path) -> str:
    return str(json.loads(path.read_text(encoding="utf-8"))["label"])
