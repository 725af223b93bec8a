"""What a checkpoint is made of: anything that gives its state and takes it back."""

import random
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from harness.config.errors import UserError
from harness.distill.shards import Shared, fill
from harness.distill.tree import Late


class StaleError(UserError):
    """A checkpoint was made under other conditions: going on from it would mix two versions of the last bits."""


@runtime_checkable
class Resumable(Protocol):
    """Something whose state goes into a checkpoint; an optimiser is one."""

    def state_dict(self) -> Any:
        """Return the state: a tree as in `harness.distill.tree`."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take a state that `state_dict` returned."""


@runtime_checkable
class Saver(Protocol):
    """Saves training, and brings it back."""

    def restore(self, parts: Mapping[str, Resumable]) -> None:
        """Bring these parts to where the last checkpoint was, and save them from now on."""

    def after(self, step: int, num_steps: int) -> None:
        """Be told that a step is done; may save, and may stop training by an exception."""


class Weights:
    """A model's trained parameters and its buffers as a part of a checkpoint; tied ones once, frozen ones never."""

    def __init__(self, model: torch.nn.Module) -> None:
        trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._tensors: dict[str, torch.Tensor] = {**trained, **dict(model.named_buffers())}

    def state_dict(self) -> dict[str, torch.Tensor | Late]:
        """Return the tensors by name; of a sharded model, put together where they are read."""
        return {name: Shared(each) if isinstance(each, DTensor) else each for name, each in self._tensors.items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Write the tensors into the model, in place."""
        if {name: saved.shape for name, saved in state_dict.items()} != {n: t.shape for n, t in self._tensors.items()}:
            raise StaleError("the checkpoint's tensors are of another model")
        for name, saved in state_dict.items():
            fill(self._tensors[name], saved)


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
