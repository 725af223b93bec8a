"""What a trial takes on the machine: seconds by phase, peak memory by device."""

import ctypes
import resource
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.models.devices import release_memory

_GIB = 1 << 30


@dataclass(kw_only=True)
class Clock:
    """Seconds spent by phase; a phase entered twice adds up, one inside another counts for itself alone.

    Attributes:
        wall_s: seconds by phase's name.
        cpu_s: processor seconds of the process, all its threads together.
        thread_s: processor seconds of the thread that enters and leaves the phases.
        device: a GPU is waited for at the phase's end, so that its work counts where it was asked for.
    """

    device: str
    wall_s: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    thread_s: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _since: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Return the seconds so far, of phases that are not over too."""
        self._book()
        return {"wall_s": dict(self.wall_s), "cpu_s": dict(self.cpu_s), "thread_s": dict(self.thread_s)}

    def load_state_dict(self, state_dict: dict[str, dict[str, float]]) -> None:
        """Add the seconds of an earlier attempt: what was spent twice counts twice."""
        for kind, phases in state_dict.items():
            spent = getattr(self, kind)
            for name, seconds in phases.items():
                spent[name] = spent.get(name, 0.0) + seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block, also when it raises."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def _book(self) -> None:
        """Charge the time since the last call to the innermost phase."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        now = time.perf_counter(), time.process_time(), time.thread_time()
        if self._open:
            for spent, end, start in zip((self.wall_s, self.cpu_s, self.thread_s), now, self._since, strict=True):
                spent[self._open[-1]] = spent.get(self._open[-1], 0.0) + end - start
        self._since = now


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that come to life inside it, and the most that were alive at once.

    Unlike a process's resident set this does not depend on the allocator, on what else the process did, or on the
    machine: the same step gives the same number. Tensors that existed before (weights, optimiser state) do not count.

    Attributes:
        peak: the largest sum of live bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._paused = False
        self._live = 0
        self._known: set[int] = set()

    def state_dict(self) -> dict[str, int]:
        """Return the peak: a trial that goes on has its first step behind it."""
        return {"peak": self.peak}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take the peak of an earlier attempt."""
        self.peak = state_dict["peak"]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the storages that are new in what it returns."""
        if self._paused:
            return func(*args, **(kwargs or {}))
        known = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            storage = tensor.untyped_storage()
            # An operation in place, or a view, returns a storage that was there already.
            if storage._cdata not in known and storage._cdata not in self._known:
                self._add(storage)
        return result

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what comes to life in a block."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """Return the tensors among an operation's arguments or results, in order; asked for every operation of a step."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [tensor for branch in tree for tensor in tensors_in(branch)]


def reset_peak(device: str) -> None:
    """Forget the peak so far, so that a warm worker does not report an earlier trial's."""
    # What earlier trials left in reference cycles, and what the allocators keep of it, is not this trial's.
    release_memory()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    clear = Path("/proc/self/clear_refs")
    if sys.platform == "linux" and clear.exists():
        try:
            clear.write_text("5")
        except PermissionError:
            # A container may forbid it; the peak is then that of the worker's whole life, an upper bound.
            return


def peak_gib(device: str) -> dict[str, float]:
    """Return peak memory since `reset_peak`, GiB: of the worker process (resident set) and of the GPU (allocated)."""
    peaks = {"process": _peak_resident_bytes() / _GIB}
    if device.startswith("cuda"):
        peaks["cuda"] = torch.cuda.max_memory_allocated(device) / _GIB
    return peaks


def _peak_resident_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
