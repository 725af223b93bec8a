"""Models: trunk and head, fingerprints, and heads that the core cannot compute."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import VOCAB, Pair, small_model
from safetensors.torch import load_file, save_file

from harness.config import ModelSource
from harness.config.errors import UserError
from harness.models import (
    fingerprint,
    head_of,
    load_head,
    load_model,
    load_tokenizer,
    locate,
    trunk,
)
from harness.models.shapes import context_length


@pytest.fixture
def copied(checkpoints: Path, tmp_path: Path) -> Callable[[str], ModelSource]:
    def copy(name: str) -> ModelSource:
        return ModelSource(path=str(shutil.copytree(checkpoints / name, tmp_path / name)))

    return copy


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_trunk_and_head_are_the_model(name: str, checkpoints: Path) -> None:
    model = load_model(ModelSource(path=name), checkpoints, dtype=torch.float32)
    assert not model.training
    ids = torch.randint(2, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = trunk(model, ids) @ head_of(model, VOCAB).weight.T
        torch.testing.assert_close(logits, model(input_ids=ids).logits[..., :VOCAB])


def test_padding_to_the_right_leaves_hidden_states_as_they_are(make_pair: Callable[..., Pair]) -> None:
    model = make_pair().teacher
    ids = torch.randint(2, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(trunk(model, ids)[:, :7], trunk(model, ids[:, :7]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["student", "teacher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_alone_is_the_models_head(name: str, dtype: torch.dtype, checkpoints: Path) -> None:
    source = ModelSource(path=name)
    alone = load_head(source, checkpoints, VOCAB, dtype=dtype)
    whole = head_of(load_model(source, checkpoints, dtype=dtype), VOCAB)
    assert alone.weight.shape[0] == VOCAB
    assert torch.equal(alone.weight, whole.weight.detach())


def test_the_head_of_a_training_student_carries_gradients_to_its_parameter(make_pair: Callable[..., Pair]) -> None:
    student = make_pair().student
    head_of(student, VOCAB).weight.sum().backward()
    grad = student.get_output_embeddings().weight.grad
    assert grad is not None
    assert bool((grad[:VOCAB] == 1).all())
    assert not grad[VOCAB:].any()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_fingerprint_follows_weights_configuration_and_tokenizer(
    file: str, copied: Callable[[str], ModelSource], tmp_path: Path
) -> None:
    source = copied("student")
    before = fingerprint(source, tmp_path)
    assert fingerprint(source, tmp_path) == before
    path = Path(source.path) / file
    if file == "model.safetensors":
        tensors = load_file(path)
        tensors["model.norm.weight"][0] += 1e-3
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        path.write_text(path.read_text().replace("{", '{"comment": 1,', 1))
    assert fingerprint(source, tmp_path) != before


def test_a_fingerprint_does_not_depend_on_where_the_folder_lies(
    copied: Callable[[str], ModelSource], checkpoints: Path, tmp_path: Path
) -> None:
    assert fingerprint(copied("student"), tmp_path) == fingerprint(ModelSource(path="./student"), checkpoints)
    assert fingerprint(ModelSource(path="teacher"), checkpoints) != fingerprint(
        ModelSource(path="student"), checkpoints
    )


def test_a_relative_folder_is_looked_up_beside_the_workload(checkpoints: Path) -> None:
    assert locate(ModelSource(path="./student"), checkpoints).samefile(checkpoints / "student")


@pytest.mark.parametrize(("key", "value"), [("final_logit_softcapping", 30.0), ("logit_scale", 0.5)])
def test_a_head_that_is_not_a_matrix_product_is_refused(
    key: str, value: float, copied: Callable[[str], ModelSource], tmp_path: Path
) -> None:
    source = copied("student")
    path = Path(source.path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=f"its head is not a plain matrix \\({key}\\)"):
        load_model(source, tmp_path, dtype=torch.float32)


def test_a_tokenizer_without_end_of_text_is_refused(copied: Callable[[str], ModelSource], tmp_path: Path) -> None:
    source = copied("student")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = Path(source.path) / name
        if path.exists():
            fields = {key: value for key, value in json.loads(path.read_text()).items() if key != "eos_token"}
            path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match="no end-of-text token"):
        load_tokenizer(source, tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(
    copied: Callable[[str], ModelSource], tmp_path: Path
) -> None:
    source = copied("student")
    path = Path(source.path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 90}))
    with pytest.raises(UserError, match="97 tokens and the model only 90 rows"):
        load_tokenizer(source, tmp_path)


def test_a_tokenizer_without_padding_pads_with_its_end_of_text(checkpoints: Path) -> None:
    tokenizer = load_tokenizer(ModelSource(path="student"), checkpoints)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_weights_that_are_not_safetensors_are_never_taken_from_elsewhere(
    copied: Callable[[str], ModelSource], tmp_path: Path
) -> None:
    # Their fingerprint would not see them change, and a bare path is looked up in the working folder or on the hub.
    source = copied("student")
    folder = Path(source.path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors"):
        fingerprint(source, tmp_path)


def test_context_length_is_the_configured_one(checkpoints: Path) -> None:
    assert context_length(ModelSource(path="student"), checkpoints) == 1024


def test_dtype_is_the_one_asked_for(checkpoints: Path) -> None:
    model = load_model(ModelSource(path="student"), checkpoints, dtype=torch.float64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    reference = small_model(16, seed=0, dtype=torch.float32, tied=True)
    saved = dict(model.named_parameters())
    for name, parameter in reference.named_parameters():
        assert torch.equal(saved[name].float(), parameter), name
