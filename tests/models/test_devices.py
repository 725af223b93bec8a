"""Where a teacher's layers go: in order, in equal shares, and running wherever they are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import small_model

from harness.config import ModelSource, Workload
from harness.config.errors import UserError
from harness.config.workloads import load_workload
from harness.cost.forecast.forecast import make_forecast
from harness.cost.forecast.gpus import Gpu
from harness.models import devices as placement
from harness.models import load_model, trunk, trunk_layers
from harness.models.devices import spread_layers, teacher_devices
from harness.records.layout import Results


def workload_with(write_workload: Callable[..., Path], **resources: object) -> Workload:
    return load_workload(str(write_workload(**{f"resources__{name}": value for name, value in resources.items()})))


@pytest.mark.parametrize("num", [2, 3])
def test_layers_are_spread_in_order_and_in_equal_shares(num: int, checkpoints: Path) -> None:
    source, devices = ModelSource(path="teacher"), [f"cuda:{number}" for number in range(num)]
    found = spread_layers(source, checkpoints, devices, dtype=torch.float32)
    model = load_model(source, checkpoints, dtype=torch.float32)
    taken = dict.fromkeys(devices, 0)
    for name, weight in model.named_parameters():
        (place,) = {device for module, device in found.items() if name == module or name.startswith(f"{module}.")}
        taken[place] += weight.numel()
    layers = [found[name] for name in sorted(found) if ".layers." in name and name.count(".") == 2]
    assert layers == sorted(layers), "a state goes from one to the next, and never back"
    largest = max(sum(weight.numel() for weight in layer.parameters()) for layer in model.base_model.layers)
    assert all(0 < size <= sum(taken.values()) / num + 2 * largest for size in taken.values())


def test_a_spread_model_computes_what_a_whole_one_does(checkpoints: Path) -> None:
    """On a CPU there is one device that computes; layers on the disk are fetched by the same hooks."""
    source = ModelSource(path="teacher")
    layout = spread_layers(source, checkpoints, ["cpu", "disk"], dtype=torch.float32)
    assert set(layout.values()) == {"cpu", "disk"}
    whole = load_model(source, checkpoints, dtype=torch.float32)
    spread = load_model(source, checkpoints, dtype=torch.float32, layout=layout)
    assert any(weight.device.type == "meta" for weight in spread.parameters())
    ids = torch.randint(97, (3, 11))
    with torch.no_grad():
        assert torch.equal(trunk(spread, ids), trunk(whole, ids))
        found, expected = trunk_layers(spread, ids, [0, 1]), trunk_layers(whole, ids, [0, 1])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.layers, expected.layers, strict=True))


def test_the_first_gpu_is_the_students_where_there_is_one(
    write_workload: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = workload_with(write_workload, gpus=1)
    own = workload_with(write_workload, gpus=1, teacher_gpus=2)
    assert teacher_devices(own, alone=False) == ("cpu",), "there is no GPU here"
    monkeypatch.setattr(placement, "device_of", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert teacher_devices(shared, alone=False) == teacher_devices(shared, alone=True) == ("cuda",)
    assert teacher_devices(own, alone=False) == ("cuda:1", "cuda:2")
    assert teacher_devices(own, alone=True) == ("cuda:0", "cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        UserError, match=r"resources.teacher_gpus is 2, besides the student, and this process has 2 GPUs"
    ):
        teacher_devices(own, alone=False)


def test_a_share_of_a_gpu_leaves_no_room_for_others(write_workload: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"resources.teacher_gpus is 1, so resources\.gpus must be whole"):
        workload_with(write_workload, gpus=0.5, teacher_gpus=1)


def test_a_plan_counts_each_gpu_by_itself(
    write_workload: Callable[..., Path], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    entries = ["full_kd", {"preset": "full_kd", "label": "online", "teacher": "online"}]
    gpu = Gpu(name="any", memory_gib=80.0, tflops={"float32": 1.0})

    def fullest(**resources: object) -> dict[str, int]:
        workload = write_workload(**{f"resources__{name}": value for name, value in resources.items()})
        grid = write_grid(entries, workload=str(workload), seeds=[1])
        found = make_forecast(grid, None, gpu=gpu, results=Results(tmp_path / "results"))
        return {row.label: row.fullest for row in found.rows}

    alone, apart = fullest(gpus=1), fullest(gpus=1, teacher_gpus=1)
    assert apart["Full KD"] == alone["Full KD"]
    teacher = sum(
        weight.numel() * 4 for weight in small_model(24, seed=1, dtype=torch.float32, tied=False).parameters()
    )
    assert alone["online"] - apart["online"] == teacher - 97 * 24 * 4
