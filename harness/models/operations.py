"""Operations of one sequence through a model, by arithmetic or counted by torch on its shapes; matrix products only."""

import functools
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from harness.config import Lora, ModelSource
from harness.config.annotations import PretrainedConfig, PreTrainedModel
from harness.models.head import trunk
from harness.models.shapes import Outline, outline, shape_model


def _in_place_product(_: Any, left: Any, right: Any, **__: Any) -> int:
    return int(2 * left[0] * left[1] * right[1])


def _attention_on_cpu(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_on_cpu_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def flop_counter() -> FlopCounterMode:
    """Return torch's counter of matrix products, taught the two that it does not know.

    Without them the attention of a CPU would cost nothing and that of a GPU something, and a product added in place
    would be free.
    """
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten.addmm_: _in_place_product,
            aten._scaled_dot_product_flash_attention_for_cpu: _attention_on_cpu,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_on_cpu_backward,
        },
    )


def count_trunk_flops(model: PreTrainedModel, sequence_length: int) -> float:
    """Count the floating-point operations of one sequence's forward pass through a trunk, matrix products only.

    Works on a model of fake tensors as on a real one.
    """
    parameter = next(model.parameters())
    shapes_only = parameter.fake_mode if isinstance(parameter, FakeTensor) else nullcontext()
    with torch.no_grad(), shapes_only, flop_counter() as counter:
        trunk(model, torch.zeros((1, sequence_length), dtype=torch.long, device=model.device))
    return float(counter.get_total_flops())


def trunk_flops(sizes: Outline | PretrainedConfig, *, length: int) -> int:
    """Return the operations of one sequence's forward pass through the trunk of a plain type, by arithmetic."""
    inner, shared = (heads * sizes.head_dim for heads in (sizes.num_attention_heads, sizes.num_key_value_heads))
    weights = sizes.hidden_size * (2 * inner + 2 * shared + 3 * sizes.intermediate_size)
    # Two products of queries and keys, and of scores and values: 2 * length^2 * inner operations each.
    return int(sizes.num_hidden_layers * (2 * length * weights + 4 * length * length * inner))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What pricing needs to know of a model.

    Attributes:
        trunk_flops: operations of one sequence's forward pass through the trunk.
        hidden_size: columns of the head.
        backward_flops: of its backward pass; one product for the input's gradient and one for the weight's if None.
        head_trained: whether the head's own gradient is computed.
    """

    trunk_flops: float
    hidden_size: int
    backward_flops: float | None = None
    head_trained: bool = True


@functools.cache
def shape_of(source: ModelSource, folder: Path, sequence_length: int, lora: Lora | None = None) -> Shape:
    """Count a model by its configuration alone; a grid asks for the same few models thousands of times."""
    sizes = outline(source, folder)
    if lora is None and isinstance(sizes, Outline):
        return Shape(trunk_flops=float(trunk_flops(sizes, length=sequence_length)), hidden_size=sizes.hidden_size)
    model = shape_model(source, folder, lora=lora)
    forward = count_trunk_flops(model, sequence_length)
    return Shape(
        trunk_flops=forward,
        backward_flops=None if lora is None else _count_backward_flops(model, sequence_length),
        hidden_size=int(model.config.hidden_size),
        head_trained=lora is None or lora.head,
    )


def _count_backward_flops(model: PreTrainedModel, sequence_length: int) -> float:
    """Count one sequence's backward pass through a trunk of fake tensors, down to the weights that are trained.

    A fused backward pass of attention computes the scores anew, which is not counted anywhere.
    """
    model.set_attn_implementation("eager")
    trained = [parameter for parameter in model.base_model.parameters() if parameter.requires_grad]
    fake = trained[0]
    assert isinstance(fake, FakeTensor)
    with fake.fake_mode, flop_counter() as counter:
        hidden = trunk(model, torch.zeros((1, sequence_length), dtype=torch.long, device=model.device))
        forward = counter.get_total_flops()
        torch.autograd.grad(hidden, trained, torch.ones_like(hidden), allow_unused=True)
    return float(counter.get_total_flops() - forward)
