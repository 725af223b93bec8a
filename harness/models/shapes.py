"""Shapes of models without their weights: from files that are on the disk, from what is known, from the hub last."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from harness.config import Lora, ModelSource
from harness.models.load import load_tokenizer, locate, read_config
from harness.models.lora import shape_adapted

_FILE = Path(__file__).with_name("known.yaml")


def configuration(source: ModelSource, folder: Path) -> PretrainedConfig:
    """Return a model's configuration, without fetching its weights.

    Args:
        source: what the workload names.
        folder: where relative folders are looked up.

    Raises:
        UserError: it is neither on the disk nor known nor to be had from the hub.
    """
    if not _on_disk(source, folder) and source.path in _known():
        return known_configuration(source.path)
    return read_config(source, locate(source, folder))


@cache
def num_tokens(source: ModelSource, folder: Path) -> int:
    """Return how many tokens a model's tokenizer has; logit columns beyond are padding.

    Raises:
        UserError: the tokenizer is neither on the disk nor known nor to be had from the hub.
    """
    if not _on_disk(source, folder) and source.path in _known():
        return int(_known()[source.path]["num_tokens"])
    return len(load_tokenizer(source, folder))


def known_configuration(name: str) -> PretrainedConfig:
    """Return the configuration of a hub model of known.yaml.

    Raises:
        KeyError: there is none of this name.
    """
    fields = dict(_known()[name]["config"])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    assert isinstance(config, PretrainedConfig)
    return config


def shape_model(
    source: ModelSource, folder: Path, *, dtype: torch.dtype = torch.float32, lora: Lora | None = None
) -> PreTrainedModel:
    """Build a model of fake tensors, with adapters if it has any: shapes without storage, for counting at any scale.

    Raises:
        UserError: its shape cannot be had, or its adapters are for layers that it does not have.
        UnknownNameError: an adapter's target names no layer; suggests the nearest.
    """
    with FakeTensorMode():
        config = configuration(source, folder)
        if lora is not None:
            return shape_adapted(config, lora, dtype=dtype, trust_remote_code=source.trust_remote_code)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=source.trust_remote_code)
    assert isinstance(model, PreTrainedModel)
    return model


@cache
def num_layers(source: ModelSource, folder: Path) -> int:
    """Return how many layers a model has."""
    return int(configuration(source, folder).num_hidden_layers)


def _on_disk(source: ModelSource, folder: Path) -> bool:
    """Whether a model's configuration is in a local folder or in the hub's cache."""
    if (folder / Path(source.path).expanduser()).is_dir():
        return True
    try:
        found = snapshot_download(source.path, revision=source.revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return False
    return (Path(found) / "config.json").exists()


@cache
def _known() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
