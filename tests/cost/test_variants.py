"""The variants compute the same numbers where they should, and the operations that arithmetic says."""

import pytest
import torch

from harness.cost.bench import flops
from harness.cost.outside import installed
from harness.cost.rig import Setting, make_rig
from harness.cost.shapes import load_pair
from harness.cost.variants import available, variant
from harness.models.operations import trunk_flops
from strategies.base import budget_size


def setting(pair: str = "tiny", length: int = 24) -> Setting:
    return Setting(pair=load_pair(pair), batch_size=3, length=length, logit_memory_mib=1)


def gradients(name: str) -> dict[str, torch.Tensor]:
    rig = make_rig(variant(name), setting())
    rig.gradients()
    return {key: parameter.grad for key, parameter in rig.student.named_parameters() if parameter.grad is not None}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    scale = max(float(grad.abs().max()) for grad in expected.values())
    for key, grad in expected.items():
        torch.testing.assert_close(found[key], grad, rtol=1e-4, atol=1e-5 * scale, msg=key)


@pytest.mark.parametrize(
    "name", ["se_kd_dense", "se_kd_streamed", "se_kd_teacher_head", "se_kd_student_head", "se_kd_both_heads"]
)
def test_every_flow_of_se_kd_has_the_cores_gradients(name: str) -> None:
    assert_equal(gradients(name), gradients("se_kd"))


@pytest.mark.parametrize("name", ["full_kd_chunked", "full_kd_teacher_head", "trl", "liger"])
def test_full_kd_has_the_dense_flows_gradients(name: str) -> None:
    if name in ("trl", "liger") and (missing := installed(name)) is not None:
        pytest.skip(missing)
    if name == "liger":
        # Its variant reads a cache: compare with the dense flow on the same states.
        assert_equal(gradients("liger_cached"), gradients("full_kd_dense_cached"))
        return
    assert_equal(gradients(name), gradients("full_kd_dense"))


def test_a_library_that_is_not_there_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trl.experimental.gkd", None)
    chosen, notes = available(("full_kd_dense", "trl", "trl_cached"))
    assert [each.name for each in chosen] == ["full_kd_dense"]
    assert len(notes) == 1
    assert "pip install 'selective-kd-harness[outside]'" in notes[0]


def test_a_counted_step_is_the_arithmetic_but_for_attention_computed_anew() -> None:
    given = setting()
    counted = flops.count(variant("se_kd"), given)
    assert counted == flops.count(variant("se_kd"), given, fake=False)
    config = given.pair.student
    # A fused backward pass computes one of attention's two products again.
    again = config.num_hidden_layers * given.batch_size * 2 * given.length**2 * config.num_attention_heads * 8
    assert counted - flops.se_kd_flops(given, budget=0.2) == again


def test_a_prepass_and_a_cache_cost_a_trunk_and_a_head() -> None:
    given = setting()
    rows = 3 * 23
    pair = given.pair
    head = 2 * rows * pair.vocab_size
    assert flops.count_prepass(given) == 3 * trunk_flops(pair.student, length=24) + head * pair.student.hidden_size
    assert flops.count_cache(given) == 3 * trunk_flops(pair.teacher, length=24) + head * pair.teacher.hidden_size


def test_selective_heads_save_their_share_of_the_teachers_head() -> None:
    given = setting()
    counted = {name: flops.count(variant(name), given) for name in ("se_kd_streamed", "se_kd_teacher_head")}
    rows = 3 * 24 - 3 * budget_size(23, 0.2)
    saved = 2 * rows * given.pair.vocab_size * given.pair.teacher.hidden_size
    assert counted["se_kd_streamed"] - counted["se_kd_teacher_head"] == saved


def test_the_table_of_operations_counts_a_share_of_the_sequences() -> None:
    given = setting()
    names = ("full_kd_chunked", "se_kd", "se_kd_3x")
    found = flops.table([variant(name) for name in names], given).set_index("variant")
    tokens = 3 * 24
    reuse = 0.2 * flops.count(variant("se_kd_3x"), given)
    build_ = flops.count_prepass(given) + 0.2 * flops.count_cache(given)
    assert found.loc["se_kd_3x", "gflops_per_token"] == pytest.approx(reuse / tokens / 1e9)
    assert found.loc["se_kd_3x_build", "gflops_per_token"] == pytest.approx((reuse + build_) / tokens / 1e9)
    assert found.loc["full_kd_chunked", "fewer_than_full_kd_percent"] == 0
