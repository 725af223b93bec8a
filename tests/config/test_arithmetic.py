"""The same instructions in every process: what is set, what took, what the user has set, what cannot be."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

from harness.config import arithmetic
from harness.config.arithmetic import Processor, obstacle, set_arithmetic, settings
from harness.config.errors import UnknownNameError, UserError
from harness.config.workloads import load_workload

PROJECT = Path(__file__).parents[2]
VARIABLES = ("ATEN_CPU_CAPABILITY", "NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA")

pins = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))

# A driver that imports neither torch nor numpy, and the processes that it starts before and after a change of mind.
DRIVER = """
import json, subprocess, sys
import harness
from harness.config.arithmetic import set_arithmetic

WORKER = '''
import json, torch, numpy
import harness.records.record
from harness.config import arithmetic
print(json.dumps([arithmetic.conditions("cpu"), arithmetic.missed()]))
'''
said = {}
for kind in ("pinned", "native", "compatible"):
    set_arithmetic(kind)
    done = subprocess.run([sys.executable, "-W", "error", "-c", WORKER], capture_output=True, text=True, check=True)
    said[kind] = json.loads(done.stdout)
assert "torch" not in sys.modules and "numpy" not in sys.modules
print(json.dumps(said))
"""


@pytest.fixture
def environment() -> Iterator[None]:
    """Variables as a user has them who has set none, and as they were after the test."""
    with mock.patch.dict(os.environ):
        for name in (*VARIABLES, "HARNESS_ARITHMETIC"):
            os.environ.pop(name, None)
        yield


@pins
def test_what_a_driver_sets_takes_in_the_processes_it_starts(environment: None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], cwd=PROJECT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for kind, (conditions, missed) in said.items():
        assert (conditions["arithmetic"], missed) == (kind, [])
        assert {"processor", "torch_capability", "numpy_capability", "blas"} <= conditions.keys()
        if kind != "native":
            assert conditions["torch_capability"] == "AVX2"
            assert "X86_V4" not in conditions["numpy_capability"]
            assert "AVX512" not in conditions["numpy_capability"]
            assert "OpenBLAS" not in conditions["blas"] or "Haswell" in conditions["blas"]
    if "avx512f" in arithmetic.processor().features:
        assert said["native"][0]["torch_capability"] == "AVX512"


@pins
def test_the_tests_themselves_are_pinned() -> None:
    assert torch.backends.cpu.get_cpu_capability() == "AVX2" or "as set" in arithmetic.described()
    assert arithmetic.missed() == []


@pins
def test_only_names_are_set_that_this_numpy_knows() -> None:
    known = np._core._multiarray_umath.__cpu_dispatch__  # type: ignore[attr-defined]
    assert set(settings("pinned")["NPY_DISABLE_CPU_FEATURES"].split()) <= set(known)


@pins
def test_what_the_user_has_set_stands_and_is_said(environment: None) -> None:
    os.environ["MKL_CBWR"] = "AVX"
    set_arithmetic("pinned")
    assert os.environ["MKL_CBWR"] == "AVX"
    assert "MKL_CBWR=AVX as set" in arithmetic.described()
    set_arithmetic("native")
    assert {name for name in VARIABLES if name in os.environ} == {"MKL_CBWR"}


@pins
def test_what_was_imported_too_early_is_one_line(
    environment: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    early = SimpleNamespace(backends=SimpleNamespace(cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX512")))
    monkeypatch.setitem(sys.modules, "torch", early)
    with caplog.at_level(logging.WARNING, logger="harness"):
        set_arithmetic("pinned")
    (line,) = caplog.messages
    assert line.startswith("Arithmetic is not pinned in this process: torch computes with AVX512, not AVX2.")
    assert arithmetic.described() == "pinned (torch computes with AVX512, not AVX2)"


def test_a_gpu_and_a_processor_without_avx2_are_not_pinned_and_say_so(
    environment: None, monkeypatch: pytest.MonkeyPatch, write_workload: Callable[..., Path]
) -> None:
    if obstacle() is None:
        set_arithmetic("pinned")
        assert arithmetic.described("cuda:0") == "pinned (a GPU's is its own)"
    monkeypatch.setattr(arithmetic, "processor", lambda: Processor("old", frozenset({"sse2"})))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    set_arithmetic("pinned")
    assert not any(name in os.environ for name in VARIABLES)
    assert arithmetic.described() == "native (no AVX2 is known of this processor)"
    assert load_workload(str(write_workload())).resources.arithmetic == "pinned"
    with pytest.raises(UserError, match=r"resources\.arithmetic is 'compatible', and no AVX2 is known"):
        load_workload(str(write_workload(resources__arithmetic="compatible")))
    os.environ["ATEN_CPU_CAPABILITY"] = "avx2"
    with pytest.raises(UserError, match="ATEN_CPU_CAPABILITY is 'avx2', and this processor lacks avx2, fma"):
        arithmetic.check_environment()
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert arithmetic.obstacle() == "arm64 has no AVX2"


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown arithmetic 'pined'\. Did you mean 'pinned'"):
        arithmetic.check_arithmetic("pined", "--arithmetic")
