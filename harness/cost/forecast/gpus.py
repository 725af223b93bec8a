"""What a GPU can do at most, from its makers' data sheets."""

from dataclasses import dataclass

from harness.config.errors import UserError, unknown


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU.

    Attributes:
        name: how it is called here.
        memory_gib: what its driver reports.
        tflops: peak of dense matrix products by the weights' dtype, in 1e12 operations per second: bfloat16 with
            float32 sums, float32 proper (no TF32, which torch leaves off), float64.
    """

    name: str
    memory_gib: float
    tflops: dict[str, float]

    def peak(self, dtype: str) -> float:
        """Return operations per second at most.

        Raises:
            UserError: the GPU has no such arithmetic.
        """
        if not self.tflops.get(dtype):
            raise UserError(f"{self.name} has no {dtype} arithmetic to speak of; set resources.dtype to float32")
        return self.tflops[dtype] * 1e12


def _gpu(name: str, memory_mib: int, bfloat16: float, float32: float, float64: float) -> Gpu:
    tflops = {"bfloat16": bfloat16, "float32": float32, "float64": float64}
    return Gpu(name=name, memory_gib=memory_mib / 1024, tflops=tflops)


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("t4", 15360, 0.0, 8.1, 0.3),  # no bfloat16
        _gpu("a10", 23028, 125.0, 31.2, 0.5),
        _gpu("rtx4090", 24564, 165.2, 82.6, 1.3),
        _gpu("l4", 23034, 121.0, 30.3, 0.5),
        _gpu("a100-40", 40960, 312.0, 19.5, 19.5),
        _gpu("l40s", 46068, 362.0, 91.6, 1.4),
        _gpu("a6000", 49140, 154.8, 38.7, 0.6),
        _gpu("a100-80", 81920, 312.0, 19.5, 19.5),
        _gpu("h100", 81559, 989.4, 66.9, 66.9),
        _gpu("h100-pcie", 81559, 756.5, 51.2, 51.2),
        _gpu("h100-nvl", 95830, 835.5, 60.0, 60.0),
        _gpu("h200", 143771, 989.4, 66.9, 66.9),
        _gpu("b200", 183359, 2250.0, 75.0, 37.0),
    )
}

# Of a GPU's memory, what tensors cannot have: a context and the libraries' workspaces, and what an allocator wastes.
_CONTEXT_GIB = 1.0
_WASTE = 0.05


def gpu_named(name: str) -> Gpu:
    """Return a GPU of the table.

    Raises:
        UnknownNameError: there is none of this name; suggests the nearest.
    """
    if name not in GPUS:
        raise unknown("GPU", name, GPUS)
    return GPUS[name]


def usable_gib(gpu: Gpu) -> float:
    """Return how much of a GPU's memory tensors may take: all but 1 GiB and 5%."""
    return (gpu.memory_gib - _CONTEXT_GIB) * (1.0 - _WASTE)
