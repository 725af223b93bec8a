"""What the commands of `harness bench` do: measure, print, write."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from harness.config import Method
from harness.config.errors import UserError
from harness.config.expand import load_grid
from harness.cost.bench import figures, flops, grid, memory, scaling, step, storage, targets
from harness.cost.bench.output import device_name, progress, save, show, show_targets
from harness.cost.rig import Setting
from harness.cost.shapes import load_pair
from harness.cost.variants import VARIANTS, available, variant

if TYPE_CHECKING:
    from harness.cost.bench.memory import Optimizer

Size = tuple[int, int]

MEMORY = tuple(each.name for each in VARIANTS if not each.name.endswith("_cached"))
COUNTED = tuple(each.name for each in VARIANTS if each.outside is None and each.name != "floor")
TIMED = (
    "full_kd_dense_cached",
    "full_kd_cached",
    "se_kd_cached",
    "se_kd_3x",
    "full_kd_dense",
    "full_kd_chunked",
    "se_kd_dense",
    "se_kd_both_heads",
    "se_kd",
    "trl_cached",
    "liger_cached",
)


def run_memory(
    console: Console,
    reports: Path,
    *,
    pair: str,
    size: Size,
    logit_memory_mib: int,
    optimizer: "Optimizer",
    command: str,
) -> None:
    """Account for a step of every variant: alone, as one of several micro-batches, and with checkpointing."""
    base = _setting(pair, size, logit_memory_mib)
    settings = [
        base,
        _setting(pair, size, logit_memory_mib, micro_batches=2),
        _setting(pair, size, logit_memory_mib, micro_batches=2, checkpointing=True),
    ]
    chosen, notes = available(MEMORY)
    with progress(console, "counting") as tell:
        tables = []
        for number, setting in enumerate(settings):
            tables.append(memory.table(chosen, variant("floor"), [setting]))
            tell(number + 1, len(settings))
    found = memory.with_savings(pd.concat(tables, ignore_index=True))
    shown = found[found["optimizer"] == optimizer]
    columns = {
        "micro_batches": "micro-batches",
        "checkpointing": "checkpointing",
        "label": "variant",
        "student_gib": "student (GiB)",
        "student_saving_percent": "less (%)",
        "teacher_gib": "teacher (GiB)",
        "total_gib": "both (GiB)",
        "total_saving_percent": "less (%) ",
        "one_device_gib": "one device (GiB)",
        "beyond_floor_gib": "beyond floor (GiB)",
        "beyond_floor_with_head_gradient_gib": "with head gradient",
    }
    show(console, f"Peak bytes of a step, {_described(base)}, optimiser state: {optimizer}", shown, columns)
    made = targets.memory_targets(found)
    drawn = shown[(shown["micro_batches"] == 2) & ~shown["checkpointing"]]
    rows = {each.name: each.published for each in chosen if each.published is not None}
    notes += [
        "Devices are told apart by what a number derives from; see harness/bench/accounting.py.",
        f"The figure: 2 micro-batches (gradients are there from the start), optimiser state {optimizer}.",
        "The paper's figures are of its own flow and optimiser, which it does not state in full.",
        "Liger's loss asks the device for a number in its backward pass, so it cannot be counted; `step` times it.",
    ]
    _finish(console, reports, "memory", found, figures.memory(drawn, rows), made, command, "fake tensors", notes)


def run_flops(console: Console, reports: Path, *, pair: str, size: Size, command: str) -> None:
    """Count a step of every variant."""
    setting = _setting(pair, size, 256)
    found = flops.table([variant(name) for name in COUNTED], setting)
    columns = {
        "label": "variant",
        "gflops_per_token": "GFLOP per token",
        "fewer_than_full_kd_percent": "fewer than Full KD (%)",
    }
    show(console, f"Operations of a step, {_described(setting)}", found, columns)
    tokens = setting.batch_size * setting.length
    made = targets.flops_targets(found, arithmetic=flops.se_kd_flops(setting, budget=0.2) / tokens / 1e9)
    drawn = figures.bars(list(found["label"]), list(found["gflops_per_token"]), "GFLOP per token of training data")
    _finish(console, reports, "flops", found, drawn, made, command, "fake tensors", [])


def run_scaling(
    console: Console, reports: Path, *, pair: str, sizes: str | None, logit_memory_mib: int, command: str
) -> None:
    """Account for steps of growing batches."""
    chosen = scaling.SIZES if sizes is None else _sizes(sizes)
    settings = [_setting(pair, size, logit_memory_mib) for size in chosen]
    with progress(console, "counting") as tell:
        found = scaling.measure(settings, on_setting=tell)
    columns = {
        "batch_size": "B",
        "length": "L",
        "label": "variant",
        "activations_gib": "activations (GiB)",
        "beyond_floor_gib": "beyond floor (GiB)",
        "beyond_floor_with_head_gradient_gib": "with head gradient",
    }
    show(console, f"Activations by the positions of a batch, {pair}", found, columns)
    made = targets.memory_targets(found)
    _finish(console, reports, "scaling", found, figures.scaling(found), made, command, "fake tensors", [])


def run_step(
    console: Console, reports: Path, *, pairs: str, size: Size, logit_memory_mib: int, rounds: int, command: str
) -> None:
    """Time a step of every variant."""
    chosen, notes = available(TIMED)
    tables = []
    for name in pairs.split(","):
        setting = _setting(name, size, logit_memory_mib)
        with progress(console, f"timing {name}") as tell:
            tables.append(step.measure(chosen, setting, rounds=rounds, on_round=tell))
    found = pd.concat(tables, ignore_index=True)
    columns = {
        "pair": "shapes",
        "label": "variant",
        "seconds_median": "seconds, median",
        "seconds_min": "min",
        "seconds_max": "max",
        "speedup_median": "times faster, median",
        "speedup_min": "min ",
        "speedup_max": "max ",
    }
    show(console, f"Seconds of a step, B={size[0]}, L={size[1]}, {int(found['threads'][0])} thread(s)", found, columns)
    made = targets.step_targets(found)
    _finish(console, reports, "step", found, figures.speedups(found), made, command, device_name("cpu"), notes)


def run_grid(
    console: Console,
    reports: Path,
    *,
    file: Path,
    pairs: str,
    counted: str,
    size: Size,
    sequences: int,
    logit_memory_mib: int,
    command: str,
) -> None:
    """Compare a grid with its student-only work."""
    if sequences < size[0]:
        raise UserError(f"--sequences {sequences} do not fill one batch of {size[0]}")
    trained = [each for each in load_grid(file).strategies if isinstance(each, Method) and each.teacher == "cached"]
    strategies = [each for each in trained if each.samples is None]
    if not strategies:
        raise UserError(f"{file} has no strategy that trains on every sequence with a cached teacher")
    small = _setting("tiny", size, logit_memory_mib)
    built, costs = grid.count(strategies, small, load_pair(counted))
    tables = [grid.table(built, costs, pair=counted, unit="FLOP per step")]
    for name in pairs.split(","):
        setting = _setting(name, size, logit_memory_mib)
        # Counted beside every timed one: seconds differ from operations by what is not a matrix product.
        tables.append(grid.table(*grid.count(strategies, small, setting.pair), pair=name, unit="FLOP per step"))
        with progress(console, f"timing {name}") as tell:
            built, costs = grid.measure(strategies, setting, num_sequences=sequences, on_strategy=tell)
        # The cache is built over all sequences, so both are divided by the same number of steps.
        steps = sequences // size[0]
        tables.append(grid.table(built, costs, pair=name, unit="seconds per step", steps=steps))
    found = pd.concat(tables, ignore_index=True)
    found.insert(1, "grid", file.stem)
    columns = {
        "pair": "shapes",
        "unit": "unit",
        "seeds": "seeds",
        "teacher_once": "teacher, once",
        "strategies_with_cached_teacher": "strategies",
        "student_only": "student only",
        "teacher_once_share": "its share",
        "teacher_head_share": "head's share",
        "ratio": "ratio",
    }
    show(console, f"{len(strategies)} strategies of {file.name}, sharing the teacher's hidden states", found, columns)
    made = targets.grid_targets(found)
    _finish(console, reports, "grid", found, figures.grid(found), made, command, device_name("cpu"), [])


def run_storage(console: Console, reports: Path, *, pair: str, rows: int, command: str) -> None:
    """Measure bytes per stored token."""
    found = storage.table(rows, load_pair(pair))
    columns = {
        "stored": "stored per token",
        "bytes_per_token": "bytes",
        "terabytes_100b_tokens": "TB for 100 billion tokens",
        "arithmetic": "arithmetic",
        "published_terabytes": "published (TB)",
        "published_arithmetic": "published arithmetic",
    }
    show(console, f"Storage, {pair}", found, columns)
    notes = [f"Draws from {rows} made-up rows for each number of draws; other entropies take other bytes."]
    _finish(console, reports, "storage", found, figures.storage(found), [], command, device_name("cpu"), notes)


def run_paper_scale(console: Console, reports: Path, *, optimizer: "Optimizer", steps: int, command: str) -> None:
    """Run the paper's models on a GPU, or say what that would need."""
    from harness.cost.bench import paper_scale

    device = paper_scale.require_gpu()
    settings = [paper_scale.paper_setting(*size, device=device) for size in paper_scale.SIZES]
    chosen = [variant(name) for name in paper_scale.VARIANTS]
    with progress(console, "running") as tell:
        found = paper_scale.measure(chosen, settings, optimizer=optimizer, steps=steps, on_row=tell)
    found["device"] = device_name(device)
    columns = {
        "batch_size": "B",
        "length": "L",
        "label": "variant",
        "student_gib": "student (GiB)",
        "teacher_gib": "teacher (GiB)",
        "one_device_gib": "one device (GiB)",
        "accounted_gib": "accounted (GiB)",
        "seconds_median": "seconds, median",
        "status": "",
    }
    show(console, f"Qwen3-8B to Qwen3-1.7B on {device_name(device)}, optimiser {optimizer}", found, columns)
    labels = [f"{row['label']}, {row['batch_size']}x{row['length']}" for row in found.to_dict("records")]
    drawn = figures.bars(labels, list(found["one_device_gib"].fillna(0.0)), "GiB allocated at the peak, both models")
    _finish(console, reports, "paper_scale", found, drawn, [], command, device_name(device), [])


def _finish(
    console: Console,
    reports: Path,
    name: str,
    found: pd.DataFrame,
    figure: Figure,
    made: list[targets.Target],
    command: str,
    device: str,
    notes: list[str],
) -> None:
    if made:
        show_targets(console, made)
    for note in notes:
        console.print(note, highlight=False, markup=False)
    save(reports, name, found, figure=figure, targets=made, command=command, device=device, notes=notes)
    console.print(f"{reports / name}.csv, .png, .svg, .json", highlight=False)


def _setting(
    pair: str, size: Size, logit_memory_mib: int, *, micro_batches: int = 1, checkpointing: bool = False
) -> Setting:
    return Setting(
        pair=load_pair(pair),
        batch_size=size[0],
        length=size[1],
        logit_memory_mib=logit_memory_mib,
        micro_batches=micro_batches,
        checkpointing=checkpointing,
    )


def _sizes(text: str) -> list[Size]:
    sizes = []
    for part in text.split(","):
        batch_size, _, length = part.partition("x")
        if not (batch_size.isdigit() and length.isdigit() and int(batch_size) >= 1 and int(length) >= 2):
            raise UserError(f"--sizes takes sequences x tokens separated by commas, e.g. 2x512,16x512; it is {text!r}")
        sizes.append((int(batch_size), int(length)))
    return sizes


def _described(setting: Setting) -> str:
    return f"{setting.pair.name}, B={setting.batch_size}, L={setting.length}"
