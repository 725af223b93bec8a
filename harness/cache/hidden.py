"""The `hidden` cache: the teacher's final hidden states; every signal and criterion stays exact without a teacher.

Costs hidden_size numbers per token; the head, stored beside them, is applied on demand to the rows a strategy needs.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.data.tokens import Batch, Tokens
from harness.errors import UserError
from harness.models import DTYPES, Head
from harness.results import write_json

# S = sequences, B = sequences of a batch, L = positions, D = the teacher's hidden size

# numpy has no bfloat16: its bits are stored as uint16.
_STORED = {torch.float32: np.float32, torch.float64: np.float64, torch.bfloat16: np.uint16}

Trunk = Callable[[Batch], Float[Tensor, "B L D"]]


@dataclass(frozen=True, kw_only=True)
class HiddenCache:
    """A finished cache, memory-mapped; any number of processes may read it.

    Attributes:
        path: its folder.
        states: hidden states of every sequence.
        dtype: the teacher's dtype.
        head: the teacher's head.
        num_bytes: size on disk, head included.
        build_s: seconds that building took.
    """

    path: Path
    states: npt.NDArray[np.generic]
    dtype: torch.dtype
    head: Head
    num_bytes: int
    build_s: float

    def hidden(self, batch: Batch) -> Float[Tensor, "B L D"]:
        """Return the teacher's hidden states of a batch, on the batch's device."""
        rows = torch.from_numpy(np.ascontiguousarray(self.states[batch.index.numpy()]))
        return rows.view(self.dtype).to(batch.input_ids.device)


def cache_key(tokens: Tokens, teacher: str, dtype: str) -> str:
    """Return the name of the cache of one teacher over one data set.

    Args:
        tokens: the data set.
        teacher: the teacher's fingerprint.
        dtype: name of the dtype it computes in.
    """
    return hashlib.sha256(f"{tokens.key}/{teacher}/{dtype}".encode()).hexdigest()[:16]


def open_hidden(folder: Path, key: str) -> HiddenCache | None:
    """Map a finished cache, None if there is none.

    Raises:
        UserError: its files are not what its own description says; names the file.
    """
    path = folder / f"hidden-{key}"
    if not (path / "meta.json").exists():
        return None
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"cache file {path / 'meta.json'} is damaged: remove {path} and run again") from None
    for name, size in meta["bytes"].items():
        found = (path / name).stat().st_size if (path / name).exists() else 0
        if found != size:
            raise UserError(
                f"cache file {path / name} has {found} bytes instead of {size}: remove {path} and run again"
            )
    return HiddenCache(
        path=path,
        states=np.load(path / "states.npy", mmap_mode="r", allow_pickle=False),
        dtype=DTYPES[meta["dtype"]],
        head=Head(weight=load_file(path / "head.safetensors")["weight"]),
        num_bytes=sum(meta["bytes"].values()),
        build_s=float(meta["build_s"]),
    )


def build_hidden(
    folder: Path,
    key: str,
    tokens: Tokens,
    trunk: Trunk,
    head: Head,
    *,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> HiddenCache:
    """Run the teacher once over a data set and store what it computed; the folder appears whole or not at all.

    Args:
        folder: where caches live.
        key: see `cache_key`.
        tokens: the data set.
        trunk: the teacher without its head.
        head: the teacher's head.
        batch_size: sequences per forward pass. The same as in training makes cached and online runs bit-identical on a
            CPU; matrix products of another shape may round differently.
        on_progress: called with sequences done and in all.
    """
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    dtype = head.weight.dtype
    partial = Path(tempfile.mkdtemp(prefix=f".hidden-{key}-", dir=folder))
    try:
        shape = (*tokens.ids.shape, head.weight.shape[1])
        states = np.lib.format.open_memmap(partial / "states.npy", mode="w+", dtype=_STORED[dtype], shape=shape)
        with torch.no_grad():
            for start in range(0, len(tokens), batch_size):
                index = torch.arange(start, min(start + batch_size, len(tokens)))
                hidden = trunk(tokens.batch(index)).to(dtype).cpu()
                states[start : start + len(index)] = (
                    hidden.view(torch.uint16) if dtype == torch.bfloat16 else hidden
                ).numpy()
                if on_progress is not None:
                    on_progress(start + len(index), len(tokens))
        states.flush()
        del states
        save_file({"weight": head.weight.detach().contiguous().cpu()}, partial / "head.safetensors")
        for name in ("states.npy", "head.safetensors"):
            descriptor = os.open(partial / name, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        meta = {
            "dtype": next(name for name, known in DTYPES.items() if known == dtype),
            "bytes": {name: (partial / name).stat().st_size for name in ("states.npy", "head.safetensors")},
            "num_tokens": int(np.prod(tokens.ids.shape)),
            "build_s": time.perf_counter() - started,
        }
        write_json(partial / "meta.json", json.dumps(meta, indent=1))
    except BaseException:
        shutil.rmtree(partial)
        raise
    if not (folder / f"hidden-{key}" / "meta.json").exists():
        shutil.rmtree(folder / f"hidden-{key}", ignore_errors=True)
    try:
        partial.rename(folder / f"hidden-{key}")
    except OSError:
        # Another process finished first: keep its cache, the key says that it holds the same.
        shutil.rmtree(partial)
    finished = open_hidden(folder, key)
    assert finished is not None
    return finished
