"""The `prepass` cache: the score of every training sequence under the frozen student, one small file per signal."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.config.errors import UserError
from harness.records.files import checksum, written
from harness.records.layout import Results

# S = training sequences


@dataclass(frozen=True, kw_only=True)
class Prepass:
    """A finished prepass.

    Attributes:
        path: its folder.
        scores: mean of the signal over each sequence's valid positions, float64, in the signal's unit; 0 for a
            sequence without any.
        num_positions: valid positions of all sequences: the rows each head that the signal reads was applied to.
        num_bytes: size of the scores on disk.
        build_s: seconds that scoring took.
    """

    path: Path
    scores: Float[Tensor, " S"]
    num_positions: int
    num_bytes: int
    build_s: float


def open_prepass(folder: Path, key: str) -> Prepass | None:
    """Read a finished prepass, None if there is none.

    Raises:
        UserError: a file is not what was written, to the byte; names it.
    """
    path = folder / f"prepass-{key}"
    if not (path / "meta.json").exists() and not Results.at(folder.parent).fetch(path):
        return None
    meta = _read_meta(path)
    stored = (path / "scores.npy").read_bytes() if (path / "scores.npy").exists() else b""
    if hashlib.sha256(stored).hexdigest() != meta["sha256"]:
        raise _damaged(path, "scores.npy")
    return Prepass(
        path=path,
        scores=torch.from_numpy(np.load(path / "scores.npy", allow_pickle=False)),
        num_positions=int(meta["num_positions"]),
        num_bytes=len(stored),
        build_s=float(meta["build_s"]),
    )


def store_prepass(
    folder: Path, key: str, scores: Float[Tensor, " S"], *, num_positions: int, build_s: float, about: dict[str, Any]
) -> Prepass:
    """Write a prepass into a folder that appears whole or not at all.

    Args:
        folder: where caches live.
        key: hash of all that the scores depend on.
        scores: float64, one per training sequence.
        num_positions: valid positions scored.
        build_s: seconds that scoring took.
        about: what the key stands for, for a person who looks into the folder.
    """
    path = folder / f"prepass-{key}"
    if path.exists() and not (path / "meta.json").exists():
        shutil.rmtree(path, ignore_errors=True)
    with written(path, first_stays=True) as partial:
        partial.mkdir()
        np.save(partial / "scores.npy", scores.numpy(), allow_pickle=False)
        meta = {
            **about,
            "num_sequences": len(scores),
            "num_positions": num_positions,
            "build_s": build_s,
            "sha256": checksum(partial / "scores.npy"),
        }
        (partial / "meta.json").write_text(_render(meta) + "\n", encoding="utf-8")
    Results.at(folder.parent).offer(path)
    finished = open_prepass(folder, key)
    assert finished is not None
    return finished


def _render(meta: dict[str, Any]) -> str:
    """Return the description with a checksum of itself, in the one form that reading accepts."""
    payload = {name: value for name, value in meta.items() if name != "meta_sha256"}
    digest = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
    return json.dumps({**payload, "meta_sha256": digest}, sort_keys=True, indent=1)


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        text = (path / "meta.json").read_text(encoding="utf-8")
        meta = json.loads(text)
    except ValueError:
        raise _damaged(path, "meta.json") from None
    # Comparing the text, not its parts, leaves no byte unchecked.
    if not isinstance(meta, dict) or text != _render(meta) + "\n":
        raise _damaged(path, "meta.json")
    return meta


def _damaged(path: Path, name: str) -> UserError:
    return UserError(f"cache file {path / name} is damaged: its checksum differs; remove {path} and run again")
