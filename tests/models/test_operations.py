"""Operations of a trunk: the arithmetic of a configuration against torch's count over the model's shapes."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from harness.config import ModelSource
from harness.models.operations import count_trunk_flops, shape_of
from harness.models.shapes import Outline, outline, shape_model

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64}  # fmt: skip


def write(folder: Path, model_type: str, **changes: object) -> ModelSource:
    AutoConfig.for_model(model_type, **{**SIZES, **changes}).save_pretrained(folder / model_type)
    return ModelSource(path=model_type)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("qwen3", {}),
        ("qwen3", {"num_key_value_heads": 4, "head_dim": 8, "attention_bias": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_hidden_layers": 1}),
        ("mistral", {"sliding_window": 4, "tie_word_embeddings": True}),
        ("qwen2", {"head_dim": 4}),
    ],
)
@pytest.mark.parametrize("length", [1, 9])
def test_a_plain_trunks_operations_follow_from_its_sizes(
    model_type: str, changes: dict[str, object], length: int, tmp_path: Path
) -> None:
    source = write(tmp_path, model_type, **changes)
    sizes = outline(source, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path / model_type)
    if isinstance(sizes, Outline):
        assert {name: getattr(config, name) for name in SIZES} == vars(sizes)
    else:
        assert model_type == "qwen2", "its configuration has no head_dim, so it is counted"
    counted = count_trunk_flops(shape_model(source, tmp_path), length)
    shape = shape_of(source, tmp_path, length)
    assert (shape.trunk_flops, shape.hidden_size) == (counted, 16)
    assert shape.backward_flops is None


@pytest.mark.parametrize("changes", [{"model_type": "gpt_neox"}, {"quantization_config": {}}])
def test_what_a_file_does_not_say_plainly_is_read_by_transformers(changes: dict[str, object], tmp_path: Path) -> None:
    source = write(tmp_path, "qwen3")
    path = tmp_path / "qwen3" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert not isinstance(outline(source, tmp_path), Outline)
