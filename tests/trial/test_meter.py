"""What a trial costs: predicted operations against counted ones, and clocks."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import VOCAB, Pair, split_batch
from oracle import way
from sampling import one_of_each

from harness.config.expand import presets
from harness.data.tokens import Batch
from harness.distill.step import Core, accumulate
from harness.distill.tally import Tally
from harness.models.operations import Shape, count_trunk_flops, flop_counter
from harness.trial.flops import Shapes, Work, price
from harness.trial.meter import Clock, LiveBytes, peak_gib, reset_peak
from strategies.registry import POLICIES, SIGNALS, STUDENT_INPUTS, raw_inputs

TRAINED = sorted(name for name, preset in presets().items() if preset.train)
LENGTH = 13


def priced(tally: Tally, pair: Pair) -> dict[str, float]:
    shapes = Shapes(
        student=Shape(trunk_flops=count_trunk_flops(pair.student, LENGTH), hidden_size=16),
        teacher=Shape(trunk_flops=count_trunk_flops(pair.teacher, LENGTH), hidden_size=24),
        vocab_size=VOCAB,
        projections=1,
    )
    return price(Work(tally=tally), shapes)


@pytest.mark.parametrize("name", one_of_each(TRAINED, way))
def test_the_operations_of_a_step_are_those_a_counter_sees(
    name: str, make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Any
) -> None:
    pair = make_pair(torch.float32)
    pair.student.set_attn_implementation("eager")  # a fused backward pass computes the attention scores anew
    pair.teacher.set_attn_implementation("eager")
    core = make_core(presets()[name], pair)
    with flop_counter() as counter:
        result = accumulate(core, split_batch(make_batch(6, LENGTH), [4, 2]), None, step=0, num_steps=1)
    assert counter.get_total_flops() == sum(priced(result.tally, pair).values())


def test_attention_costs_the_same_however_it_is_computed(make_pair: Callable[..., Pair]) -> None:
    model = make_pair(torch.float32).student
    counted = {}
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        counted[attention] = count_trunk_flops(model, LENGTH)
    products = 2 * LENGTH * sum(weight.numel() for weight in model.base_model.layers.parameters() if weight.ndim == 2)
    assert counted["sdpa"] == counted["eager"] == products + 2 * 4 * LENGTH**2 * 16


@pytest.mark.parametrize("name", one_of_each(TRAINED, way))
def test_each_head_is_charged_what_a_counter_sees(
    name: str, make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Any
) -> None:
    pair = make_pair(torch.float32)
    core = make_core(presets()[name], pair)
    batch = make_batch(6, LENGTH)
    result = accumulate(core, [batch], None, step=0, num_steps=1)
    costs = priced(result.tally, pair)
    assert costs["student_trunk"] == 3 * 6 * count_trunk_flops(pair.student, LENGTH)
    preset = presets()[name]
    # Where all valid positions are kept, one may still have weight 0: EGAD's hardest, in the first step.
    keeps_valid = POLICIES[preset.position.policy.name].traits["keeps"] == "valid"
    supervised = int(batch.valid.sum()) if keeps_valid else result.tally.supervised
    if name == "full_kd_dense":
        supervised = batch.valid.numel()
    assert costs["student_head_training"] == 6 * VOCAB * 16 * supervised
    assert (costs["teacher_trunk"] == 0) == (name == "sft")
    assert costs["student_head_scoring"] == (2 * VOCAB * 16 * int(batch.valid.sum())) * (
        preset.position.signal is not None and bool(raw_inputs(SIGNALS[preset.position.signal.name]) & STUDENT_INPUTS)
    )


def test_selecting_20_percent_saves_the_teachers_head_80_percent(
    make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Any
) -> None:
    pair, batch = make_pair(torch.float32), make_batch(8, 101)
    rows = {}
    for name in ("full_kd", "se_kd"):
        tally = accumulate(make_core(presets()[name], pair), [batch], None, step=0, num_steps=1).tally
        rows[name] = tally.teacher_rows
        assert tally.supervised == rows[name]
    assert 0.2 <= rows["se_kd"] / rows["full_kd"] < 0.22


def test_a_split_batch_scope_step_is_charged_its_second_pass(
    make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Any
) -> None:
    core = make_core(presets()["at_kd"], make_pair(torch.float32))
    whole, split = (
        accumulate(core, split_batch(make_batch(6, LENGTH), sizes), None, step=0, num_steps=1).tally
        for sizes in ([6], [3, 3])
    )
    assert (whole.trunk_passes, split.trunk_passes) == (0, 6)
    assert (whole.teacher_passes, split.teacher_passes) == (6, 12)


def test_tallies_add_up() -> None:
    total = Tally(sequences=1, valid=2)
    total.add(Tally(sequences=3, valid=4, supervised=5, teacher_rows=6))
    assert total == Tally(sequences=4, valid=6, supervised=5, teacher_rows=6)


def test_a_phase_entered_twice_adds_up_also_when_it_raises() -> None:
    clock = Clock(device="cpu")
    with clock.phase("train"):
        pass
    first = clock.wall_s["train"]
    with pytest.raises(RuntimeError), clock.phase("train"):
        raise RuntimeError
    assert clock.wall_s["train"] > first > 0
    assert set(clock.wall_s) == {"train"}


def test_a_phase_inside_another_counts_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 11.0, 111.0, 200.0, 201.0])
    monkeypatch.setattr("harness.trial.meter.time.perf_counter", lambda: next(times))
    clock = Clock(device="cpu")
    with clock.phase("train"), clock.phase("diagnostics"):  # 0 to 1 and 11 to 111; 1 to 11
        pass
    with clock.phase("eval"):
        pass
    assert clock.wall_s == {"train": 101.0, "diagnostics": 10.0, "eval": 1.0}


def test_processor_seconds_are_kept_beside_wall_seconds() -> None:
    clock = Clock(device="cpu")
    with clock.phase("train"):
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        with clock.phase("diagnostics"):
            time.sleep(0.05)
    assert clock.wall_s["train"] + 1e-3 >= clock.thread_s["train"] >= 0.05
    assert clock.cpu_s["train"] + 1e-3 >= clock.thread_s["train"]
    assert clock.thread_s["diagnostics"] < 0.05 <= clock.wall_s["diagnostics"]


def test_a_clock_that_goes_on_adds_the_seconds_of_the_earlier_attempt() -> None:
    first, second = Clock(device="cpu"), Clock(device="cpu")
    with first.phase("train"):
        pass
    with second.phase("train"):
        pass
    kept, own = first.state_dict(), second.state_dict()
    second.load_state_dict(kept)
    for kind in ("wall_s", "cpu_s", "thread_s"):
        assert second.state_dict()[kind]["train"] == kept[kind]["train"] + own[kind]["train"]


def test_peak_memory_sees_what_was_touched() -> None:
    reset_peak("cpu")
    before = peak_gib("cpu")["process"]
    ballast = torch.ones(64 << 20, dtype=torch.uint8) * 3
    after = peak_gib("cpu")["process"]
    assert int(ballast[-1]) == 3
    assert before > 0
    assert after >= before


def test_live_bytes_count_what_is_alive_at_once() -> None:
    before = torch.ones(50)
    with LiveBytes() as live:
        first = torch.zeros(1000)  # 4000 bytes
        second = first + 1  # 8000
        second.add_(1)  # in place: nothing new
        view = second.view(10, 100)  # a view: nothing new
        _ = before.sum()  # 4 more, freed at once
        del first, second
        third = view * 2  # the view keeps its storage: 8000 again
    assert live.peak == 8004
    assert third.shape == (10, 100)


def test_live_bytes_leave_out_what_comes_to_life_while_paused() -> None:
    with LiveBytes() as live:
        kept = torch.zeros(100)  # 400 bytes
        with live.paused():
            aside = kept * torch.ones(5000, 1)
            del aside
            outside = kept + 1
        assert live.peak == 400
        outside += 1  # not known, so not counted later either
        more = torch.zeros(50)
    assert live.peak == 600
    assert more.shape == (50,)


@pytest.mark.slow
def test_live_bytes_of_a_step_repeat_and_tell_chunked_from_dense(
    make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Callable[..., Core]
) -> None:
    peaks = {}
    for name in ("full_kd", "full_kd_dense", "full_kd"):
        core = make_core(presets()[name], make_pair(torch.float32), chunk=4)
        with LiveBytes() as live:
            accumulate(core, [make_batch(8, 64)], None, step=0, num_steps=10)
        assert peaks.setdefault(name, live.peak) == live.peak
    assert peaks["full_kd"] < peaks["full_kd_dense"]


def test_a_trial_begins_by_giving_back_what_earlier_ones_held_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", done.append)
    reset_peak("cuda")
    assert done == ["emptied", "cuda"]
