"""The bytes of a step: on shapes alone as on real tensors, and each in its category."""

import pytest
import torch

from harness.config.errors import UnknownNameError
from harness.cost.accounting import GIB, Ledger, adam8bit_bytes
from harness.cost.bench.memory import OPTIMIZERS, TRACED, account, table, trace
from harness.cost.outside import installed
from harness.cost.rig import Setting, make_rig
from harness.cost.shapes import build, load_config, load_pair, shapes_only
from harness.cost.variants import VARIANTS, variant

COUNTED = [each.name for each in VARIANTS if each.outside is None]


def setting(*, micro_batches: int = 1, checkpointing: bool = False) -> Setting:
    return Setting(
        pair=load_pair("tiny"),
        batch_size=2,
        length=16,
        logit_memory_mib=1,
        micro_batches=micro_batches,
        checkpointing=checkpointing,
    )


@pytest.mark.parametrize("name", COUNTED)
def test_shapes_alone_have_the_bytes_of_real_tensors(name: str) -> None:
    assert account(variant(name), setting(), fake=True) == account(variant(name), setting(), fake=False)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_so_do_several_micro_batches(checkpointing: bool) -> None:
    given = setting(micro_batches=2, checkpointing=checkpointing)
    assert account(variant("se_kd"), given, fake=True) == account(variant("se_kd"), given, fake=False)


def test_the_constant_categories_are_what_arithmetic_says() -> None:
    pair = load_pair("tiny")
    student, teacher = (build(config, dtype=torch.float32) for config in (pair.student, pair.teacher))
    weights = [parameter.numel() for parameter in student.parameters()]
    found = account(variant("full_kd_chunked"), setting(micro_batches=2))
    for optimizer in OPTIMIZERS:
        peak = found[optimizer]["student"]
        assert peak["parameters"] == 4 * sum(weights)
        # At the second micro-batch's peak every gradient of the first is there.
        assert peak["gradients"] + peak["head gradient"] == 4 * sum(weights)
    assert found["none"]["student"]["optimizer"] == 0
    # Two moments in the parameters' dtype, and one step counter for each.
    assert found["adamw"]["student"]["optimizer"] == 4 * (2 * sum(weights) + len(weights))
    assert found["adamw_8bit"]["student"]["optimizer"] == adam8bit_bytes(student.parameters())
    assert found["none"]["teacher"]["parameters"] == 4 * sum(p.numel() for p in teacher.parameters())


def test_an_8_bit_state_has_a_scale_for_every_block_and_leaves_small_tensors_alone() -> None:
    module = torch.nn.ParameterList([torch.zeros(4097), torch.zeros(10)])
    assert adam8bit_bytes(module.parameters()) == (2 * 4097 + 2 * 4 * 17) + 8 * 10


def test_chunks_and_selection_take_less_than_whole_logits() -> None:
    named = {
        name: account(variant(name), setting())["none"] for name in ("floor", "full_kd_dense", "se_kd_dense", "se_kd")
    }
    logits = {name: found["logits"].total() for name, found in named.items()}
    rows = 2 * 16 * 512 * 4
    assert logits["full_kd_dense"] > 5 * rows
    assert logits["full_kd_dense"] > logits["se_kd_dense"] > logits["se_kd"]
    assert logits["floor"] <= 2 * 16 * 16 * 4


def test_a_ledger_tells_whose_a_number_is_and_copies_what_is_handed_over() -> None:
    student, teacher = torch.ones(10), torch.ones(100)
    ledger = Ledger(head=(512, 16))
    ledger.register([student], "parameters", "student")
    ledger.register([teacher], "parameters", "teacher")
    with ledger, ledger.region("logits"):
        scores = student * 2.0  # 40 bytes, the student's
        order = scores.argsort()  # says where, not what: no owner
        picked = teacher[order]  # 40 bytes, the teacher's though the student said which
        joint = picked - scores  # 40 bytes, the student's, who needs a copy of `picked`
        del picked
        after = joint + 1.0
    owned = {
        owner: ledger.peak_of(lambda entry, owner=owner: entry.owner == owner and entry.category == "logits").total()
        for owner in ("student", "teacher")
    }
    assert owned == {"student": 40 + 40 + 40, "teacher": 40}
    assert ledger.peak_of(lambda entry: entry.copy).total() == 40
    whole = ledger.peak_of(lambda entry: not entry.copy)
    assert whole["parameters"] == 440
    assert len(after) == 10


def test_a_trunk_is_told_from_what_follows_it() -> None:
    with shapes_only(fake=True):
        rig = make_rig(variant("full_kd_dense"), setting())
        ledger = Ledger(head=(rig.core.vocab_size, 16))
        ledger.register(rig.student.parameters(), "parameters", "student")
        with ledger.watch(rig.student), ledger:
            rig.gradients()
            ledger.mark_gradients(rig.student)
    # 32 positions of 512 classes: whole logits are no trunk's, nor is the head's gradient.
    rows = 2 * 16 * rig.core.vocab_size * 4
    assert ledger.peak_of(lambda entry: entry.category == "trunk" and entry.num_bytes >= rows).total() == 0
    assert ledger.peak_of(lambda entry: entry.category == "logits" and entry.num_bytes >= rows).total() > 0
    heads = ledger.peak_of(lambda entry: entry.category == "head gradient")
    assert heads.total() == rig.core.vocab_size * 16 * 4


@pytest.mark.parametrize("name", ["full_kd_dense", "full_kd_chunked", "trl"])
def test_logits_of_as_many_rows_as_the_model_is_wide_are_no_head_gradient(name: str) -> None:
    if name == "trl" and (missing := installed("trl")) is not None:
        pytest.skip(missing)
    # 16 positions, hidden size 16: logits have the shape of the head's transposed gradient.
    square = Setting(pair=load_pair("tiny"), batch_size=1, length=16, logit_memory_mib=1)
    found = account(variant(name), square)["none"]
    logits = 16 * 512 * 4
    assert found["logits"].total() > 2 * logits
    assert found["student"]["head gradient"] <= logits


def test_the_papers_models_have_their_published_sizes() -> None:
    with shapes_only(fake=True):
        for name, billions in (("qwen3-1.7b", 1.72), ("qwen3-8b", 8.19)):
            model = build(load_config(name), dtype=torch.bfloat16)
            assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e9, 2) == billions


@pytest.mark.parametrize(("load", "name", "nearest"), [(load_pair, "qwen", "qwen3"), (variant, "se_kb", "se_kd")])
def test_an_unknown_name_suggests_the_nearest(load: object, name: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Did you mean '{nearest}'"):
        load(name)  # type: ignore[operator]


def test_the_table_has_a_row_for_every_setting_variant_and_optimiser() -> None:
    found = table([variant("floor"), variant("se_kd")], [setting()])
    assert len(found) == 2 * 3
    assert (found.loc[found["variant"] == "floor", "beyond_floor_gib"] == 0).all()
    assert (found.loc[found["variant"] == "se_kd", "beyond_floor_gib"] > 0).all()
    for owner in ("student", "teacher"):
        parts = [name for name in found.columns if name.startswith(owner) and name not in (f"{owner}_gib",)]
        parts = [name for name in parts if "beyond" not in name]
        assert (found[parts].sum(axis=1) - found[f"{owner}_gib"]).abs().max() < 1e-12


def test_chunked_logits_do_not_grow_with_the_batch() -> None:
    few, many = (
        account(
            variant("full_kd_cached"),
            Setting(pair=load_pair("tiny"), batch_size=size, length=64, logit_memory_mib=1),
        )["none"]["logits"].total()
        for size in (4, 16)
    )
    # Hidden states' gradient and indices do; a chunk of logits is 178 rows here.
    assert many - few < 178 * 512 * 4 / 2


def test_a_trace_is_a_step_cut_into_parts_each_at_its_fullest() -> None:
    ledger = Ledger(head=(512, 16))
    weights = torch.ones(1000)
    ledger.register([weights], "parameters", "student")
    with ledger, ledger.region("logits"):
        kept = weights[:10] * 2.0  # 40 bytes
        for size in (100, 300, 50):
            kept.new_zeros(size)  # made and dropped
    assert [part.total() for part in ledger.trace(lambda entry: not entry.before, num=7)] == [
        40, 440, 40, 1240, 40, 240, 40,
    ]  # fmt: skip
    halves = ledger.trace(lambda entry: not entry.before, num=2)
    assert [part["logits"] for part in halves] == [1240, 240]
    assert len(ledger.trace(lambda entry: entry.before, num=3)) == 3
    assert {part.total() for part in ledger.trace(lambda entry: entry.before, num=3)} == {4000}


@pytest.mark.parametrize("fake", [True, False])
def test_the_fullest_part_of_a_trace_is_the_peak_beyond_what_stays(fake: bool) -> None:
    names = ("full_kd_dense", "se_kd_streamed", "se_kd")
    found = trace([variant(name) for name in names], setting(micro_batches=2), num=20, fake=fake)
    assert found["variant"].value_counts().to_dict() == dict.fromkeys(names, 20)
    most = found.groupby("variant")["student_gib"].max() * GIB
    for name in names:
        peak = account(variant(name), setting(micro_batches=2), fake=fake)["none"]["student"]
        assert most[name] == peak.total() - peak["parameters"]
    assert most["full_kd_dense"] > most["se_kd_streamed"] > most["se_kd"]
    parts = [f"student_{name.replace(' ', '_')}_gib" for name in TRACED]
    assert found[parts].sum(axis=1).tolist() == pytest.approx(found["student_gib"].tolist())
