"""Students cut out of their teacher: equal to a model made by hand, numbered anew, saved whole, refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, Qwen3Config

from harness.config import ModelSource, Workload
from harness.config.errors import UserError
from harness.config.workloads import load_workload
from harness.config.yaml import parse
from harness.models import fingerprint, load_model
from harness.models.operations import shape_of
from harness.models.shapes import num_layers, shape_model
from harness.records.layout import Results
from harness.run.plan import make_plan
from harness.trial.execute import run_trial

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 6, "max_position_embeddings": 64}  # fmt: skip
CONFIGURATIONS = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=3),
    "gpt2": GPT2Config(vocab_size=50, n_embd=16, n_head=2, n_layer=6, n_positions=64),
}
IDS = torch.arange(20)[None] % 50


@pytest.fixture(params=CONFIGURATIONS)
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGURATIONS[request.param])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "whole")
    return tmp_path / "whole"


def load(folder: Path, layers: list[object] | None = None) -> PreTrainedModel:
    return load_model(ModelSource.model_validate({"path": str(folder), "layers": layers}), Path(), dtype=torch.float32)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def by_hand(folder: Path, layers: tuple[int, ...], num: int) -> PreTrainedModel:
    """Build a smaller model of its own configuration, and copy each kept layer's weights into their place."""
    model = load(folder)
    fields = model.config.to_dict()
    fields.pop("layer_types", None)
    name = "n_layer" if "n_layer" in fields else "num_hidden_layers"
    config = type(model.config).from_dict({**fields, name: num})
    if getattr(model.config, "layer_types", None):
        config.layer_types = [model.config.layer_types[layer] for layer in layers]
    made = AutoModelForCausalLM.from_config(config)
    places = {f".{layer}.": f".{number}." for number, layer in enumerate(layers)}
    weights = {}
    for key, weight in model.state_dict().items():
        of = next((part for part in (f".{n}." for n in range(6)) if f"layers{part}" in key or f"h{part}" in key), None)
        if of is None:
            weights[key] = weight
        elif of in places:
            weights[key.replace(of, places[of], 1)] = weight
    made.load_state_dict(weights)
    return made.eval()


def test_a_student_that_keeps_all_layers_is_its_teacher_to_the_bit(whole: Path) -> None:
    assert torch.equal(logits(load(whole, ["0-5"])), logits(load(whole)))


def test_a_student_of_some_layers_equals_a_model_made_by_hand(whole: Path, tmp_path: Path) -> None:
    cut = load(whole, ["0-1", 4, 5])
    assert torch.equal(logits(cut), logits(by_hand(whole, (0, 1, 4, 5), 4)))
    assert not torch.equal(logits(cut), logits(load(whole)))
    ids = IDS[:, :4]
    kept = cut.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    anew = cut.generate(ids, max_new_tokens=5, do_sample=False, use_cache=False, pad_token_id=0)
    assert torch.equal(kept, anew)
    cut.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.config.num_hidden_layers == 4
    assert torch.equal(logits(again), logits(cut))


def test_shapes_and_identity_follow_the_layers_that_are_kept(whole: Path) -> None:
    source, cut = (ModelSource.model_validate({"path": str(whole), "layers": kept}) for kept in (None, [0, "3-5"]))
    assert num_layers(cut, Path()) == 4
    assert shape_of(cut, Path(), 16).trunk_flops / shape_of(source, Path(), 16).trunk_flops == pytest.approx(4 / 6)
    assert (
        sum(each.numel() for each in shape_model(cut, Path()).parameters()) == load(whole, [0, "3-5"]).num_parameters()
    )
    other = ModelSource.model_validate({"path": str(whole), "layers": [0, "2-4"]})
    assert len({fingerprint(each, Path()) for each in (source, cut, other)}) == 3


def test_a_layer_that_does_not_exist_is_named(whole: Path) -> None:
    source = ModelSource.model_validate({"path": str(whole), "layers": ["2-6"]})
    for ask in (lambda: load(whole, ["2-6"]), lambda: num_layers(source, Path())):
        with pytest.raises(UserError, match=r"no layer 6; its layers are 0 to 5"):
            ask()


@pytest.mark.parametrize("layers", [[], [3, 1], [1, 1], ["3-1"], ["a"], [-1], ["1-"], [1.5], [True]])
def test_layers_that_mean_nothing_are_refused(layers: list[object]) -> None:
    with pytest.raises(ValidationError, match="layers"):
        ModelSource.model_validate({"path": "x", "layers": layers})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"student": {"from": "teacher"}}, "says its layers"),
        ({"student": {"from": "teacher", "layers": [0], "path": "x"}}, "says its layers"),
        ({"student": {"from": "student", "layers": [0]}}, "must be teacher"),
        ({"teacher": None, "student": {"from": "teacher", "layers": [0]}}, "must be teacher"),
        ({"teacher": {"path": "x", "layers": [0]}}, "only a student"),
    ],
)
def test_a_cut_that_is_none_is_refused(changes: dict[str, Any], told: str) -> None:
    fields = load_workload("tiny").model_dump() | {"folder": Path()} | changes
    with pytest.raises(UserError, match=told):
        parse(Workload, fields, where="workload")


def test_a_cut_student_is_trained_and_evaluated(
    write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    workload = write_workload(student={"from": "teacher", "layers": [1]})
    grid = write_grid(["full_kd"], workload=str(workload), seeds=[1])
    (trial,) = make_plan(grid, Results(tmp_path / "results")).trials
    saved = tmp_path / "student"
    record = run_trial(
        trial, results=Results(tmp_path / "results"), keep_student=lambda model, _: model.save_pretrained(saved)
    ).record
    assert record.workload["student"]["layers"] == [1]
    assert load(saved).config.num_hidden_layers == 1
