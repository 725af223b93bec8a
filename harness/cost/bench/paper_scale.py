"""The real thing on a GPU: Qwen3's shapes with random weights, allocated bytes and seconds of whole steps.

Neither depends on the weights. What the device allocates stands beside what the accounting predicts.
"""

import gc
import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import torch

from harness.config import installed
from harness.config.errors import UserError
from harness.cost.accounting import GIB, bytes_of
from harness.cost.bench.memory import Optimizer, account, adamw
from harness.cost.bench.step import spread
from harness.cost.rig import Setting, make_rig, wait
from harness.cost.shapes import build, load_pair
from harness.cost.variants import Variant, variant
from harness.distill.score import slices
from harness.models import head_of, trunk
from harness.trial.meter import LiveBytes
from strategies.base import budget_size, log_probs

# The paper's eight configurations, and this core at 20%.
VARIANTS = (
    "full_kd_dense",
    "full_kd_chunked",
    "full_kd_teacher_head",
    "se_kd_dense",
    "se_kd_streamed",
    "se_kd_teacher_head",
    "se_kd_student_head",
    "se_kd_both_heads",
    "se_kd",
)
SIZES = ((2, 512), (8, 512), (16, 512), (2, 4096))
# What the paper's hours are of.
_TOKENS = 80_000_000


def require_gpu(sizes: Sequence[tuple[int, int]] = SIZES) -> str:
    """Return the device to run on.

    Raises:
        UserError: there is no CUDA GPU; says what one would need.
    """
    if torch.cuda.is_available():
        return "cuda"
    listed = ", ".join(f"{batch}x{length}" for batch, length in sizes)
    need = account(variant("full_kd_dense"), paper_setting(2, 512))["adamw"]["both"].total() / GIB
    raise UserError(
        f"--paper-scale runs Qwen3-8B and Qwen3-1.7B on a CUDA GPU and torch {torch.__version__} finds none. "
        f"It would need about {need:.0f} GiB of its memory for B x L = 2x512 in the default flow and up to 80 GiB "
        f"for all sizes ({listed}); what does not fit is reported as such. "
        "`harness bench memory` counts the same steps without a GPU"
    )


def paper_setting(batch_size: int, length: int, *, device: str = "cpu") -> Setting:
    """Return a step of the paper's pair."""
    pair = load_pair("qwen3")
    return Setting(pair=pair, batch_size=batch_size, length=length, logit_memory_mib=256, device=device)


def measure(
    variants: Sequence[Variant],
    settings: Sequence[Setting],
    *,
    optimizer: Optimizer,
    steps: int,
    on_row: Callable[[int], None] = lambda _: None,
) -> pd.DataFrame:
    """Run every variant at every size.

    Returns:
        One row each: GiB allocated at the peak by both models on one device, by the teacher alone and by the student
        alone (with the teacher's states at hand; what those and the teacher's head occupy is taken off), what the
        accounting predicts for both, seconds per step (median, least and most), and the hours that 80M tokens take at
        the median. Rows that ran out of memory say so.
    """
    rows = []
    for setting in settings:
        for each in variants:
            row = {
                "device": setting.device,
                "pair": setting.pair.name,
                "batch_size": setting.batch_size,
                "length": setting.length,
                "optimizer": optimizer,
                "variant": each.name,
                "label": each.label,
            }
            rows.append(row | _row(each, setting, optimizer, steps))
            on_row(len(rows))
    return pd.DataFrame(rows)


def _row(each: Variant, setting: Setting, optimizer: Optimizer, steps: int) -> dict[str, object]:
    predicted = account(each, replace(setting, device="cpu"))[optimizer]["both"].total() / GIB
    row: dict[str, object] = {"accounted_gib": predicted, "status": "ok"}
    try:
        peak, seconds = _train(each, setting, optimizer, steps)
        row["one_device_gib"] = peak / GIB
        # The same step with the teacher's states at hand.
        cached = replace(each, strategy=each.strategy.model_copy(update={"teacher": "cached"}))
        student, _ = _train(cached, setting, optimizer, 1, student_alone=True)
        row["student_gib"] = student / GIB
        row["teacher_gib"] = _teach(each, setting) / GIB
        row |= spread("seconds", pd.Series(seconds))
        steps_of_run = _TOKENS / (setting.batch_size * setting.length)
        row["hours_80m_tokens"] = pd.Series(seconds).median() * steps_of_run / 3600
    except torch.OutOfMemoryError:
        row["status"] = "out of memory"
    return row


def _train(
    each: Variant, setting: Setting, optimizer: Optimizer, steps: int, *, student_alone: bool = False
) -> tuple[int, list[float]]:
    """Return the peak of a step after a first one, and the seconds of `steps` steps."""
    _forget(setting.device)
    rig = make_rig(each, setting)
    optimiser = _optimiser(rig.core.parameters, optimizer)
    rig.step(optimiser)
    taken: list[float] = []
    peak = peak_bytes(setting.device, lambda: taken.extend(rig.step(optimiser) for _ in range(steps)))
    foreign = (*rig.teacher_parameters, *rig.inputs) if student_alone else ()
    return peak - bytes_of(*foreign), taken


@torch.no_grad()
def _teach(each: Variant, setting: Setting) -> int:
    """Return the teacher's peak on its own: its trunk, its head as the variant applies it, and log-probabilities."""
    _forget(setting.device)
    model = build(setting.pair.teacher, dtype=setting.pair.dtype, device=setting.device, seed=1)
    ids = torch.zeros((setting.batch_size, setting.length), dtype=torch.long, device=setting.device)
    weight = head_of(model, setting.pair.vocab_size).weight
    num = setting.batch_size * budget_size(setting.length - 1, each.strategy.budget)
    whole = each.strategy.flow == "dense" or (each.heads is not None and "teacher" not in each.heads)

    def run() -> None:
        states = trunk(model, ids).flatten(0, 1)
        if whole:
            logits = states @ weight.T
            log_probs(logits if each.heads is None else logits[:num]).exp()
        else:
            for block in slices(num, setting.chunk if each.heads is None else num):
                log_probs(states[block] @ weight.T).exp()

    run()
    return peak_bytes(setting.device, run)


def peak_bytes(device: str, run: Callable[[], None]) -> int:
    """Return the most bytes allocated on a GPU while something runs; on a CPU, the most that came to life in it."""
    if device.startswith("cuda"):
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        wait(device)
        return int(torch.cuda.max_memory_allocated(device))
    with LiveBytes() as live:
        run()
    return int(live.peak)


def _optimiser(parameters: Sequence[torch.nn.Parameter], optimizer: Optimizer) -> torch.optim.Optimizer | None:
    if optimizer == "none":
        return None
    if optimizer == "adamw":
        return adamw(parameters)
    found = installed.eight_bit()
    if found is None:
        raise UserError("--optimizer adamw_8bit needs torchao or bitsandbytes: pip install 'selective-kd-harness[gpu]'")
    made = getattr(importlib.import_module(found[0]), found[1])(parameters, lr=1e-5)
    assert isinstance(made, torch.optim.Optimizer)
    return made


def _forget(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
