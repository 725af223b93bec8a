"""A student whose training is too large for one device, shared out among the processes that train it.

Its layers are sharded by FSDP2 (arXiv:2304.11277): each process keeps its rows of every weight, and a layer is whole
only while it computes. Weights outside the layers (embeddings, last norm, head) are whole in every process, because the
chunked loss reads and differentiates the head as one matrix. The optimiser's state, float32 copies included, is shared
out for all weights alike (arXiv:1910.02054): each process steps its own rows, and those of what is whole are handed
round.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

from harness.config.annotations import PreTrainedModel
from harness.distill.group import Group
from harness.distill.state import Late, StaleError
from harness.models import layers_of

if TYPE_CHECKING:  # half a second of imports, for nothing where no student is shared out
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


def shard(model: PreTrainedModel) -> None:
    """Share a model's layers out among the processes of the group that this one has joined, in place.

    It is the same in every process, and on the device where it stays. Gradients become sums over the processes, summed
    in float32 at least, and are not divided.

    Raises:
        UserError: it does not say what its layers are.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    layers = layers_of(model)
    wide = torch.promote_types(model.dtype, torch.float32)
    settings: dict[str, Any] = {
        "mesh": _mesh(model.device),
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=None if wide == model.dtype else wide),
    }
    for layer in layers:
        fully_shard(layer, reshard_after_forward=True, **settings)
    within = {id(parameter) for layer in layers for parameter in layer.parameters()}
    outside = {parameter for parameter in model.base_model.parameters() if id(parameter) not in within}
    # The trunk has no shards of its own; it lets one layer be fetched while another computes.
    fully_shard(model.base_model, ignored_params=outside, **settings)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def own(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor: its rows of one that is shared out, all of any other."""
    return _local(tensor) if _shared(tensor) else tensor


def fill(tensor: Tensor, whole: Tensor) -> None:
    """Write this process's rows of a whole tensor into one that is shared out, or all of it into any other."""
    if _shared(tensor):
        whole = _rows(whole, tensor.device_mesh.get_local_rank(), tensor.device_mesh.size())
    own(tensor).copy_(whole)


@torch.no_grad()
def assemble(model: PreTrainedModel, make: Callable[[], PreTrainedModel], group: Group) -> PreTrainedModel:
    """Return, in the first process, what `make` makes with a sharded model's weights, and that model in all others."""
    plain = make() if group.rank == 0 else None
    into = {} if plain is None else dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        whole = _whole(parameter) if _shared(parameter) else parameter
        if plain is not None:
            into[name].copy_(whole)
    return plain if plain is not None else model


@torch.no_grad()
def clip(parameters: Sequence[torch.nn.Parameter], max_norm: float, group: Group) -> Tensor:
    """Scale gradients, shared out or not, to a common norm, as `torch.nn.utils.clip_grad_norm_`; return theirs."""
    if not group.sharded:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = _squares([own(grad) for grad in grads if _shared(grad)])
    dist.all_reduce(squares)
    norm = (squares + _squares([grad for grad in grads if not _shared(grad)])).sqrt()
    torch._foreach_mul_([own(grad) for grad in grads], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _squares(tensors: list[Tensor]) -> Tensor:
    norms = torch._foreach_norm(tensors)
    return torch.stack([norm.to(torch.promote_types(norm.dtype, torch.float32)) for norm in norms]).square().sum()


class ShardedOptimiser:
    """An optimiser of which each process has the state of its own rows of every parameter, and steps those."""

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        make: Callable[[Sequence[torch.nn.Parameter]], Any],
        group: Group,
    ) -> None:
        """Cut the rows of what is whole, and let `make` make the optimiser of this process's."""
        self._parameters, self._group = list(parameters), group
        self._rows = [torch.nn.Parameter(self._cut(each)) for each in self._parameters]
        self._inner = make(self._rows)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of settings, as every optimiser has them."""
        groups: list[dict[str, Any]] = self._inner.param_groups
        return groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for each in (*self._parameters, *self._rows):
            each.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step, and forget the gradients; afterwards what is whole is the same in every process again."""
        for parameter, rows in zip(self._parameters, self._rows, strict=True):
            rows.grad = None if parameter.grad is None else self._cut(parameter.grad)
            parameter.grad = None
        self._inner.step()
        self.zero_grad()
        for parameter in self._parameters:
            if not _shared(parameter):
                for rank in range(self._group.size):
                    dist.broadcast(_rows(parameter.detach(), rank, self._group.size), src=rank)

    def state_dict(self) -> Any:
        """Return the state as one process would have it; what is shared out is put together where it is read."""
        return self._changed(self._inner.state_dict(), self._late)

    def load_state_dict(self, state_dict: Any) -> None:
        """Take this process's rows of a state."""
        self._inner.load_state_dict(self._changed(state_dict, self._cut))

    def _changed(self, state: Any, change: Callable[..., Any]) -> Any:
        """Change what a state has for each row of its parameter."""
        if "masters" in state:
            masters = [change(each, like) for each, like in zip(state["masters"], self._parameters, strict=True)]
            return {"masters": masters, "optimiser": self._changed(state["optimiser"], change)}

        def entry(values: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
            # Counts have no rows.
            by_row = {name for name, value in values.items() if isinstance(value, Tensor) and value.dim()}
            return {name: change(each, like) if name in by_row else each for name, each in values.items()}

        states: dict[int, Mapping[str, Any]] = state["state"]
        return {**state, "state": {number: entry(each, self._parameters[number]) for number, each in states.items()}}

    def _cut(self, whole: Tensor, _: Tensor | None = None) -> Tensor:
        """Return this process's rows of a tensor, in the same memory."""
        if _shared(whole):
            return own(whole)
        return _rows(whole.detach(), self._group.rank, self._group.size)

    def _late(self, rows: Tensor, parameter: Tensor) -> Late:
        from torch.distributed.tensor import DTensor, Shard

        mesh = _mesh(parameter.device)
        shape, stride = parameter.shape, parameter.stride()
        return Shared(DTensor.from_local(rows.detach(), mesh, (Shard(0),), run_check=False, shape=shape, stride=stride))


@dataclass(frozen=True)
class Shared(Late):
    """A tensor that is shared out, as a leaf of a state; every process reads it, and the first one gets it."""

    tensor: "DTensor"

    def read(self) -> Tensor:
        """Put it together, on the CPU; an empty one in all processes but the first, which alone writes."""
        whole = _whole(self.tensor)
        return whole.cpu() if dist.get_rank() == 0 else whole.new_empty(0, device="cpu")


class Weights:
    """A model's trained parameters and its buffers as a part of a checkpoint; tied ones once, frozen ones never."""

    def __init__(self, model: torch.nn.Module) -> None:
        trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._tensors: dict[str, Tensor] = {**trained, **dict(model.named_buffers())}

    def state_dict(self) -> dict[str, Tensor | Late]:
        """Return the tensors by name; of a sharded model, put together where they are read."""
        return {name: Shared(each) if _shared(each) else each for name, each in self._tensors.items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Write the tensors into the model, in place."""
        if {name: saved.shape for name, saved in state_dict.items()} != {n: t.shape for n, t in self._tensors.items()}:
            raise StaleError("the checkpoint's tensors are of another model")
        for name, saved in state_dict.items():
            fill(self._tensors[name], saved)


def _shared(tensor: Tensor) -> TypeGuard["DTensor"]:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _whole(tensor: "DTensor") -> Tensor:
    whole = tensor.full_tensor()
    assert isinstance(whole, Tensor)
    return whole.detach()


def _local(tensor: "DTensor") -> Tensor:
    rows = tensor.to_local()
    assert isinstance(rows, Tensor)
    return rows.detach()


def _rows(whole: Tensor, rank: int, size: int) -> Tensor:
    """Cut as `torch.chunk` does, and so FSDP: all blocks are of one size but the last ones, which may be empty."""
    num = -(-len(whole) // size)
    return whole[rank * num : (rank + 1) * num]


def _mesh(device: torch.device) -> "DeviceMesh":
    from torch.distributed.device_mesh import DeviceMesh

    group = dist.group.WORLD
    assert group is not None, "the processes have met"
    return DeviceMesh.from_group(group, device.type)
