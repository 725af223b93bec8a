"""Checkpoints: training that stops and goes on ends bit for bit where training that did not stop ends."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Asked, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from sampling import cycled, sampled

from harness.config import Optimisation
from harness.config.errors import UserError
from harness.config.expand import presets
from harness.config.strategy import read_strategy
from harness.data.tokens import Tokens
from harness.distill.state import StaleError, check_tree, put_together, take_apart
from harness.distill.train import NotFiniteError, Training, train
from harness.records.layout import Results
from harness.run.attempt import run_and_write
from harness.run.options import Options
from harness.run.plan import make_plan
from harness.trial.checkpoint import Interval, Keeper, Stopped, check, find, parse_interval
from harness.trial.trial import Trial

OPTIMISATION = Optimisation(
    learning_rate=0.01, betas=(0.9, 0.95), weight_decay=0.1, schedule="cosine", warmup=0.1, batch_size=4,
    micro_batch_size=2, epochs=2, max_grad_norm=1.0,
)  # fmt: skip
STEPS = 8
LATF = read_strategy(
    {
        "label": "latf",
        "position": {
            "signal": "hellinger",
            "policy": {"name": "latf", "decay": 0.5, "tolerance": 0.001, "step": 0.05, "floor": 0.1, "warmup": 0.0},
        },
        "criterion": "reverse_kl",
    }
)
NAMED = ["gls_ce", "curriculum", "pos_rs", "se_kd_3x"]


@pytest.fixture
def distil(make_pair: Callable[..., Any], make_core: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Train a fresh small student, with checkpoints where a folder is given; return the student and what came out."""
    ids = np.random.RandomState(0).randint(2, 97, size=(16, 13)).astype(np.int32)
    tokens = Tokens(ids=ids, separator=1, cross_document_targets=False, tokens_per_byte=0.5, key="k")

    def run(
        preset: str, folder: str | None = None, *, stop: Callable[[], bool] = lambda: False, **changes: Any
    ) -> tuple[torch.nn.Module, Training]:
        pair = make_pair(torch.float32)
        keeper = None
        if folder is not None:
            settings = {"interval": Interval(), "conditions": {"core": "a"}, "micro_batch_size": 2, "trial": "t"}
            keeper = Keeper(Results(tmp_path / folder), device="cpu", parts={}, stop=stop, **{**settings, **changes})
        strategy = LATF if preset == "latf" else presets()[preset].model_copy(update={"samples": None})
        done = train(make_core(strategy, pair), tokens, OPTIMISATION, keeper=keeper)
        return pair.student, done

    return run


def same(first: tuple[torch.nn.Module, Training], second: tuple[torch.nn.Module, Training]) -> None:
    for (name, one), two in zip(first[0].named_parameters(), second[0].parameters(), strict=True):
        assert torch.equal(one, two), name
    assert first[1].curve.equals(second[1].curve)
    assert first[1].curve.dtypes.equals(second[1].curve.dtypes)
    assert first[1].tally == second[1].tally
    (one, tensors), (two, others) = take_apart(first[1].state), take_apart(second[1].state)
    assert one == two
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


# Kinds of state: a queue of scores, sequences that were chosen, a controller; and the others, slow, have none.
@pytest.mark.parametrize("preset", sampled([*NAMED, "latf"], [0, 3, 4]))
def test_training_that_stops_and_goes_on_is_training_that_did_not_stop(preset: str, distil: Callable[..., Any]) -> None:
    whole = distil(preset)
    for places in ((1, 3), (STEPS,)):
        name = f"at{places}"
        for place in places:
            with pytest.raises(Stopped, match=f"of {STEPS}"):
                distil(preset, name, stop=Asked(place))
        same(whole, distil(preset, name))


def test_watching_and_saving_change_nothing(distil: Callable[..., Any], tmp_path: Path) -> None:
    same(distil("gls_ce"), distil("gls_ce", "often", interval=Interval(steps=1)))
    assert [path.name for path in Results(tmp_path / "often").checkpoints("t").iterdir()] == [f"step-{STEPS:09d}"]


def test_a_part_between_two_stops_is_saved_by_steps_and_by_seconds(distil: Callable[..., Any], tmp_path: Path) -> None:
    distil("sft", "steps", interval=Interval(steps=5))
    assert find(Results(tmp_path / "steps"), "t")[1].step == STEPS  # saved once, so once more before the evaluation
    distil("sft", "seconds", interval=Interval(seconds=3600.0))
    distil("sft", "never", interval=Interval())
    assert find(Results(tmp_path / "seconds"), "t") is None
    assert find(Results(tmp_path / "never"), "t") is None
    distil("sft", "always", interval=Interval(seconds=1e-9))
    assert find(Results(tmp_path / "always"), "t") is not None


def test_it_says_where_training_went_on_and_with_which_micro_batches(
    distil: Callable[..., Any], tmp_path: Path
) -> None:
    for place, size in ((2, 4), (1, 2), (1, 2)):
        with pytest.raises(Stopped):
            distil("sft", "split", stop=Asked(place), micro_batch_size=size)
    _, state = find(Results(tmp_path / "split"), "t")
    assert (state.step, state.resumed_at, state.micro_batch_sizes) == (4, (2, 3), (4, 2))


def stopped(distil: Callable[..., Any], tmp_path: Path) -> Path:
    with pytest.raises(Stopped):
        distil("gls_ce", "kept", stop=Asked(3))
    return Results(tmp_path / "kept").checkpoints("t") / "step-000000003"


@pytest.mark.parametrize(
    ("damage", "name"), cycled(["flip", "truncate", "remove", "empty"], ["tensors.safetensors", "state.json"])
)
def test_a_damaged_checkpoint_is_refused_by_its_name(
    name: str, damage: str, distil: Callable[..., Any], tmp_path: Path
) -> None:
    path = stopped(distil, tmp_path) / name
    content = bytearray(path.read_bytes())
    for place in range(0, len(content), len(content) // 7) if damage == "flip" else [0]:
        changed = bytearray(content)
        changed[place] ^= 0x01
        new = {"flip": changed, "truncate": content[: len(content) // 2], "empty": b"", "remove": b""}[damage]
        path.write_bytes(new)
        if damage == "remove":
            path.unlink()
        with pytest.raises(UserError, match=rf"checkpoint .*{name} .*`harness run GRID --rebuild`"):
            distil("gls_ce", "kept")


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"conditions": {"core": "b"}}, "made with core a, and now it is b"),
     ({"conditions": {"core": "a", "device": "cuda"}}, "made with device None, and now it is cuda"),
     ({"trial": "other"}, "is of step 3 of trial t")],
)  # fmt: skip
def test_a_checkpoint_of_something_else_is_not_gone_on_from(
    changes: dict[str, Any], said: str, distil: Callable[..., Any], tmp_path: Path
) -> None:
    folder = stopped(distil, tmp_path).parent
    shutil.copytree(folder, folder.with_name("other"))
    with pytest.raises(UserError, match=said):
        distil("gls_ce", "kept", **changes)


def test_another_models_weights_are_not_taken(distil: Callable[..., Any], make_pair: Any, tmp_path: Path) -> None:
    from harness.distill.shards import Weights

    student, teacher = make_pair().student, make_pair().teacher
    with pytest.raises(StaleError, match="another model"):
        Weights(student).load_state_dict(Weights(teacher).state_dict())


def test_a_state_that_no_checkpoint_can_hold_fails_at_the_first_step(
    distil: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from strategies.policies.gls import Gls

    select = Gls.select
    monkeypatch.setattr(Gls, "select", lambda *given: (select(*given)[0], {"queue": np.zeros(3)}))
    with pytest.raises(TypeError, match=r"loop\['state'\]\['queue'\] is a ndarray, which a checkpoint cannot hold"):
        distil("gls_ce", "odd")
    assert not (tmp_path / "odd").exists()


def test_what_is_not_finite_is_never_saved(
    distil: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import harness.distill.train as module

    original = module.accumulate

    def broken(*args: Any, step: int, **kwargs: Any) -> Any:
        from dataclasses import replace

        result = original(*args, step=step, **kwargs)
        return replace(result, loss=result.loss * float("nan")) if step == 5 else result

    monkeypatch.setattr(module, "accumulate", broken)
    with pytest.raises(NotFiniteError, match=r"step 5: loss nan.*sequences \["):
        distil("sft", "nan", interval=Interval(steps=1))
    assert find(Results(tmp_path / "nan"), "t")[1].step == 5


def test_the_last_good_one_stays_when_saving_fails(
    distil: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import harness.trial.checkpoint as module

    original, calls = module.save_file, [0]

    def full(tensors: Any, path: Path) -> None:
        calls[0] += 1
        if calls[0] == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(UserError, match=r"step-000000003 cannot be written: No space left on device"):
        distil("sft", "full", interval=Interval(steps=1))
    assert [path.name for path in Results(tmp_path / "full").checkpoints("t").iterdir()] == ["step-000000002"]
    assert check(Results(tmp_path / "full"), "t", {"core": "a"}) == 2
    monkeypatch.setattr(module, "save_file", original)
    same(distil("sft"), distil("sft", "full"))


@pytest.mark.parametrize(
    ("text", "interval"),
    [("500", Interval(steps=500)), ("30s", Interval(seconds=30.0)), ("10m", Interval(seconds=600.0)),
     ("2h", Interval(seconds=7200.0)), ("never", Interval())],
)  # fmt: skip
def test_intervals(text: str, interval: Interval) -> None:
    assert parse_interval(text) == interval


@pytest.mark.parametrize("text", ["", "0", "0m", "-5", "1.5h", "10 m", "ten", "10d", "99999999999"])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--checkpoint-every takes steps"):
        parse_interval(text)


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=4).map(lambda raw:
    torch.tensor(list(raw), dtype=torch.uint8)), st.floats(width=32).map(torch.tensor))  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


def identical(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and one.numpy().tobytes() == two.numpy().tobytes()
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(identical, one, two))
    if isinstance(one, dict):
        return list(one) == list(two) and all(identical(one[key], two[key]) for key in one)
    return type(one) is type(two) and repr(one) == repr(two)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(tree=TREES)
def test_a_tree_comes_back_as_it_went(tree: Any) -> None:
    import json

    check_tree(tree, "tree")
    payload, tensors = take_apart(tree)
    assert identical(tree, put_together(json.loads(json.dumps(payload, allow_nan=False)), tensors, "cpu"))


@pytest.mark.parametrize("odd", [{1, 2}, b"raw", np.float64(1), {(1, 2): 3}, {None: 1}, object(), 1j])
def test_nothing_else_is_in_a_tree(odd: Any) -> None:
    with pytest.raises(TypeError, match=r"state\[0\]"):
        take_apart([odd])


@pytest.fixture
def eight_bits(
    tmp_path: Path, tokenizer: Any, write_workload: Callable[..., Path], write_grid: Callable[..., Path]
) -> Iterator[Trial]:
    """A trial of 21 steps by torchao's AdamW as it is installed, of weights large enough to have states of 8 bits."""
    small_model(64, seed=0, dtype=torch.float32, tied=True).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    file = write_workload(
        student={"path": str(tmp_path / "student")}, optimisation__optimiser="adamw_8bit", optimisation__epochs=7
    )
    plan = make_plan(write_grid(["sft"], workload=str(file)), Results(tmp_path / "none"))
    with torch.compiler.set_stance("force_eager"):  # its kernels are compiled for a minute, to the same formulas
        yield plan.todo[0]


def test_a_trial_with_states_of_eight_bits_that_fails_goes_on_to_the_same_weights(
    eight_bits: Trial, tmp_path: Path
) -> None:
    options = Options(checkpoint_every=Interval(steps=5), keep_students=True)
    through, cut = Results(tmp_path / "through"), Results(tmp_path / "cut")
    whole = run_and_write(eight_bits, through, options=options)

    def fail(step: int, *_: object) -> None:
        if step == 13:
            raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="gone"):
        run_and_write(eight_bits, cut, options=options, on_step=fail)
    newest = find(cut, eight_bits.id)
    assert newest is not None
    assert any(tensor.dtype == torch.uint8 and tensor.shape == (104, 64) for tensor in load_file(
        newest[0] / "tensors.safetensors").values())  # fmt: skip
    again = run_and_write(eight_bits, cut, options=options)
    assert (again.history.resumed_at, again.history.attempts) == ((10,), 2)
    assert again.environment["optimiser"] == "torchao.optim.AdamW8bit"
    assert again.metrics == whole.metrics
    ours, theirs = (load_file(each.student(eight_bits.id) / "model.safetensors") for each in (cut, through))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_gpu_workers_checkpoint_stays_where_the_driver_has_none_and_is_gone_on_from_if_accepted(
    workload_file: Path, write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.run import attempt
    from harness.run.leftovers import resolve_leftovers

    results, here = Results(tmp_path / "results"), attempt.machine_conditions
    plan = make_plan(write_grid(["sft"], workload=str(workload_file)), results)
    trial = plan.todo[0]
    with monkeypatch.context() as faked:
        faked.setattr(attempt, "machine_conditions", lambda trial: here(trial) | {"device": "cuda NVIDIA H200"})
        with pytest.raises(Stopped):
            run_and_write(trial, results, stop=Asked(2))
    resolve_leftovers(plan, results, Console(quiet=True), Options())
    assert find(results, trial.id) is not None
    device = here(trial)["device"]
    with pytest.raises(UserError, match=rf"made with device cuda NVIDIA H200, and now it is {device}; --accept"):
        run_and_write(trial, results)
    assert find(results, trial.id) is not None
    record = run_and_write(trial, results, options=Options(accept_checkpoints=True))
    assert record.history.accepted == (f"step 2: device cuda NVIDIA H200 -> {device}",)
    assert record.history.resumed_at == (2,)
