"""Which instructions of a processor the libraries compute with, so that digits are the same on every machine.

torch, numpy and the BLAS libraries choose their kernels when they are imported, by what the processor can do, and sums
of AVX-512 are rounded otherwise than those of AVX2. Variables of the environment bound their choice, and are set here
when `harness` is imported; so this module imports none of them. What the user has set stands.

- pinned: AVX2 at most. Equal within a vendor: Intel's library (MKL) takes the branch it is told to on Intel's
  processors, and chooses for itself elsewhere.
- compatible: MKL on its oldest branch, equal for all vendors; matrix products take more than twice as long.
- native: whatever the processor can do.
"""

import logging
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from harness.config.errors import UserError, unknown

Arithmetic = Literal["pinned", "compatible", "native"]

KINDS: tuple[Arithmetic, ...] = get_args(Arithmetic)

# Says to every process that is started from here which kind is meant, and which variables the user did not set.
_MARK = "HARNESS_ARITHMETIC"

_VARIABLES = ("ATEN_CPU_CAPABILITY", "NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA")
_CPU_INFO = Path("/proc/cpuinfo")
# numpy's names for what is above AVX2 on x86; each release warns of names that it does not know.
_NUMPY = ("X86_V4", "AVX512_ICL", "AVX512_SPR")
_NUMPY_BEFORE_2_4 = (
    *("AVX512F", "AVX512CD", "AVX512_KNL", "AVX512_KNM", "AVX512_SKX", "AVX512_CLX", "AVX512_CNL", "AVX512_ICL"),
)
# What a processor must have for a value of ATEN_CPU_CAPABILITY; torch believes it, and ends at the first instruction
# that is missing.
_TORCH_NEEDS = {"avx512": {"avx512f", "avx512vl", "avx512bw", "avx512dq", "fma"}, "avx2": {"avx2", "fma"}}


@dataclass(frozen=True)
class Processor:
    """The processor of this machine.

    Attributes:
        name: vendor's name of it, with what tells it from its relatives.
        features: instructions by the kernel's names; empty where they are not known (no Linux, no x86).
    """

    name: str
    features: frozenset[str]


@cache
def processor() -> Processor:
    """Return what this machine computes with."""
    text = _CPU_INFO.read_text(encoding="utf-8", errors="replace") if _CPU_INFO.exists() else ""
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text.partition("\n\n")[0], flags=re.MULTILINE))
    name = fields.get("model name", platform.processor() or platform.machine())
    parts = [fields.get("vendor_id"), *(f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields)]
    more = ", ".join(part for part in parts if part)
    return Processor(f"{name} ({more})" if more else name, frozenset(fields.get("flags", "").split()))


def obstacle() -> str | None:
    """Tell why arithmetic cannot be pinned on this machine; None where it can."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"{platform.machine()} has no AVX2"
    if not processor().features >= _TORCH_NEEDS["avx2"]:
        return "no AVX2 is known of this processor"
    return None


def settings(kind: Arithmetic) -> dict[str, str]:
    """Return the variables of the environment that a kind takes; none where it cannot be had."""
    if kind == "native" or obstacle() is not None:
        return {}
    return {
        "ATEN_CPU_CAPABILITY": "avx2",
        "NPY_DISABLE_CPU_FEATURES": " ".join(_numpy_names()),
        "OPENBLAS_CORETYPE": "Haswell",
        "MKL_CBWR": "COMPATIBLE" if kind == "compatible" else "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }


def begin() -> None:
    """Pin the arithmetic of this process, unless the one that started it has said which it is to be."""
    if _MARK not in os.environ:
        set_arithmetic("pinned")


def set_arithmetic(kind: Arithmetic) -> None:
    """Set the arithmetic of this process and of those it starts; says in one line if it is too late for this one."""
    for name in _set_here():
        os.environ.pop(name, None)
    ours = {name: value for name, value in settings(kind).items() if name not in os.environ}
    os.environ.update(ours)
    os.environ[_MARK] = " ".join([kind, *ours])
    if late := missed():
        logging.getLogger("harness").warning(
            f"Arithmetic is not {kind} in this process: {' and '.join(late)}. "
            "What was imported before harness keeps its own."
        )


def check_arithmetic(kind: str, where: str) -> Arithmetic:
    """Return a kind of arithmetic that was asked for.

    Args:
        kind: its name.
        where: how to name what asks for it in an error.

    Raises:
        UnknownNameError: there is none of this name.
        UserError: this processor cannot do it.
    """
    if kind not in KINDS:
        raise unknown("arithmetic", kind, KINDS)
    reason = obstacle()
    if kind != "native" and reason is not None:
        raise UserError(f"{where} is {kind!r}, and {reason}: here it can only be native")
    return kind


def check_environment() -> None:
    """Refuse what the user has set for torch and this processor lacks.

    Raises:
        UserError: the variable, its value and what is lacking.
    """
    asked = os.environ.get("ATEN_CPU_CAPABILITY", "")
    lacking = sorted(_TORCH_NEEDS.get(asked, set()) - processor().features)
    if lacking:
        raise UserError(f"ATEN_CPU_CAPABILITY is {asked!r}, and this processor lacks {', '.join(lacking)}")


def environment() -> dict[str, str]:
    """Return the variables that give another process the arithmetic of this one."""
    return {name: os.environ[name] for name in (*_VARIABLES, _MARK) if name in os.environ}


def missed() -> list[str]:
    """List which imported libraries compute otherwise than the environment asks them to, by their own report."""
    wrong = []
    wanted, computes = _torch_wanted(), torch_capability()
    if None not in (wanted, computes) and wanted != computes:
        wrong.append(f"torch computes with {computes}, not {wanted}")
    features = _numpy_features()
    wide = next((name for name in ("X86_V4", "AVX512_SKX") if name in features), None)
    if wide is not None and processor().features:
        disabled = wide in os.environ.get("NPY_DISABLE_CPU_FEATURES", "").split()
        allowed = not disabled and processor().features >= _TORCH_NEEDS["avx512"]
        if features[wide] != allowed:
            wrong.append(f"numpy computes {'with' if features[wide] else 'without'} {wide}")
    return wrong


def conditions(device: str) -> dict[str, str]:
    """Return what the last digits of a number depend on besides versions and threads, as a record states it.

    Args:
        device: where it is computed, by torch's name.
    """
    stated = {"processor": processor().name, "arithmetic": described(device)}
    parts = {"torch_capability": torch_capability(), "numpy_capability": numpy_capability(), "blas": _blas()}
    return stated | {name: value for name, value in parts.items() if value}


def described(device: str = "cpu") -> str:
    """Describe the arithmetic of this process: its kind, and what of it does not hold."""
    kind = os.environ.get(_MARK, "native").split()[0]
    reason = obstacle()
    notes = [] if kind == "native" or reason is None else [reason]
    notes += [f"{name}={os.environ[name]} as set" for name in _VARIABLES if name in os.environ.keys() - _set_here()]
    notes += missed()
    notes += [] if device.startswith("cpu") else ["a GPU's is its own"]
    kind = "native" if reason is not None else kind
    return f"{kind} ({'; '.join(notes)})" if notes else kind


def torch_capability() -> str | None:
    """Return what torch says it computes with on a CPU; None where it is not imported."""
    torch = sys.modules.get("torch")
    return None if torch is None else str(torch.backends.cpu.get_cpu_capability())


def numpy_capability() -> str | None:
    """Return the largest set of instructions that numpy says it uses; None where it is not imported."""
    used = [name for name, on in _numpy_features().items() if on]
    return used[-1] if used else None


def _set_here() -> set[str]:
    """Return the variables that this project has set, here or in the process that started this one."""
    return set(os.environ.get(_MARK, "").split()[1:])


def _torch_wanted() -> str | None:
    """Return what torch should say it computes with; None where that is not known."""
    features = processor().features
    able = next((name for name, needed in _TORCH_NEEDS.items() if features >= needed), None)
    asked = os.environ.get("ATEN_CPU_CAPABILITY", able)
    return None if asked is None else asked.upper()


def _numpy_names() -> tuple[str, ...]:
    try:
        release = tuple(int(part) for part in version("numpy").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return _NUMPY
    return _NUMPY if release >= (2, 4) else _NUMPY_BEFORE_2_4


def _numpy_features() -> Mapping[str, bool]:
    """Return which of the instructions that numpy has kernels for it uses, the plainest first."""
    numpy = sys.modules.get("numpy")
    inner: Any = getattr(getattr(numpy, "_core", None), "_multiarray_umath", None)
    if inner is None:
        return {}
    return {name: inner.__cpu_features__[name] for name in (*inner.__cpu_baseline__, *inner.__cpu_dispatch__)}


def _blas() -> str:
    """Name the libraries of linear algebra, torch's and numpy's."""
    parts = []
    torch = sys.modules.get("torch")
    if torch is not None:
        found = re.search(r"Math Kernel Library Version ([\d.]+)", torch.__config__.show())
        parts += [f"MKL {found[1]}"] if found else []
    if "numpy" in sys.modules:
        from threadpoolctl import threadpool_info

        loaded = {
            f"OpenBLAS {each['version']} {each['architecture']}"
            for each in threadpool_info()
            if each["internal_api"] == "openblas"
        }
        parts += sorted(loaded)
    return ", ".join(parts)
