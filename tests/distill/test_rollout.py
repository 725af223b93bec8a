"""Students that write their own training text: what they write, what it depends on, and what it is trained on."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SEPARATOR, VOCAB, Pair

from harness.config import Optimisation, Rollout, Strategy
from harness.config.errors import UserError
from harness.config.expand import load_grid, presets
from harness.config.labels import describe
from harness.config.strategy import read_strategy
from harness.config.workloads import load_workload
from harness.data.tokens import Batch, Tokens
from harness.distill.rollout import Writer, generate, pick_tokens
from harness.distill.step import accumulate
from harness.distill.train import Training, train
from harness.models import head_of
from harness.models.operations import count_trunk_flops, flop_counter
from harness.records.layout import Results
from harness.trial.checkpoint import Interval, Keeper, Stopped
from harness.trial.execute import run_trial
from harness.trial.flops import predict_flops
from harness.trial.identity import fingerprints
from harness.trial.trial import make_trials

OWN = Rollout(share=1.0, temperature=1.0, top_p=1.0, max_new_tokens=6)
LENGTH = 13
DPKD: dict[str, Any] = {"label": "d", "position": {"policy": "all"}, "normaliser": "sum", "teacher": "online"}
OPTIMISATION = Optimisation(
    learning_rate=0.01, betas=(0.9, 0.95), weight_decay=0.1, schedule="cosine", warmup=0.1, batch_size=4,
    micro_batch_size=2, epochs=2, max_grad_norm=1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    """Twelve pairs: prompts of 2 to 8 tokens, answers of what is left or less."""
    draws = np.random.RandomState(0)
    ids = draws.randint(2, VOCAB, size=(12, LENGTH)).astype(np.int32)
    starts = draws.randint(2, 9, size=12)
    ends = np.minimum(starts + draws.randint(2, 8, size=12), LENGTH)
    spans = np.stack([starts, ends], axis=1).astype(np.int32)
    return Tokens(ids=ids, separator=SEPARATOR, cross_document_targets=False, tokens_per_byte=1.0, key="k", spans=spans)


def writer(tokens: Tokens, settings: Rollout = OWN, *, seed: int = 7) -> Writer:
    return Writer(settings=settings, tokens=tokens, vocab_size=VOCAB, seed=seed)


def written(tokens: Tokens, pair: Pair, settings: Rollout = OWN, *, seed: int = 7, step: int = 3) -> Batch:
    return writer(tokens, settings, seed=seed).batch(pair.student, torch.arange(4), step=step)[0]


def on_policy(name: str = "gkd_on_policy", **changes: Any) -> Strategy:
    fields = {"rollout": OWN, "samples": None, "teacher": "online", **changes}
    return presets()[name].model_copy(update=fields)


# ---- what is generated


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.3, 1.0), (0.9, 0.6)])
def test_a_batch_with_a_cache_writes_what_each_row_would_alone_without(
    temperature: float, top_p: float, make_pair: Callable[..., Pair]
) -> None:
    model = make_pair().student
    draws = torch.Generator().manual_seed(0)
    prompts = [torch.randint(2, VOCAB, (size,), generator=draws) for size in (5, 1, 3)]
    room, levels = [4, 7, 2], torch.rand((3, 7), dtype=torch.float64, generator=draws)
    settings = {"temperature": temperature, "top_p": top_p}
    made, _ = generate(model, prompts, room, levels, vocab_size=VOCAB, end=SEPARATOR, **settings)
    for prompt, size, level, found in zip(prompts, room, levels, made, strict=True):
        ids = prompt
        for place in range(size):
            logits = model(input_ids=ids[None]).logits[0, -1:, :VOCAB]
            token = pick_tokens(logits, level[place : place + 1], **settings)
            ids = torch.cat([ids, token])
            if int(token) == SEPARATOR:
                break
        assert found.tolist() == ids[len(prompt) :].tolist()


def test_tokens_are_drawn_in_their_shares() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0, 1.0, -40.0]], dtype=torch.float64)
    level = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for temperature, top_p in ((1.0, 1.0), (2.0, 1.0), (1.0, 0.7)):
        probs = (logits / temperature).softmax(dim=-1)[0]
        if top_p < 1:
            probs[[0, 2, 4]] = 0.0  # the likeliest has 0.64 of the mass, the two likeliest 0.87
            probs /= probs.sum()
        drawn = pick_tokens(logits.expand(20_000, -1), level, temperature=temperature, top_p=top_p)
        shares = drawn.bincount(minlength=5) / 20_000
        torch.testing.assert_close(shares.double(), probs, atol=1e-4, rtol=0)
    assert pick_tokens(logits, level[:1], temperature=0.0, top_p=1.0).tolist() == [1]


def test_generation_ends_with_the_end_of_text_and_never_beyond_the_sequence(
    tokens: Tokens, make_pair: Callable[..., Pair]
) -> None:
    pair = make_pair()
    with torch.no_grad():  # a student that ends its text at about every third token
        head = head_of(pair.student, VOCAB).weight
        head[SEPARATOR] *= 2.5
    batch, tally = writer(tokens, OWN.model_copy(update={"max_new_tokens": None})).batch(
        pair.student, torch.arange(12), step=0
    )
    given = tokens.batch(torch.arange(12))
    for row in range(12):
        start = int(tokens.spans[row, 0])
        assert torch.equal(batch.input_ids[row, :start], given.input_ids[row, :start])
        places = batch.valid[row].nonzero().flatten().tolist()
        assert places == list(range(start - 1, start - 1 + len(places)))
        text = batch.targets[row][batch.valid[row]].tolist()
        assert SEPARATOR not in text[:-1]
        assert text[-1] == SEPARATOR or start + len(text) == LENGTH
        assert batch.input_ids[row, start : start + len(text)].tolist() == text
    assert (tally.rollouts, tally.generated) == (12, int(batch.valid.sum()))
    assert 0 < tally.ended < 12


def test_rollouts_depend_on_seed_step_and_place_alone(tokens: Tokens, make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    first = written(tokens, pair)
    torch.manual_seed(99)
    again = written(tokens, pair)
    assert torch.equal(first.input_ids, again.input_ids)
    for other in (written(tokens, pair, seed=8), written(tokens, pair, step=4)):
        assert not torch.equal(first.input_ids, other.input_ids)
    same = replace(tokens, ids=np.repeat(tokens.ids[:1], 4, axis=0), spans=np.repeat(tokens.spans[:1], 4, axis=0))
    assert len({tuple(row) for row in written(same, pair).input_ids.tolist()}) > 1


def test_the_share_is_right_to_within_a_sequence_after_every_step(
    tokens: Tokens, make_pair: Callable[..., Pair]
) -> None:
    source, total = writer(tokens, OWN.model_copy(update={"share": 0.3, "max_new_tokens": 1})), 0
    for step in range(5):
        index = torch.tensor([4, 9, 1, 6])
        batch, tally = source.batch(make_pair().student, index, step=step)
        total += tally.rollouts
        assert abs(total - 0.3 * 4 * (step + 1)) < 1
        own, given = tally.rollouts, tokens.batch(index)
        assert torch.equal(batch.input_ids[own:], given.input_ids[own:])
        assert torch.equal(batch.valid[own:], given.valid[own:])
        assert torch.equal(batch.index, index)


def test_plain_text_is_cut_at_random_places(tokens: Tokens, make_pair: Callable[..., Pair]) -> None:
    text = replace(tokens, spans=None)
    settings = OWN.model_copy(update={"prompt_tokens": 5})
    places = set()
    for step in range(6):
        batch = written(text, make_pair(), settings, step=step)
        for row, given in zip(batch.input_ids, text.batch(torch.arange(4)).input_ids, strict=True):
            (place,) = (p for p in range(LENGTH - 4) if torch.equal(given[p : p + 5], row[:5]))
            places.add(place)
        assert (batch.valid.sum(dim=-1) <= 6).all()
        assert not batch.valid[:, :4].any()
    assert len(places) > 4


def test_the_student_writes_without_dropout_and_is_left_as_it_was(
    tokens: Tokens, make_pair: Callable[..., Pair]
) -> None:
    pair, seen = make_pair(), []
    pair.student.base_model.register_forward_hook(lambda module, *_: seen.append(module.training))
    pair.student.train()
    written(tokens, pair)
    assert seen
    assert not any(seen)
    assert pair.student.training


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_generation_costs_what_a_counter_sees(attention: str, tokens: Tokens, make_pair: Callable[..., Pair]) -> None:
    student = make_pair(torch.float32).student
    student.set_attn_implementation(attention)
    with flop_counter() as counter:
        _, tally = writer(tokens).batch(student, torch.arange(4), step=0)
    one, two = (count_trunk_flops(student, length) for length in (1, 2))
    per_pair = (two - 2 * one) / 2
    trunk = (one - per_pair) * tally.rollout_positions + per_pair * tally.rollout_attended
    assert counter.get_total_flops() == trunk + 2 * VOCAB * 16 * tally.rollout_rows


# ---- what is trained


def trained(tokens: Tokens, pair: Pair, strategy: Strategy, make_core: Any, *, micro: int = 2, **kept: Any) -> Training:
    optimisation = OPTIMISATION.model_copy(update={"micro_batch_size": micro})
    assert strategy.rollout is not None
    return train(make_core(strategy, pair), tokens, optimisation, writer=writer(tokens, strategy.rollout), **kept)


@pytest.mark.parametrize("name", ["se_kd", "tip"])
def test_micro_batches_change_nothing(
    name: str, tokens: Tokens, make_pair: Callable[..., Pair], make_core: Any
) -> None:
    strategy = on_policy(name, criterion=presets()["gkd_on_policy"].criterion)
    pairs = {micro: make_pair() for micro in (1, 4)}
    done = {micro: trained(tokens, pair, strategy, make_core, micro=micro) for micro, pair in pairs.items()}
    assert done[1].tally.generated == done[4].tally.generated > 0
    for one, four in zip(pairs[1].student.parameters(), pairs[4].student.parameters(), strict=True):
        torch.testing.assert_close(one, four, atol=1e-9, rtol=1e-9)


def test_a_teacher_that_is_the_student_has_nothing_to_say(
    tokens: Tokens, make_pair: Callable[..., Pair], make_core: Any
) -> None:
    student = make_pair().student
    pair = Pair(student=student, teacher=copy.deepcopy(student))
    batch = written(tokens, pair)
    result = accumulate(make_core(on_policy(), pair), [batch], None, step=3, num_steps=10)
    assert int(batch.valid.sum()) == result.tally.supervised > 0
    assert float(result.loss) == pytest.approx(0.0, abs=1e-14)
    assert all(float(p.grad.abs().max()) < 1e-12 for p in student.parameters() if p.grad is not None)


def test_training_that_stops_and_goes_on_writes_the_same(
    tokens: Tokens, make_pair: Callable[..., Pair], make_core: Any, tmp_path: Path
) -> None:
    strategy, pair = on_policy("se_kd"), make_pair(torch.float32)
    whole = trained(tokens, pair, strategy, make_core)
    asked = iter([False, False, True])

    def keeper(stop: Callable[[], bool]) -> Keeper:
        given = {"trial": "t", "conditions": {}, "micro_batch_size": 2, "parts": {}, "device": "cpu"}
        return Keeper(Results(tmp_path), interval=Interval(), stop=stop, **given)

    with pytest.raises(Stopped):
        trained(tokens, make_pair(torch.float32), strategy, make_core, keeper=keeper(lambda: next(asked)))
    resumed = make_pair(torch.float32)
    done = trained(tokens, resumed, strategy, make_core, keeper=keeper(lambda: False))
    assert done.curve.equals(whole.curve)
    assert done.tally == whole.tally
    for one, two in zip(pair.student.parameters(), resumed.student.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_a_preference_is_what_its_formula_says(
    micro: int, tokens: Tokens, make_pair: Callable[..., Pair], make_core: Any
) -> None:
    beta, pair = 0.3, make_pair()
    strategy = read_strategy({**DPKD, "rollout": OWN.model_copy(update={"preference": beta}).model_dump()})
    batch = written(tokens, pair, strategy.rollout)
    given = tokens.batch(torch.arange(4))
    assert torch.equal(batch.input_ids[::2], given.input_ids)
    assert torch.equal(batch.valid[::2], given.valid)
    assert torch.equal(batch.index, torch.arange(4).repeat_interleave(2))

    def logprob(model: Any) -> torch.Tensor:
        rows = model(input_ids=batch.input_ids).logits[..., :VOCAB].log_softmax(dim=-1)
        return (rows.gather(-1, batch.targets[..., None])[..., 0] * batch.valid).sum(dim=-1)

    ratio = (logprob(pair.student) - logprob(pair.teacher).detach()).view(4, 2)
    wanted = -torch.nn.functional.logsigmoid(beta * (ratio[:, 0] - ratio[:, 1])).mean()
    grads = torch.autograd.grad(wanted, list(pair.student.parameters()))
    result = accumulate(make_core(strategy, pair), list(batch.split(micro)), None, step=3, num_steps=10)
    torch.testing.assert_close(result.loss, wanted.detach(), atol=1e-10, rtol=1e-10)
    for parameter, grad in zip(pair.student.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad, atol=1e-10, rtol=1e-8)
    assert result.tally.supervised == int(batch.valid.sum())
    assert trained(tokens, pair, strategy, make_core).tally.rollouts == 24


# ---- whole trials, and what is refused

ROLLOUT: dict[str, Any] = {"share": 1.0, "temperature": 1.0, "top_p": 1.0}


def entry(**changes: Any) -> dict[str, Any]:
    fields = {"preset": "se_kd_topsmp", "label": "own", "criterion": "reverse_kl", "teacher": "online"}
    return {**fields, "rollout": {**ROLLOUT, "prompt_tokens": 8, "max_new_tokens": 8}, **changes}


def test_topsmp_with_se_kd_trains_on_its_own_text(
    write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_workload(data__train_tokens=832)
    grid, workload = load_grid(write_grid([entry()], workload=str(path), seeds=[1])), load_workload(str(path))
    (trial,) = make_trials(grid, workload, fingerprints(workload))
    outcomes = [run_trial(trial, results=Results(tmp_path)) for _ in range(2)]
    record = outcomes[0].record
    assert record.samples is not None
    assert record.samples.kept_samples == 5
    assert record.rollouts is not None
    assert record.rollouts.sequences == 4
    assert 4 <= record.rollouts.generated_tokens <= 32
    assert record.selection is not None
    assert record.selection.valid_positions == record.rollouts.generated_tokens
    assert record.cost.wall_s["rollout"] > 0
    assert record.cost.flops["rollout_trunk"] > 0
    assert "rollout" in record.seeds
    assert sum(predict_flops(trial).values()) >= sum(record.cost.flops.values())
    assert outcomes[0].tables["curve"].equals(outcomes[1].tables["curve"])
    values = [{name: metric.value for name, metric in each.record.metrics.items()} for each in outcomes]
    assert values[0] == values[1]


def test_rollouts_leave_no_trace_where_there_are_none_and_have_a_name_where_there_are(
    write_grid: Callable[..., Path],
) -> None:
    assert "rollout" not in presets()["full_kd"].identity()
    own = presets()["gkd_on_policy"]
    assert own.identity()["rollout"] == ROLLOUT
    assert describe(own) == "all, reverse kl, on-policy"
    bare = {"label": "x", "position": {"policy": "all"}, "teacher": "online", "rollout": {**ROLLOUT, "share": 0.5}}
    (strategy,) = load_grid(write_grid([bare])).strategies
    assert strategy.criterion is not None
    assert strategy.criterion.name == "reverse_kl"
    assert describe(strategy, "{rollout}") == "50% on-policy"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "cached"}, "teacher: cached holds hidden states .* use teacher: online"),
        ({"preset": "rs_kd", "teacher": "sampled", "criterion": "forward_kl"}, "teacher: sampled holds targets"),
        ({"lambda": 0.5}, r"lambda 0\.5 is about the next token of the text"),
        ({"criterion": "cross_entropy"}, "criterion 'cross_entropy' is about the next token"),
        ({"flow": "dense"}, "flow: dense is the memory baseline"),
        ({"rollout": {**ROLLOUT, "share": 0.0}}, "rollout.share: .*greater than 0"),
        ({"rollout": {**ROLLOUT, "share": 0.5, "preference": 0.1}}, r"share must be 1, not 0\.5"),
        ({"rollout": {**ROLLOUT, "preference": 0.1}}, "criterion must be cross_entropy"),
        (
            {"preset": "full_kd", "criterion": "cross_entropy", "rollout": {**ROLLOUT, "preference": 0.1}},
            "normaliser must be sum",
        ),
        ({"rollout": {**ROLLOUT, "top_k": 5}}, "unknown key 'rollout.top_k'. Did you mean 'top_p'"),
        ({"rollout": {**ROLLOUT, "temperature": -1}}, "rollout.temperature"),
        ({"preset": "no_kd"}, "would do nothing"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_reason(
    changes: dict[str, Any], message: str, write_grid: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=message):
        load_grid(write_grid([entry(**changes)]))


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        (ROLLOUT, "workload 'variant' is plain text: say with rollout.prompt_tokens"),
        ({**ROLLOUT, "prompt_tokens": 30, "max_new_tokens": 4}, "34 tokens, more than data.sequence_length 32"),
    ],
)
def test_a_workload_without_prompts_or_room_is_refused(
    rollout: dict[str, Any], message: str, write_grid: Callable[..., Path], write_workload: Callable[..., Path]
) -> None:
    path = write_workload()
    grid = load_grid(write_grid([entry(rollout=rollout)], workload=str(path)))
    with pytest.raises(UserError, match=message):
        make_trials(grid, load_workload(str(path)), {})
