"""What a checkpoint is made of: whatever gives its state as a tree of plain values and tensors, and takes it back.

A tree is taken apart into JSON and named tensors, and put together again. Nothing else is allowed in a state, so that
reading one can never run code, as unpickling could.
"""

import importlib
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from harness.config.errors import UserError

# Lists stand for themselves in JSON; everything that JSON does not have is a mapping of one key.
_TENSOR, _TUPLE, _DICT, _FLOAT, _DTYPE, _COMPOSED = "tensor", "tuple", "dict", "float", "dtype", "composed"
# Tensors made of other tensors, by class, and where from: named here, so that no file chooses what is imported.
_COMPOSED_OF = {"OptimState8bit": "torchao.optim.subclass_8bit"}


class Late(ABC):
    """A tensor as a leaf that is read only where its numbers are needed."""

    @abstractmethod
    def read(self) -> Tensor:
        """Return the tensor, on the CPU, in memory of its own."""


def take_apart(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split a tree into JSON and tensors, bit for bit.

    Args:
        tree: None, bool, int, float, str, dtypes, tensors (torchao's states of 8 bits among them), and lists, tuples
            and dicts of these, keyed by text or whole numbers.

    Returns:
        The tree as JSON, in which each tensor is a reference, and the tensors by reference, on the CPU.

    Raises:
        TypeError: something else is in it; names the place.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(tree, tensors, "state"), tensors


def check_tree(tree: Any, place: str) -> None:
    """Refuse a tree, called `place`, that could not be taken apart, without copying its tensors.

    Raises:
        TypeError: something in it cannot be kept; names the place.
    """
    _encode(tree, None, place)


def branches(payload: Any) -> dict[str, Any]:
    """Return the branches of a tree that is a dict, each still as JSON."""
    return dict(payload[_DICT])


def put_together(payload: Any, tensors: Mapping[str, Tensor], device: torch.device | str) -> Any:
    """Undo `take_apart`."""
    if isinstance(payload, list):
        return [put_together(item, tensors, device) for item in payload]
    if not isinstance(payload, dict):
        return payload
    ((kind, inner),) = payload.items()
    if kind == _TENSOR:
        return tensors[inner].to(device)
    if kind == _FLOAT:
        return float(inner)
    if kind == _DTYPE:
        return getattr(torch, inner)
    if kind == _COMPOSED:
        name, parts, context = inner
        composed = getattr(importlib.import_module(_COMPOSED_OF[name]), name)
        parts, context = (put_together(each, tensors, device) for each in (parts, context))
        return composed.__tensor_unflatten__(parts, context, None, None)
    if kind == _TUPLE:
        return tuple(put_together(item, tensors, device) for item in inner)
    assert kind == _DICT, "written by this module and sealed"
    return {key: put_together(item, tensors, device) for key, item in inner}


def _encode(tree: Any, tensors: dict[str, Tensor] | None, place: str) -> Any:
    # Exact types: a subclass of str or int (numpy has one of float) would come back as another type than it went.
    if tree is None or type(tree) in (bool, int, str):
        return tree
    if type(tree) is float:
        return tree if math.isfinite(tree) else {_FLOAT: repr(tree)}
    if type(tree) in (Tensor, torch.nn.Parameter) or isinstance(tree, Late):
        name = f"{len(tensors or ()):05d}"
        if tensors is None:
            return {_TENSOR: name}
        # A copy: two tensors of a tree may share memory, and one that training goes on with must not be written to.
        read = tree.read() if isinstance(tree, Late) else tree.detach().to("cpu", copy=True)
        tensors[name] = read.contiguous()
        return {_TENSOR: name}
    if type(tree) is torch.dtype:
        return {_DTYPE: str(tree).removeprefix("torch.")}
    if _COMPOSED_OF.get(type(tree).__name__) == type(tree).__module__:
        names, context = tree.__tensor_flatten__()
        parts = {name: getattr(tree, name) for name in names}
        return {_COMPOSED: [type(tree).__name__, *(_encode(each, tensors, place) for each in (parts, context))]}
    if type(tree) in (list, tuple):
        items = [_encode(item, tensors, f"{place}[{number}]") for number, item in enumerate(tree)]
        return items if type(tree) is list else {_TUPLE: items}
    if isinstance(tree, Mapping) and all(type(key) in (str, int) for key in tree):
        return {_DICT: [[key, _encode(item, tensors, f"{place}[{key!r}]")] for key, item in tree.items()]}
    raise TypeError(
        f"{place} is a {type(tree).__name__}, which a checkpoint cannot hold: a state is made of None, numbers, text, "
        "tensors, and lists, tuples and dicts of these"
    )


class StaleError(UserError):
    """A checkpoint was made under other conditions: going on from it would mix two versions of the last bits."""


@runtime_checkable
class Resumable(Protocol):
    """Something whose state goes into a checkpoint; an optimiser is one."""

    def state_dict(self) -> Any:
        """Return the state: a tree that `take_apart` takes."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take a state that `state_dict` returned."""


@runtime_checkable
class Saver(Protocol):
    """Saves training, and brings it back."""

    def restore(self, parts: Mapping[str, Resumable]) -> None:
        """Bring these parts to where the last checkpoint was, and save them from now on."""

    def after(self, step: int, num_steps: int) -> None:
        """Be told that a step is done; may save, and may stop training by an exception."""


class Generators:
    """The process's random generators as a part of a checkpoint, for what draws from them: dropout, a plug-in."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the generators' states."""
        kind, keys, *rest = np.random.get_state(legacy=True)
        return {
            "python": random.getstate(),
            "numpy": (str(kind), np.asarray(keys).tolist(), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the generators back."""
        kind, keys, *rest = state_dict["numpy"]
        random.setstate(state_dict["python"])
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(state_dict["torch"].cpu())
        if state_dict["cuda"] is not None:
            torch.cuda.set_rng_state(state_dict["cuda"].cpu(), self._device)
