"""`harness.api`: in a loop of one's own, the core's loss, selection and gradients."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROWS, VOCAB, Pair, split_batch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from harness.api import Distilled, distil, next_tokens
from harness.config.errors import UserError
from harness.config.expand import presets
from harness.data.tokens import Batch
from harness.distill.step import accumulate
from harness.models import head_of, trunk

NUM_STEPS = 5
UNSERVED = {"no_kd", "teacher", "full_kd_dense"}
SERVED = [
    name
    for name, preset in presets().items()
    if name not in UNSERVED and preset.samples is None and preset.feature is None and not preset.stored
]


@pytest.fixture(scope="module")
def pair(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair(torch.float64)


@pytest.fixture(scope="module")
def batch(make_batch: Callable[..., Batch]) -> Batch:
    return make_batch(4, 11)


def targets_of(batch: Batch) -> Tensor:
    return batch.targets.masked_fill(~batch.valid, -100)


def states(pair: Pair, batch: Batch) -> dict[str, Any]:
    with torch.no_grad():
        theirs = trunk(pair.teacher, batch.input_ids)
    return {
        "student_hidden": trunk(pair.student, batch.input_ids),
        "student_head": pair.student.get_output_embeddings(),
        "teacher_hidden": theirs,
        "teacher_head": pair.teacher.get_output_embeddings().weight,
    }


def call(strategy: Any, pair: Pair, batch: Batch, **given: Any) -> Distilled:
    settings = {"step": 2, "num_steps": NUM_STEPS, "seed": 7, "index": batch.index, "vocab_size": VOCAB, "chunk": 6}
    return distil(strategy, targets=targets_of(batch), **{**settings, **given})


def gradients(model: Any) -> list[Tensor]:
    return [each.grad for each in model.parameters() if each.grad is not None]


@pytest.mark.parametrize("form", ["hidden", "logits"])
@pytest.mark.parametrize("name", SERVED)
def test_loss_selection_and_gradients_are_the_cores(
    name: str, form: str, pair: Pair, batch: Batch, make_core: Any
) -> None:
    pair.student.zero_grad()
    given = states(pair, batch)
    if form == "logits":
        given = {
            "student_logits": given["student_hidden"] @ given["student_head"].weight.T,
            "teacher_logits": given["teacher_hidden"] @ given["teacher_head"].T,
        }
    done = call(name, pair, batch, **given)
    done.loss.backward()
    found = [each.clone() for each in gradients(pair.student)]
    pair.student.zero_grad()
    core = make_core(presets()[name], pair)
    wanted = accumulate(core, [batch], None, step=2, num_steps=NUM_STEPS)
    assert done.loss.item() == pytest.approx(float(wanted.loss), rel=1e-12)
    assert int((done.selection.weight > 0).sum()) == int(wanted.tally.supervised)
    assert (done.scores is None) is (core.objective.signal is None)
    assert len(found) == len(gradients(pair.student)) > 5
    for ours, theirs in zip(found, gradients(pair.student), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_most_presets_are_served() -> None:
    assert len(SERVED) > 20
    assert {"se_kd", "full_kd", "at_kd", "pos_rs", "curriculum", "rs_kd", "sft"} <= set(SERVED)


def test_micro_batches_add_up_to_the_whole_batch_and_state_passes_through(pair: Pair, batch: Batch) -> None:
    strategy = {"preset": "random_pos"}
    with torch.no_grad():
        whole = call(strategy, pair, batch, **states(pair, batch))
        halves = []
        for first in (0, 2):
            half = split_batch(batch, [2, 2])[first // 2]
            halves.append(call(strategy, pair, half, first=first, **states(pair, half)))
    assert torch.equal(torch.cat([each.selection.weight for each in halves]), whole.selection.weight)
    total, divisor = (sum(float(getattr(each, name)) for each in halves) for name in ("total", "denominator"))
    assert total / divisor == pytest.approx(float(whole.loss), rel=1e-12)
    gls = {"preset": "se_kd", "position": {"policy": {"name": "gls", "capacity": 100}}}
    given = states(pair, batch)
    once = call(gls, pair, batch, **given)
    assert once.state is not None
    again = call(gls, pair, batch, state=once.state, **given)
    assert not torch.equal(again.selection.weight, once.selection.weight) or again.state is not once.state


def test_given_logits_are_left_as_they_are(pair: Pair, batch: Batch) -> None:
    given = states(pair, batch)
    ours = (given["student_hidden"] @ given["student_head"].weight.T).detach().requires_grad_()
    theirs = given["teacher_hidden"] @ given["teacher_head"].T
    before = ours.detach().clone(), theirs.detach().clone()
    done = call("se_kd", pair, batch, student_logits=ours, teacher_logits=theirs)
    (grad,) = torch.autograd.grad(done.loss, ours)
    assert torch.equal(ours, before[0])
    assert torch.equal(theirs, before[1])
    moved = grad.abs().amax(-1) > 0
    assert torch.equal(moved, done.selection.weight > 0), "only the selected positions carry a gradient"
    assert not grad[..., VOCAB:].any(), "padding of the vocabulary takes part in nothing"


def test_a_position_without_target_never_counts(pair: Pair, batch: Batch) -> None:
    labels = torch.cat([torch.full((4, 1), 9), targets_of(batch)[:, :-1]], dim=1)
    assert torch.equal(next_tokens(labels)[:, :-1], targets_of(batch)[:, :-1])
    assert bool((next_tokens(labels)[:, -1] == -100).all())
    with torch.no_grad():
        done = call("full_kd", pair, batch, valid=torch.ones_like(batch.valid), **states(pair, batch))
        some = call("full_kd", pair, batch, valid=batch.valid & (batch.targets % 2 == 0), **states(pair, batch))
    assert torch.equal(done.selection.weight > 0, batch.valid)
    assert torch.equal(some.selection.weight > 0, batch.valid & (batch.targets % 2 == 0))


# ---- inside transformers' Trainer: the example of the module's docstring, as it stands there


class SelectiveTrainer(Trainer):
    def __init__(self, *args: Any, teacher: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher, self.kd = teacher, None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # type: ignore[no-untyped-def]
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        with torch.no_grad():
            theirs = self.teacher.base_model(ids, attention_mask=mask).last_hidden_state
        done = distil(
            "se_kd",
            targets=next_tokens(inputs["labels"]),
            student_hidden=model.base_model(ids, attention_mask=mask).last_hidden_state,
            student_head=model.lm_head,
            teacher_hidden=theirs,
            teacher_head=self.teacher.lm_head,
            state=self.kd,
            step=self.state.global_step,
            num_steps=self.state.max_steps,
        )
        self.kd = done.state
        return (done.loss, {}) if return_outputs else done.loss


def test_the_trainer_here_is_the_one_in_the_documentation() -> None:
    text, here = (Path(path).read_text(encoding="utf-8") for path in (__import__("harness.api").api.__file__, __file__))
    body = here.split("num_items_in_batch=None):")[1].split("\n\n\n")[0].partition("\n")[2]
    documented = text.split("num_items_in_batch=None):\n")[1].split("\n\nTRL")[0]
    assert documented == "\n".join(f"    {line}" for line in body.splitlines())


class _Compare(TrainerCallback):
    """Compares every step's gradients with those of the core for the same weights and sequences."""

    def __init__(self, make_core: Any, pair: Pair, batches: list[Batch]) -> None:
        self.make_core, self.pair, self.batches = make_core, pair, batches
        self.steps = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        fresh = copy.deepcopy(model)
        fresh.zero_grad()
        pair = Pair(student=fresh, teacher=self.pair.teacher, vocab_size=ROWS)
        core = self.make_core(presets()["se_kd"], pair, seed=0)
        batch = self.batches[state.global_step]
        self.loss = float(accumulate(core, [batch], None, step=state.global_step, num_steps=state.max_steps).loss)
        for ours, theirs in zip(gradients(model), gradients(fresh), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        self.steps += 1


def test_three_steps_of_a_trainer_have_the_cores_losses_and_gradients(
    make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Any, tmp_path: Path
) -> None:
    pair = make_pair(torch.float64)
    batches = [make_batch(2, 11, seed=seed) for seed in range(3)]
    items = [
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": torch.cat([ids[:1], targets[:-1]]),
        }
        for batch in batches
        for ids, targets in zip(batch.input_ids, targets_of(batch), strict=True)
    ]
    settings = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        max_steps=3,
        learning_rate=1e-3,
        max_grad_norm=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
    )
    compare = _Compare(make_core, pair, batches)
    before = head_of(pair.student, VOCAB).weight.detach().clone()
    trainer = SelectiveTrainer(
        model=pair.student, args=settings, train_dataset=items, callbacks=[compare], teacher=pair.teacher
    )
    trainer.train()
    assert compare.steps == 3
    logged = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    assert len(logged) == 3
    assert logged[-1] == pytest.approx(compare.loss, rel=1e-4)
    assert not torch.equal(before, head_of(pair.student, VOCAB).weight)
    assert trainer.evaluate(items[:2])["eval_loss"] > 0


# ---- what is refused


@pytest.mark.parametrize(
    ("strategy", "given", "message"),
    [
        ("se_kdd", {}, r"unknown preset 'se_kdd'\. Did you mean 'se_kd'"),
        ({"preset": "se_kd", "sweep": {"position.budget": [0.1, 0.2]}}, {}, "its sweep stands for 2 strategies"),
        ({"preset": "se_kd", "position": {"policy": "all"}}, {}, "policy 'all' reads no scores"),
        ("no_kd", {}, "'No KD' trains nothing"),
        ("topsmp", {}, "chooses training sequences, which is done before training"),
        ("full_kd_dense", {}, "flow: dense"),
        ("rs_kd", {"index": None}, "draws classes for each position of the data: give index"),
        ("se_kd", {"teacher_hidden": None, "teacher_head": None}, "'SE-KD 20%' reads the teacher: give teacher_h"),
        ("se_kd", {"teacher_head": None}, "give either teacher_hidden and teacher_head, or teacher_logits"),
        (
            "se_kd",
            {"student_hidden": None, "student_head": None},
            "give student_hidden and student_head, or student_lo",
        ),
        ("se_kd", {"student_head": torch.nn.Linear(16, 104)}, "Linear without bias"),
        ("se_kd", {"student_head": torch.zeros(104, 15)}, r"student_head is \(104, 15\), student_hidden \(4, 11, 16\)"),
        ("se_kd", {"vocab_size": None, "teacher_head": torch.zeros(97, 24)}, "has 104 classes and the teacher 97"),
        ("se_kd", {"vocab_size": 105}, "vocab_size is 105, and the student has 104 classes"),
        ("se_kd", {"teacher_hidden": torch.zeros(4, 10, 24)}, r"teacher_hidden is \(4, 10, 24\), targets \(4, 11\)"),
        ("se_kd", {"step": -1}, "step is -1 of num_steps 5"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(
    strategy: Any, given: dict[str, Any], message: str, pair: Pair, batch: Batch
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call(strategy, pair, batch, **{**states(pair, batch), **given})
    assert isinstance(caught.value, UserError) or "unknown" in str(caught.value)
