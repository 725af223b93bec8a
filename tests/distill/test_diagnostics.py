"""Diagnostics look and change nothing: what they report against dense sums, and training with and without them."""

import copy
import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SEPARATOR, VOCAB, Pair
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.config import Diagnostics, Optimisation, Strategy
from harness.config.expand import presets
from harness.config.strategy import read_strategy
from harness.data.tokens import Batch, Tokens
from harness.distill.diagnostics import LEAST_SEEN, SELECTED, Watch
from harness.distill.observe import Moment
from harness.distill.shadow import BIN_NATS, shadow_signals
from harness.distill.step import Core, accumulate
from harness.distill.train import Training, train
from strategies.registry import SIGNALS, TEACHER_INPUTS, raw_inputs

OPTIMISATION = Optimisation(
    learning_rate=3e-3,
    betas=(0.9, 0.95),
    weight_decay=0.01,
    schedule="cosine",
    warmup=0.2,
    batch_size=4,
    micro_batch_size=2,
    epochs=2,
    max_grad_norm=1.0,
)
LATF = read_strategy(
    {
        **presets()["se_kd"].model_dump(),
        "label": "latf",
        "position": {
            "signal": "hellinger",
            "policy": {"name": "latf", "decay": 0.5, "tolerance": 0.001, "step": 0.2, "floor": 0.1, "warmup": 0.0},
        },
        "criterion": "reverse_kl",
    }
)
NAMES = ("full_kd", "full_kd_dense", "se_kd", "random_pos", "sft", "at_kd", "pos_rs", "gls_ce", "tip", "rs_kd", "egad")
STRATEGIES = {name: presets()[name] for name in NAMES} | {"latf": LATF}


@pytest.fixture(scope="module")
def tokens(make_batch: Callable[..., Batch]) -> Tokens:
    ids = make_batch(8, 12, vocab_size=16, seed=3).input_ids.to(torch.int32).numpy()
    return Tokens(ids=ids, separator=SEPARATOR, cross_document_targets=False, tokens_per_byte=1.0, key="train")


@pytest.fixture(scope="module")
def heldout(make_batch: Callable[..., Batch]) -> Tokens:
    ids = make_batch(3, 12, seed=4).input_ids.to(torch.int32).numpy()
    return Tokens(ids=ids, separator=SEPARATOR, cross_document_targets=False, tokens_per_byte=1.0, key="heldout")


def watch_of(core: Core, shown: Tokens, *, every: int = 2, teacher: bool = True, **changes: Any) -> Watch:
    assert core.teacher is not None
    states = core.teacher
    settings = Diagnostics(every=every, sequences=2)
    given = {"shown": shown.batch(torch.arange(2)), "teacher": (lambda: states) if teacher else None}
    return Watch(core=core, settings=settings, text=lambda token: f"<{token}>", **given, **changes)


@dataclass(frozen=True)
class Run:
    training: Training
    weights: dict[str, Tensor]
    watch: Watch | None


def run(
    strategy: Strategy,
    pair: Pair,
    tokens: Tokens,
    make_core: Any,
    shown: Tokens | None = None,
    *,
    optimisation: Optimisation = OPTIMISATION,
    **changes: Any,
) -> Run:
    """Train a fresh copy of the pair's student, watched if there are sequences to show."""
    core = make_core(strategy, replace(pair, student=copy.deepcopy(pair.student)), chunk=64, seed=11)
    watch = watch_of(core, shown, **changes) if shown is not None else None
    if strategy.label == presets()["sft"].label:
        core = replace(core, teacher=None)
        if watch is not None:
            watch.core = core
    torch.manual_seed(5)
    training = train(core, tokens, optimisation, observer=watch)
    return Run(training, {name: each.detach().clone() for name, each in core.student.named_parameters()}, watch)


def tables(result: Run) -> dict[str, pd.DataFrame]:
    assert result.watch is not None
    return result.watch.tables


# ---- nothing changes


def generators() -> tuple[Any, ...]:
    """Return the states of numpy's and torch's; Python's own moves under the shape checks, which sample with it."""
    kind, keys, *rest = np.random.get_state()
    return kind, tuple(keys), rest, torch.get_rng_state().tolist()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in STRATEGIES] + [(name, torch.bfloat16) for name in ("se_kd", "gls_ce", "latf")],
)
def test_training_is_the_same_with_and_without_bit_for_bit(
    name: str, dtype: torch.dtype, make_pair: Callable[..., Pair], tokens: Tokens, heldout: Tokens, make_core: Any
) -> None:
    pair = make_pair(dtype)
    without = run(STRATEGIES[name], pair, tokens, make_core)
    between = generators()
    watched = run(STRATEGIES[name], pair, tokens, make_core, heldout)
    assert generators() == between
    assert set(tables(watched)) == {"overlap", "shown", "kept_tokens", "profile"}
    for parameter, weight in without.weights.items():
        assert torch.equal(weight, watched.weights[parameter]), parameter
    assert without.training.curve.equals(watched.training.curve)
    assert without.training.tally == watched.training.tally
    ours, theirs = (
        [torch.as_tensor(leaf) for leaf in tree_leaves(each.training.state) if leaf is not None]
        for each in (without, watched)
    )
    assert bool(ours) == (name in {"gls_ce", "latf"})
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_student_with_dropout_draws_the_same_numbers(
    tokens: Tokens, heldout: Tokens, make_core: Any, make_pair: Any
) -> None:
    pair = make_pair(torch.float32)
    for layer in pair.student.base_model.layers:
        layer.self_attn.attention_dropout = 0.5
    without = run(presets()["se_kd"], pair, tokens, make_core)
    plain = run(presets()["se_kd"], make_pair(torch.float32), tokens, make_core)
    assert not without.training.curve.equals(plain.training.curve), "dropout is on"
    watched = run(presets()["se_kd"], pair, tokens, make_core, heldout, every=1)
    assert without.training.curve.equals(watched.training.curve)
    assert all(torch.equal(weight, watched.weights[name]) for name, weight in without.weights.items())


def test_modes_gradients_and_states_are_left_alone(make_pair: Any, heldout: Tokens, make_core: Any) -> None:
    core = make_core(STRATEGIES["gls_ce"], make_pair(torch.float32), chunk=64)
    watch, batch = watch_of(core, heldout), heldout.batch(torch.arange(3))
    state = accumulate(core, [batch], None, step=0, num_steps=4).state
    core.student.zero_grad(set_to_none=True)
    core.student.train()
    frozen = core.student.base_model.layers[0]
    frozen.eval()  # as one who trains only a part would have it
    modes = [module.training for module in core.student.modules()]
    before = {name: tensor.clone() for name, tensor in state.items()}
    result = accumulate(core, [batch], state, step=1, num_steps=4, observer=watch)
    grads = [parameter.grad.clone() for parameter in core.student.parameters() if parameter.grad is not None]
    assert grads
    watch.close(Moment(step=1, num_steps=4, last_loss=1.0, state=state))
    assert [module.training for module in core.student.modules()] == modes
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert len(result.state["queue"]) == 2 * len(state["queue"])
    left = [parameter.grad for parameter in core.student.parameters() if parameter.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(grads, left, strict=True))


class Largest(TorchDispatchMode):
    """Record the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
        return out


def test_no_logits_of_a_whole_batch_exist(make_pair: Any, make_batch: Callable[..., Batch], make_core: Any) -> None:
    pair = make_pair(torch.float32, rows=1000, vocab_size=990)
    ids = make_batch(8, 32, vocab_size=990).input_ids.to(torch.int32).numpy()
    wide = Tokens(ids=ids, separator=SEPARATOR, cross_document_targets=False, tokens_per_byte=1.0, key="wide")
    core = make_core(presets()["full_kd"], pair, chunk=4)
    inside: list[AbstractContextManager[object]] = []
    largest = Largest()

    def aside() -> AbstractContextManager[object]:
        inside.append(largest)
        return largest

    watch = watch_of(core, wide, aside=aside)
    batch = wide.batch(torch.arange(8))
    accumulate(core, [batch], None, step=0, num_steps=1, observer=watch)
    watch.close(Moment(step=0, num_steps=1, last_loss=None, state=None))
    assert len(inside) == 2, "both the step's states and the sequences shown were looked at in it"
    assert 0 < largest.numel <= 24 * 1000, "the larger head, its rows of padding included"
    assert len(batch.places) * 990 > 24 * 1000


# ---- what is reported


def dense(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    """Return signals from all logits at once, in float64."""
    student, teacher = (copy.deepcopy(model).double() for model in (pair.student, pair.teacher))
    with torch.no_grad():
        log_q = student(input_ids=batch.input_ids).logits[..., :VOCAB].log_softmax(-1)
        log_p = teacher(input_ids=batch.input_ids).logits[..., :VOCAB].log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    return {
        "student_entropy": -(q * log_q).sum(-1),
        "teacher_entropy": -(p * log_p).sum(-1),
        "student_ce": -log_q.gather(-1, batch.targets[..., None])[..., 0],
        "kl": (p * (log_p - log_q)).sum(-1),
        "teacher_top": p.sort(descending=True).values.cumsum(-1),
    }


def kept(scores: Tensor, valid: Tensor, budget: float) -> list[set[int]]:
    found = []
    for score, known in zip(scores, valid, strict=True):
        places = [t for t in range(len(score)) if known[t]]
        places.sort(key=lambda t: (-float(score[t]), t))
        found.append(set(places[: math.ceil(budget * len(places) - 1e-6)]))
    return found


@pytest.fixture(scope="module")
def looked(make_pair: Callable[..., Pair], tokens: Tokens, heldout: Tokens, make_core: Any) -> tuple[Pair, Batch, Any]:
    """Tables of one look at SE-KD in float64, with the batch it looked at."""
    pair = make_pair(torch.float64)
    core = make_core(presets()["se_kd"], pair, chunk=64, seed=11)
    watch, batch = watch_of(core, heldout), tokens.batch(torch.arange(8))
    accumulate(core, [batch], None, step=0, num_steps=4, observer=watch)
    watch.close(Moment(step=0, num_steps=4, last_loss=None, state=None))
    return pair, batch, watch.tables


def overlap(table: pd.DataFrame, first: str, second: str) -> float:
    rows = table[table["first"].isin([first, second]) & table["second"].isin([first, second])]
    assert len(rows) == 1
    return float(rows["jaccard"].iloc[0])


def test_overlaps_are_those_of_selections_made_by_hand(looked: tuple[Pair, Batch, Any]) -> None:
    pair, batch, found = looked
    names = ["kl", "student_ce", "student_entropy", "teacher_entropy"]
    sets = {name: kept(dense(pair, batch)[name], batch.valid, 0.2) for name in names}
    for first, second in itertools.combinations(names, 2):
        shares = [len(a & b) / len(a | b) for a, b in zip(sets[first], sets[second], strict=True)]
        assert overlap(found["overlap"], first, second) == pytest.approx(sum(shares) / len(shares), abs=1e-12)
    assert overlap(found["overlap"], "student_entropy", SELECTED) == 1
    assert 0 < overlap(found["overlap"], "random", SELECTED) < 0.6


def test_every_pair_of_signals_is_there_once(looked: tuple[Pair, Batch, Any]) -> None:
    table = looked[2]["overlap"]
    assert set(table["first"]) | set(table["second"]) == {*SIGNALS, SELECTED}
    assert len(table) == math.comb(len(list(SIGNALS)) + 1, 2)
    assert len(table) == len({frozenset(pair) for pair in zip(table["first"], table["second"], strict=True)})


def test_shown_sequences_carry_their_own_entropies_weights_and_tokens(
    looked: tuple[Pair, Batch, Any], heldout: Tokens
) -> None:
    pair, _, found = looked
    batch = heldout.batch(torch.arange(2))
    wanted, chosen = dense(pair, batch), kept(dense(pair, batch)["student_entropy"], batch.valid, 0.2)
    table = found["shown"]
    assert len(table) == 2 * 11
    assert {f"kept_{name}" for name in SIGNALS} < set(table.columns)
    for row in table.to_dict("records"):
        i, t = row["sequence"], row["position"]
        assert row["token"] == f"<{int(batch.input_ids[i, t + 1])}>"
        assert row["weight"] == (1.0 if t in chosen[i] else 0.0)
        assert row["kept_student_entropy"] == (t in chosen[i])
        for name in ("student_entropy", "teacher_entropy"):
            if batch.valid[i, t]:
                assert row[name] == pytest.approx(float(wanted[name][i, t]), rel=1e-6)
            else:
                assert math.isnan(row[name])
    assert not batch.valid[:, :-1].all(), "one position without a target is among them"


def test_tokens_are_counted_as_targets_and_as_selected(looked: tuple[Pair, Batch, Any]) -> None:
    pair, batch, found = looked
    chosen = kept(dense(pair, batch)["student_entropy"], batch.valid, 0.2)
    seen: dict[str, list[int]] = {}
    for i, t in batch.valid.nonzero().tolist():
        counts = seen.setdefault(f"<{int(batch.targets[i, t])}>", [0, 0])
        counts[0] += 1
        counts[1] += t in chosen[i]
    rows = {row["token"]: [row["num_seen"], row["num_kept"]] for row in found["kept_tokens"].to_dict("records")}
    assert rows == {token: counts for token, counts in seen.items() if counts[0] >= LEAST_SEEN}
    assert len({row[1] / row[0] for row in rows.values()}) > 2


def test_the_profile_agrees_with_dense_sums(looked: tuple[Pair, Batch, Any]) -> None:
    pair, batch, found = looked
    wanted, table = dense(pair, batch), found["profile"]

    def values(quantity: str) -> dict[float, float]:
        rows = table[table["quantity"] == quantity]
        return dict(zip(rows["key"], rows["value"], strict=True))

    num = int(batch.valid.sum())
    chosen = kept(wanted["student_entropy"], batch.valid, 0.2)
    assert values("realised_fraction") == {0.0: sum(map(len, chosen)) / num}
    assert values("effective_positions")[0.0] == pytest.approx(sum(map(len, chosen)) / len(chosen))
    assert values("teacher_top_mass") == pytest.approx(
        {float(k): float(wanted["teacher_top"][..., k - 1][batch.valid].mean()) for k in (1, 4, 16, 64)}
    )
    for name in ("student_entropy", "teacher_entropy"):
        for prefix, mask in (("", batch.valid), ("selected_", torch.zeros_like(batch.valid))):
            if prefix:
                for i, places in enumerate(chosen):
                    mask[i, sorted(places)] = True
            shares = values(f"{prefix}{name}_hist")
            for left in (0.0, 2.0, 3.0, 4.0):
                inside = (wanted[name] >= left) & (wanted[name] < left + BIN_NATS)
                assert shares[left] == pytest.approx(float(inside[mask].double().mean())), (prefix, name, left)
            assert sum(shares.values()) == pytest.approx(1)
    profile = values("position_profile")
    assert list(profile) == pytest.approx([part / 10 for part in range(10)])
    assert 0 < sum(profile.values()) < 10


# ---- when, and with what


def test_the_first_the_last_and_every_nth_step_are_looked_at(
    make_pair: Callable[..., Pair], tokens: Tokens, heldout: Tokens, make_core: Any
) -> None:
    found = tables(run(presets()["se_kd"], make_pair(torch.float32), tokens, make_core, heldout, every=2))
    for table in found.values():
        assert list(dict.fromkeys(table["step"])) == [0, 2, 3]
    curve = run(presets()["gls_ce"], make_pair(torch.float32), tokens, make_core, heldout, every=2)
    profile = tables(curve)["profile"]
    shares = profile[profile["quantity"] == "realised_fraction"].set_index("step")["value"]
    realised = curve.training.curve.set_index("step")["realised_fraction"]
    assert shares.to_dict() == pytest.approx(realised[[0, 2, 3]].to_dict())


def test_counts_of_tokens_add_up_over_looks(make_pair: Any, tokens: Tokens, heldout: Tokens, make_core: Any) -> None:
    result = run(presets()["full_kd"], make_pair(torch.float32), tokens, make_core, heldout, every=1)
    assert result.watch is not None
    assert result.watch._counts is not None
    seen, selected = result.watch._counts
    assert int(seen.sum()) == result.training.tally.valid
    assert torch.equal(seen, selected), "Full KD keeps everything"
    table = tables(result)["kept_tokens"]
    assert bool((table["num_seen"] == table["num_kept"]).all())
    last = table[table["step"] == 3].set_index("token")["num_seen"]
    assert last.to_dict() == {f"<{token}>": int(seen[token]) for token in range(VOCAB) if seen[token] >= LEAST_SEEN}


def test_micro_batches_do_not_matter(make_pair: Any, make_batch: Any, heldout: Tokens, make_core: Any) -> None:
    ids = make_batch(8, 12, vocab_size=16, seed=18).input_ids.to(torch.int32).numpy()
    # One token twice at the start has one state twice, so every signal ties there, and rounding would order the two.
    assert (ids[:, 0] != ids[:, 1]).all()
    tokens = Tokens(ids=ids, separator=SEPARATOR, cross_document_targets=False, tokens_per_byte=1.0, key="train")
    split = {
        size: tables(
            run(
                presets()["tip"],
                make_pair(torch.float64),
                tokens,
                make_core,
                heldout,
                optimisation=OPTIMISATION.model_copy(update={"micro_batch_size": size}),
            )
        )
        for size in (1, 4)
    }
    assert split[1]["overlap"].equals(split[4]["overlap"])
    assert split[1]["kept_tokens"].equals(split[4]["kept_tokens"])
    pd.testing.assert_frame_equal(split[1]["profile"], split[4]["profile"])


@pytest.mark.parametrize("with_teacher", [True, False])
def test_a_training_without_a_teacher_has_student_signals_but_shows_the_teacher_where_it_can(
    with_teacher: bool, make_pair: Any, tokens: Tokens, heldout: Tokens, make_core: Any
) -> None:
    found = tables(run(presets()["sft"], make_pair(torch.float32), tokens, make_core, heldout, teacher=with_teacher))
    names = set(found["overlap"]["first"]) | set(found["overlap"]["second"])
    assert names == {*shadow_signals(None, with_teacher=False), SELECTED}
    assert not any(raw_inputs(SIGNALS[name]) & TEACHER_INPUTS for name in names - {SELECTED})
    assert not found["profile"]["quantity"].str.contains("teacher").any()
    assert ("kept_kl" in found["shown"]) == with_teacher
    assert found["shown"]["teacher_entropy"].notna().any() == with_teacher


def test_random_is_another_draw_than_the_trials_own(
    make_pair: Any, tokens: Tokens, heldout: Tokens, make_core: Any
) -> None:
    table = tables(run(presets()["random_pos"], make_pair(torch.float32), tokens, make_core, heldout, every=1))[
        "overlap"
    ]
    own = table[(table["first"] == "random") & (table["second"] == SELECTED)]["jaccard"]
    assert len(own) == 4
    assert float(own.mean()) < 0.6
    assert own.nunique() > 1, "and another at every step"


def test_a_policy_that_sets_its_own_share_is_shown_at_that_share(
    make_pair: Any, tokens: Tokens, heldout: Tokens, make_core: Any
) -> None:
    result = run(LATF, make_pair(torch.float32), tokens, make_core, heldout, every=1)
    table = tables(result)["shown"]
    valid = table[table["student_entropy"].notna()]
    shares = valid.assign(kept=valid["weight"] > 0).groupby("step")["kept"].mean()
    realised = result.training.curve.set_index("step")["realised_fraction"]
    assert shares.nunique() > 1, "the share moves"
    # Rounded up per sequence of at most 11 positions.
    assert (shares - realised).abs().max() < 0.1


def test_what_was_collected_survives_a_checkpoint(
    make_pair: Any, tokens: Tokens, heldout: Tokens, make_core: Any
) -> None:
    result = run(presets()["se_kd"], make_pair(torch.float32), tokens, make_core, heldout, every=1)
    assert result.watch is not None
    fresh = watch_of(result.watch.core, heldout)
    fresh.load_state_dict(result.watch.state_dict())
    for name, table in result.watch.tables.items():
        assert fresh.tables[name].equals(table)
    seen = fresh.state_dict()["counts"].clone()
    fresh._add_tokens(4, torch.tensor([3, 3]), torch.tensor([3]))
    assert int(fresh.state_dict()["counts"][0, 3]) == int(seen[0, 3]) + 2
    assert result.watch.tables["kept_tokens"]["step"].max() == 3, "the one it was taken from stays as it was"


def test_cost_is_entered_aside(make_pair: Any, heldout: Tokens, make_core: Any) -> None:
    core, entered = make_core(presets()["se_kd"], make_pair(torch.float32), chunk=64), []

    def aside() -> AbstractContextManager[object]:
        entered.append(None)
        return nullcontext()

    watch, batch = watch_of(core, heldout, aside=aside), heldout.batch(torch.arange(3))
    accumulate(core, [batch], None, step=0, num_steps=1, observer=watch)
    assert len(entered) == 1
    watch.close(Moment(step=0, num_steps=1, last_loss=None, state=None))
    assert len(entered) == 2
