"""Shapes of models without their weights: from files that are on the disk, from what is known, from the hub last."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.config import Lora, ModelSource
from harness.config.annotations import PretrainedConfig, PreTrainedModel
from harness.models.load import locate, read_config
from harness.models.lora import shape_adapted
from harness.models.surgery import check_layers, cut_configuration

_FILE = Path(__file__).with_name("known.yaml")

# Models of these types are layers of attention and a gated network, and what that takes follows from the sizes.
_PLAIN_TYPES = ("llama", "mistral", "qwen2", "qwen3")
# What makes another model of them.
_CHANGES = ("auto_map", "quantization_config")


@dataclass(frozen=True, kw_only=True)
class Outline:
    """Sizes of a model of a plain type, by their names in its configuration file."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int


@cache
def outline(source: ModelSource, folder: Path) -> Outline | PretrainedConfig:
    """Return a model's sizes: of a plain type from its file, of any other as transformers reads them, in seconds.

    Raises:
        UserError: as `configuration`.
    """
    if not is_on_disk(source, folder) and source.path in known_models():
        fields = known_models()[source.path]["config"]
    else:
        try:
            fields = json.loads((locate(source, folder) / "config.json").read_text(encoding="utf-8"))
        except ValueError:
            fields = None
    if not isinstance(fields, dict) or fields.get("model_type") not in _PLAIN_TYPES or fields.keys() & {*_CHANGES}:
        return configuration(source, folder)
    sizes: dict[str, Any] = {name: fields.get(name) for name in Outline.__annotations__}
    # What is left out has a default there, and what is wrong is refused there.
    if not all(type(size) is int and size > 0 for size in sizes.values()):
        return configuration(source, folder)
    if source.layers is not None:
        check_layers(source.layers, sizes["num_hidden_layers"], source.path)
        sizes["num_hidden_layers"] = len(source.layers)
    return Outline(**sizes)


def context_length(source: ModelSource, folder: Path) -> int:
    """Return how many positions a model was made for."""
    return int(getattr(outline(source, folder), "max_position_embeddings", 0)) or torch.iinfo(torch.int64).max


def configuration(source: ModelSource, folder: Path) -> PretrainedConfig:
    """Return a model's configuration, without fetching its weights.

    Args:
        source: what the workload names.
        folder: where relative folders are looked up.

    Raises:
        UserError: it is neither on the disk nor known nor to be had from the hub.
    """
    if not is_on_disk(source, folder) and source.path in known_models():
        known = known_configuration(source.path)
        return known if source.layers is None else cut_configuration(known, source.layers, source.path)
    return read_config(source, locate(source, folder))


def known_configuration(name: str) -> PretrainedConfig:
    """Return the configuration of a hub model of known.yaml.

    Raises:
        KeyError: there is none of this name.
    """
    from transformers import AutoConfig

    fields = dict(known_models()[name]["config"])
    config: PretrainedConfig = AutoConfig.for_model(fields.pop("model_type"), **fields)
    return config


def shape_model(
    source: ModelSource, folder: Path, *, dtype: torch.dtype = torch.float32, lora: Lora | None = None
) -> PreTrainedModel:
    """Build a model of fake tensors, with adapters if it has any: shapes without storage, for counting at any scale.

    Raises:
        UserError: its shape cannot be had, or its adapters are for layers that it does not have.
        UnknownNameError: an adapter's target names no layer; suggests the nearest.
    """
    from transformers import AutoModelForCausalLM

    with FakeTensorMode():
        config = configuration(source, folder)
        if lora is not None:
            return shape_adapted(config, lora, dtype=dtype, trust_remote_code=source.trust_remote_code)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=source.trust_remote_code
        )
    return model


def num_layers(source: ModelSource, folder: Path) -> int:
    """Return how many layers a model has."""
    return int(outline(source, folder).num_hidden_layers)


def is_on_disk(source: ModelSource, folder: Path) -> bool:
    """Whether a model's configuration is in a local folder or in the hub's cache."""
    if (folder / Path(source.path).expanduser()).is_dir():
        return True
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(source.path, revision=source.revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return False
    return (Path(found) / "config.json").exists()


@cache
def known_models() -> dict[str, dict[str, Any]]:
    """Return what known.yaml says of each model."""
    return dict(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
