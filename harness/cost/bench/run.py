"""What the commands of `harness bench` do: measure, draw, publish."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from harness.analysis import published
from harness.config import Method
from harness.config.errors import UserError
from harness.config.expand import load_grid
from harness.cost.bench import figures, flops, grid, memory, step, storage, targets
from harness.cost.bench.output import Output, device_name
from harness.cost.rig import Setting
from harness.cost.shapes import load_pair
from harness.cost.variants import VARIANTS, available, variant

if TYPE_CHECKING:
    from harness.cost.bench.memory import Optimizer

Size = tuple[int, int]

MEMORY = tuple(each.name for each in VARIANTS if not each.name.endswith("_cached"))
COUNTED = tuple(each.name for each in VARIANTS if each.outside is None and each.name != "floor")
# The paper's three panels, and this core.
TRACES = ("full_kd_dense", "se_kd_streamed", "se_kd_both_heads", "se_kd")
PARTS = 150
SCALED = ("floor", "full_kd_dense", "full_kd_chunked", "se_kd")
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
# (sequences, tokens of each): up to 65536 positions, by more sequences and by longer ones.
SIZES = ((1, 512), (2, 512), (4, 512), (8, 512), (16, 512), (4, 2048), (16, 2048), (16, 4096))

_BEYOND = {"beyond_floor_gib": "beyond floor (GiB)", "beyond_floor_with_head_gradient_gib": "with head gradient (GiB)"}


def run_memory(output: Output, *, pair: str, size: Size, logit_memory_mib: int, optimizer: "Optimizer") -> None:
    """Account for a step of every variant: alone, as one of several micro-batches, and with checkpointing."""
    of = partial(_setting, pair, size, logit_memory_mib)
    settings = [of(), of(micro_batches=2), of(micro_batches=2, checkpointing=True)]
    chosen, notes = available(MEMORY)
    with output.progress("counting", len(settings)) as tell:
        found = memory.with_savings(memory.table(chosen, settings, on_setting=tell))
    shown = found[found["optimizer"] == optimizer]
    drawn = shown[(shown["micro_batches"] == 2) & ~shown["checkpointing"]]
    output.publish(
        "memory",
        f"Peak bytes of a step, {_described(settings[0])}, optimiser state: {optimizer}",
        found,
        {
            "label": "variant",
            "micro_batches": "micro-batches",
            "checkpointing": "checkpointing",
            "student_gib": "student (GiB)",
            "student_saving_percent": "less (%)",
            "teacher_gib": "teacher (GiB)",
            "total_gib": "both (GiB)",
            "total_saving_percent": "less (%) ",
            "one_device_gib": "one device (GiB)",
            **_BEYOND,
        },
        lambda: figures.memory(drawn, {owner: _published(f"{owner}_peak_gb") for owner in ("student", "teacher")}),
        shown=shown,
        caption=f"2 micro-batches (gradients are there from the start), optimiser state {optimizer}",
        targets=targets.memory_targets(found),
        notes=[
            *notes,
            "Devices are told apart by what a number derives from; see harness/cost/accounting.py.",
            "The paper's figures are of its own flow and optimiser, which it does not state in full.",
            "Liger's loss asks the device for a number in its backward pass, so it cannot be counted; `step` times it.",
        ],
    )


def run_trace(output: Output, *, pair: str, size: Size, logit_memory_mib: int) -> None:
    """Trace what is alive over a step of two micro-batches."""
    setting = _setting(pair, size, logit_memory_mib, micro_batches=2)
    with output.progress("tracing", len(TRACES)) as tell:
        found = memory.trace([variant(name) for name in TRACES], setting, num=PARTS, on_variant=tell)
    by_label = found.groupby("label", sort=False)
    sizes = pd.DataFrame(
        {
            f"{column}_{kind}": by_label[column].agg(kind)
            for column in ("student_gib", "teacher_gib")
            for kind in ("max", "median")
        }
    )
    output.publish(
        "trace",
        f"Bytes over a step, {_described(setting)}, beyond weights and optimiser state",
        found,
        {
            "label": "variant",
            "student_gib_max": "student, most (GiB)",
            "student_gib_median": "median",
            "teacher_gib_max": "teacher, most (GiB)",
            "teacher_gib_median": "median ",
        },
        lambda: figures.trace(found),
        shown=sizes.reset_index(),
        caption="One step of 2 micro-batches, from its first tensor to its last; weights and optimiser state, which "
        "are there all the time, are left out",
        notes=[
            f"A step is cut into {PARTS} parts of as many tensors made or dropped, each shown at its fullest moment.",
            "Devices are told apart by what a number derives from; see harness/cost/accounting.py.",
        ],
    )


def run_flops(output: Output, *, pair: str, size: Size) -> None:
    """Count a step of every variant."""
    setting = _setting(pair, size, 256)
    found = flops.table([variant(name) for name in COUNTED], setting)
    arithmetic = flops.se_kd_flops(setting, budget=0.2) / (setting.batch_size * setting.length) / 1e9
    output.publish(
        "flops",
        f"Operations of a step, {_described(setting)}",
        found,
        {
            "label": "variant",
            "gflops_per_token": "GFLOP per token",
            "fewer_than_full_kd_percent": "fewer than Full KD (%)",
        },
        lambda: figures.bars(found["label"].tolist(), found["gflops_per_token"].tolist(), "GFLOP per training token"),
        targets=targets.flops_targets(found, arithmetic=arithmetic),
    )


def run_scaling(output: Output, *, pair: str, sizes: str | None, logit_memory_mib: int) -> None:
    """Account for steps of growing batches."""
    settings = [_setting(pair, size, logit_memory_mib) for size in (SIZES if sizes is None else _sizes(sizes))]
    with output.progress("counting", len(settings)) as tell:
        found = memory.table([variant(name) for name in SCALED], settings, on_setting=tell)
    found = found[found["optimizer"] == "none"].reset_index(drop=True)
    found.insert(3, "positions", found["batch_size"] * found["length"])
    output.publish(
        "scaling",
        f"Activations by the positions of a batch, {pair}",
        found,
        {"label": "variant", "batch_size": "B", "length": "L", "activations_gib": "activations (GiB)", **_BEYOND},
        lambda: figures.scaling(found),
        targets=targets.memory_targets(found),
    )


def run_step(output: Output, *, pairs: str, size: Size, logit_memory_mib: int, rounds: int) -> None:
    """Time a step of every variant."""
    chosen, notes = available(TIMED)
    tables = []
    for name in pairs.split(","):
        setting = _setting(name, size, logit_memory_mib)
        with output.progress(f"timing {name}", rounds) as tell:
            tables.append(step.measure(chosen, setting, rounds=rounds, on_round=tell))
    found = pd.concat(tables, ignore_index=True)
    output.publish(
        "step",
        f"Seconds of a step, B={size[0]}, L={size[1]}, {int(found['threads'][0])} thread(s)",
        found,
        {
            "label": "variant",
            "pair": "shapes",
            "seconds_median": "seconds, median",
            "seconds_min": "min",
            "seconds_max": "max",
            "speedup_median": "times faster, median",
            "speedup_min": "min ",
            "speedup_max": "max ",
        },
        lambda: figures.speedups(found),
        caption="Median over rounds, with the least and the most",
        targets=targets.step_targets(found),
        device=device_name("cpu"),
        notes=notes,
    )


def run_grid(
    output: Output, *, file: Path, pairs: str, counted: str, size: Size, sequences: int, logit_memory_mib: int
) -> None:
    """Compare a grid with its student-only work."""
    if sequences < size[0]:
        raise UserError(f"--sequences {sequences} do not fill one batch of {size[0]}")
    trained = [each for each in load_grid(file).strategies if isinstance(each, Method) and each.teacher == "cached"]
    strategies = [each for each in trained if each.samples is None]
    if not strategies:
        raise UserError(f"{file} has no strategy that trains on every sequence with a cached teacher")
    small = _setting("tiny", size, logit_memory_mib)
    tables = [grid.table(grid.count(strategies, small, load_pair(counted)), pair=counted, unit="FLOP per step")]
    for name in pairs.split(","):
        setting = _setting(name, size, logit_memory_mib)
        # Counted beside every timed one: seconds differ from operations by what is not a matrix product.
        tables.append(grid.table(grid.count(strategies, small, setting.pair), pair=name, unit="FLOP per step"))
        with output.progress(f"timing {name}", len(strategies)) as tell:
            timed = grid.measure(strategies, setting, num_sequences=sequences, on_strategy=tell)
        # The cache is built over all sequences, so both are divided by the same number of steps.
        tables.append(grid.table(timed, pair=name, unit="seconds per step", steps=sequences // size[0]))
    found = pd.concat(tables, ignore_index=True)
    found.insert(1, "grid", file.stem)
    output.publish(
        "grid",
        f"{len(strategies)} strategies of {file.name}, sharing the teacher's hidden states",
        found,
        {
            "pair": "shapes",
            "unit": "unit",
            "seeds": "seeds",
            "teacher_once": "teacher, once",
            "strategies_with_cached_teacher": "strategies",
            "student_only": "student only",
            "teacher_once_share": "its share",
            "teacher_head_share": "head's share",
            "ratio": "ratio",
        },
        lambda: figures.grid(found),
        targets=targets.grid_targets(found),
        device=device_name("cpu"),
    )


def run_storage(output: Output, *, pair: str, rows: int) -> None:
    """Measure bytes per stored token."""
    found = storage.table(rows, load_pair(pair))
    output.publish(
        "storage",
        f"Storage, {pair}",
        found,
        {
            "stored": "stored per token",
            "bytes_per_token": "bytes",
            "terabytes_100b_tokens": "TB for 100 billion tokens",
            "arithmetic": "arithmetic",
            "published_terabytes": "published (TB)",
            "published_arithmetic": "published arithmetic",
        },
        lambda: figures.storage(found),
        device=device_name("cpu"),
        notes=[f"Draws from {rows} made-up rows for each number of draws; other entropies take other bytes."],
    )


def run_paper_scale(output: Output, *, optimizer: "Optimizer", steps: int) -> None:
    """Run the paper's models on a GPU, or say what that would need."""
    from harness.cost.bench import paper_scale

    device = paper_scale.require_gpu()
    settings = [paper_scale.paper_setting(*size, device=device) for size in paper_scale.SIZES]
    chosen = [variant(name) for name in paper_scale.VARIANTS]
    with output.progress("running", len(settings) * len(chosen)) as tell:
        found = paper_scale.measure(chosen, settings, optimizer=optimizer, steps=steps, on_row=tell)
    found["device"] = device_name(device)
    labels = [f"{row['label']}, {row['batch_size']}x{row['length']}" for row in found.to_dict("records")]
    gib = found["one_device_gib"].fillna(0.0).tolist()
    output.publish(
        "paper_scale",
        f"Qwen3-8B to Qwen3-1.7B on {device_name(device)}, optimiser {optimizer}",
        found,
        {
            "label": "variant",
            "batch_size": "B",
            "length": "L",
            "student_gib": "student (GiB)",
            "teacher_gib": "teacher (GiB)",
            "one_device_gib": "one device (GiB)",
            "accounted_gib": "accounted (GiB)",
            "seconds_median": "seconds, median",
            "hours_80m_tokens": "hours for 80M tokens",
            "status": "status",
        },
        lambda: figures.bars(labels, gib, "GiB allocated at the peak, both models"),
        device=device_name(device),
    )


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


def _published(metric: str) -> dict[str, float]:
    """Return the paper's figures by the labels of the variants that they stand beside."""
    named = {each.label: each.published for each in VARIANTS if each.published is not None}
    values = {label: published.load().find(name, metric) for label, name in named.items()}
    return {label: value for label, value in values.items() if value is not None}
