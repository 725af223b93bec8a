"""Teachers and students of known shapes with random weights: what a step costs does not depend on the weights."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, Qwen3Config

from harness.config import Lora
from harness.config.errors import unknown
from harness.models import DTYPES
from harness.models.lora import adapt, shape_adapted
from harness.models.shapes import known_configuration

_FILE = Path(__file__).with_name("shapes.yaml")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A student and the shape of its teacher.

    Attributes:
        name: as in shapes.yaml.
        student: the student's configuration.
        teacher: the teacher's.
        dtype: of both models' weights and activations.
        num_tokens: tokens of the tokenizer, where it has fewer than there are rows of logits.
    """

    name: str
    student: PretrainedConfig
    teacher: PretrainedConfig
    dtype: torch.dtype
    num_tokens: int | None = None

    @property
    def vocab_size(self) -> int:
        """Classes of both."""
        return int(self.student.vocab_size) if self.num_tokens is None else self.num_tokens


def load_pair(name: str) -> Pair:
    """Return a pair of shapes.yaml.

    Raises:
        UnknownNameError: there is none of this name; suggests the nearest.
    """
    pairs = _shapes()["pairs"]
    if name not in pairs:
        raise unknown("pair of shapes", name, pairs)
    pair = pairs[name]
    return Pair(
        name=name,
        student=load_config(pair["student"]),
        teacher=load_config(pair["teacher"]),
        dtype=DTYPES[pair["dtype"]],
    )


def load_config(name: str) -> PretrainedConfig:
    """Return a model's configuration.

    Raises:
        UnknownNameError: there is none of this name; suggests the nearest.
    """
    models = _shapes()["models"]
    if name not in models:
        raise unknown("model shape", name, models)
    fields = models[name]
    return known_configuration(fields["hub"]) if "hub" in fields else Qwen3Config(**fields)


def build(
    config: PretrainedConfig, *, dtype: torch.dtype, device: str = "cpu", seed: int = 0, lora: Lora | None = None
) -> PreTrainedModel:
    """Build a model with random weights, or one of fake tensors inside `shapes_only`; with adapters where asked."""
    if lora is not None and detect_fake_mode() is not None:
        return shape_adapted(config, lora, dtype=dtype)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    assert isinstance(model, PreTrainedModel)
    model.eval()
    return model if lora is None else adapt(model, lora, seed=seed).model


def shapes_only(*, fake: bool) -> AbstractContextManager[object]:
    """Return what makes every tensor made in its block a shape without storage, if asked."""
    return FakeTensorMode() if fake else nullcontext()


@cache
def _shapes() -> dict[str, Any]:
    return dict(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
