"""Low-rank adapters of the student (LoRA, arXiv:2106.09685), through peft: a few weights are trained instead of all."""

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.utils._python_dispatch import _disable_current_modes

from harness.config import Lora
from harness.config.annotations import PretrainedConfig, PreTrainedModel
from harness.config.errors import UserError, unknown

# The seed's purpose, see `harness.config.seeds.derive`.
PURPOSE = "lora"


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A model with adapters in its linear layers.

    Attributes:
        model: the model itself; its own weights are frozen, but for the head where that is trained.
        peft: peft's view of it.
    """

    model: PreTrainedModel
    peft: Any

    def merge(self) -> PreTrainedModel:
        """Add the adapters to the weights they belong to, and return the plain model; rounded to the weights' dtype."""
        merged: PreTrainedModel = self.peft.merge_and_unload()
        return merged.requires_grad_(False)


def require_peft() -> Any:
    """Return the library.

    Raises:
        UserError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module("peft")
    except ImportError:
        raise UserError("a workload with `lora` needs peft: pip install 'selective-kd-harness[lora]'") from None


def adapt(model: PreTrainedModel, lora: Lora, *, seed: int) -> Adapted:
    """Freeze a model and give its linear layers adapters, which change nothing before they are trained.

    Args:
        model: changed in place. Its head stays one matrix: frozen, or trained in full where `lora.head` says so, and
            with it the embeddings where both are the same matrix.
        lora: size and places of the adapters.
        seed: of their first matrices; the second ones are zero.

    Raises:
        UserError: peft is not installed, or a target is not a linear layer of the model's trunk.
    """
    peft = require_peft()
    names = targets_of(model, lora)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # peft asks transformers for things by their former names.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        settings = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names, bias="none")
        adapted = peft.get_peft_model(model, settings)
    if lora.head:
        model.get_output_embeddings().weight.requires_grad_(True)
    return Adapted(model=model, peft=adapted.eval())


def targets_of(model: PreTrainedModel, lora: Lora) -> list[str]:
    """Return the full names of the layers that get adapters.

    Raises:
        UserError: a target names the head.
        UnknownNameError: a target names no linear layer of the trunk; suggests the nearest.
    """
    head = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    trunk = [name for name, module in linear.items() if module is not head]
    if lora.targets == "all-linear":
        return trunk
    short = {name.rpartition(".")[2] for name in trunk}
    for target in lora.targets:
        if any(module is head and name.rpartition(".")[2] == target for name, module in linear.items()):
            raise UserError(
                f"lora.targets names {target!r}, the head: losses are computed with its one matrix, so it takes no "
                "adapter; leave it out, or set lora.head to train the matrix in full"
            )
        if target not in short:
            raise unknown("lora target", target, short)
    return [name for name in trunk if name.rpartition(".")[2] in lora.targets]


def shape_adapted(config: PretrainedConfig, lora: Lora, *, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """Build a model with adapters as shapes without storage; to be called inside a fake mode.

    peft moves what it makes, and fake tensors cannot be moved: it works on the meta device, and the mode's own tensors
    take the places of what it made.
    """
    from transformers import AutoModelForCausalLM

    fake = detect_fake_mode()
    assert fake is not None, "there are no shapes outside a fake mode"
    with _disable_current_modes(), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, **options)
        adapt(model, lora, seed=0)
    made: dict[int, Tensor] = {}
    places: list[dict[str, Any]] = [
        tensors for module in model.modules() for tensors in (module._parameters, module._buffers)
    ]
    for tensors in places:
        for name, tensor in tensors.items():
            if tensor is not None:
                made.setdefault(id(tensor), _without_storage(tensor))  # tied ones once
                tensors[name] = made[id(tensor)]
    model.eval()
    return model


def _without_storage(tensor: Tensor) -> Tensor:
    shape = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    return torch.nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else shape
