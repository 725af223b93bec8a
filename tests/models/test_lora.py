"""Students with low-rank adapters: what is trained, what it costs, what is evaluated and kept, what is refused."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VOCAB, Pair, split_batch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from harness.config import Lora, ModelSource, Workload
from harness.config.errors import UserError
from harness.config.expand import presets
from harness.config.workloads import load_workload
from harness.cost.accounting import GIB
from harness.cost.forecast.memory import footprint
from harness.data.tokens import Batch
from harness.distill.step import accumulate
from harness.models import load_model, trunk
from harness.models.lora import adapt, targets_of
from harness.models.operations import Shape, count_trunk_flops, flop_counter, shape_of
from harness.records.export import export
from harness.records.layout import Results
from harness.run.attempt import run_and_write
from harness.run.options import Options
from harness.run.plan import make_plan
from harness.trial.execute import run_trial
from harness.trial.flops import Shapes, Work, predict_flops, price
from harness.trial.trial import Trial
from strategies.names import UnknownNameError

LORA = {"rank": 2, "alpha": 4.0}
SMALL = Lora(**LORA)
LENGTH = 13


@pytest.fixture
def make_trial(
    write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path
) -> Callable[..., Trial]:
    def make(preset: str = "se_kd", lora: dict[str, Any] | None = LORA, **changes: Any) -> Trial:
        workload = write_workload(lora=lora, **changes)
        (trial,) = make_plan(
            write_grid([preset], workload=str(workload), seeds=[1]), Results(tmp_path / "results")
        ).trials
        return trial

    return make


def test_adapters_change_nothing_before_they_are_trained(
    make_pair: Callable[..., Pair], make_batch: Callable[..., Batch]
) -> None:
    student, batch = make_pair().student, make_batch()
    before = trunk(student, batch.input_ids)
    adapted = adapt(student, SMALL, seed=3)
    assert torch.equal(trunk(student, batch.input_ids), before)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name, each in student.named_parameters()
            if each.requires_grad} == {"default"}  # fmt: skip
    again = adapt(make_pair().student, SMALL, seed=3).model.state_dict()
    other = adapt(make_pair().student, SMALL, seed=4).model.state_dict()
    first = next(name for name in again if "lora_A" in name)
    assert torch.equal(again[first], student.state_dict()[first])
    assert not torch.equal(other[first], again[first])
    assert torch.equal(trunk(adapted.merge(), batch.input_ids), before)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("preset", ["se_kd", "full_kd_dense", "curriculum", "sft"])
def test_the_operations_of_a_step_are_those_a_counter_sees(
    preset: str, head: bool, workload_file: Path, make_pair: Any, make_batch: Any, make_core: Any
) -> None:
    lora = SMALL.model_copy(update={"head": head})
    workload = load_workload(str(workload_file))
    pair = make_pair(torch.float32)
    student = load_model(workload.student, workload.folder, dtype=torch.float32)
    adapt(student, lora, seed=0)
    student.set_attn_implementation("eager")  # a fused backward pass computes the attention scores anew
    pair = Pair(**{**vars(pair), "student": student})
    pair.teacher.set_attn_implementation("eager")
    core = make_core(presets()[preset], pair)
    with flop_counter() as counter:
        result = accumulate(core, split_batch(make_batch(6, LENGTH), [4, 2]), None, step=0, num_steps=1)
    shape = shape_of(workload.student, workload.folder, LENGTH, lora)
    assert shape.trunk_flops == count_trunk_flops(student, LENGTH)
    teacher = Shape(trunk_flops=count_trunk_flops(pair.teacher, LENGTH), hidden_size=pair.teacher.config.hidden_size)
    priced = price(Work(tally=result.tally), Shapes(student=shape, teacher=teacher, vocab_size=VOCAB))
    assert counter.get_total_flops() == sum(priced.values())


@pytest.mark.parametrize("head", [False, True])
def test_the_student_with_its_adapters_added_is_evaluated_and_exported(
    head: bool, make_trial: Callable[..., Trial], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    trial = make_trial(lora={**LORA, "head": head, "targets": ["q_proj", "down_proj"]})
    record = run_and_write(trial, Results(results), options=Options(keep_students=True))
    assert record.seeds["lora"] > 0
    folder = export(Results(results), trial.id, tmp_path / "student")
    exported = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    before = load_model(trial.workload.student, trial.workload.folder, dtype=torch.float32).state_dict()
    assert exported.keys() == before.keys()
    changed = {name for name, weight in exported.items() if not torch.equal(weight, before[name])}
    assert {name.split(".")[-2] for name in changed} - {"embed_tokens"} == {
        "q_proj", "down_proj", *(["lm_head"] if head else [])
    }  # fmt: skip
    assert "lora:" in (folder / "README.md").read_text(encoding="utf-8")
    source = ModelSource(path=str(folder))
    asis = Workload(**{**dict(trial.workload), "student": source, "lora": None})
    plain = presets()["no_kd"]
    shown = run_trial(replace(trial, strategy=plain, workload=asis, seed=None), results=Results(results)).record
    assert {name: metric.value for name, metric in shown.metrics.items()} == pytest.approx(
        {name: metric.value for name, metric in record.metrics.items()}, rel=1e-6
    )


def test_predictions_hold(make_trial: Callable[..., Trial], tmp_path: Path) -> None:
    trial = make_trial(data__cross_document_targets=True, resources__logit_memory_mib=1)
    record = run_trial(trial, results=Results(tmp_path)).record
    assert predict_flops(trial) == record.cost.flops
    found = footprint(trial.strategy, trial.workload)
    assert found == footprint(trial.strategy, trial.workload, fake=False)
    assert found.step == pytest.approx(record.cost.peak_gib["step"] * GIB, rel=0.05)
    whole = footprint(trial.strategy, Workload(**{**dict(trial.workload), "lora": None}))
    assert found.parameters > whole.parameters
    assert found.optimiser < whole.optimiser / 2
    assert found.gradients < whole.gradients / 2
    assert found.checkpoint < whole.checkpoint / 2


def test_without_adapters_a_workload_is_the_one_it_was(make_trial: Callable[..., Trial]) -> None:
    plain, adapted, other = make_trial(lora=None), make_trial(), make_trial(lora={**LORA, "rank": 3})
    assert "lora" not in plain.workload.model_dump(mode="json")
    assert len({plain.id, adapted.id, other.id}) == 3


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({**LORA, "targets": ["lm_head"]}, "lora.targets names 'lm_head', the head"),
        ({**LORA, "targets": ["q_prj"]}, "unknown lora target 'q_prj'. Did you mean 'q_proj'"),
        ({**LORA, "rank": 0}, "lora.rank"),
        ({**LORA, "alpha": 0.0}, "lora.alpha"),
        ({**LORA, "dropout": 0.1}, "lora.dropout"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    lora: dict[str, Any], said: str, make_trial: Callable[..., Trial], tmp_path: Path
) -> None:
    with pytest.raises((UserError, UnknownNameError), match=said):
        make_trial(lora=lora)
    assert not (tmp_path / "results").exists()


def test_without_peft_it_says_what_to_install(
    make_trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'selective-kd-harness\[lora\]'"):
        make_trial()


def test_a_head_tied_to_the_embeddings_is_trained_with_them(make_pair: Callable[..., Pair]) -> None:
    student = make_pair().student
    student.config.tie_word_embeddings = True
    student.tie_weights()
    model = adapt(student, SMALL.model_copy(update={"head": True}), seed=0).model
    assert model.get_input_embeddings().weight.requires_grad
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert all("lm_head" not in name for name in targets_of(make_pair().student, SMALL))
    assert any(isinstance(module, LoraLayer) for module in model.modules())
