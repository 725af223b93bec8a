"""One trial from beginning to end: load, train, evaluate, account. Knows nothing of Ray, grids or reports."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.config.seeds import derive
from harness.distill.feature import PURPOSE
from harness.distill.group import ALONE, Group
from harness.distill.optimiser import name_of
from harness.distill.train import Training
from harness.evaluate.evaluation import Scores, evaluate
from harness.evaluate.heldout import Heldout, measure_heldout
from harness.models import lora
from harness.records.record import Cost, Record, Selection
from harness.teacher.inputs import Inputs
from harness.teacher.interface import Teacher
from harness.teacher.live import cached_teacher
from harness.trial.meter import peak_gib
from harness.trial.rollouts import summary
from harness.trial.stages import Distilled, Keep, OnStep, distil
from harness.trial.trial import Trial, core_digest

# (trained student, tokenizer)
KeepStudent = Callable[[PreTrainedModel, PreTrainedTokenizerBase], None]

_VERSIONS = ("torch", "transformers", "lm_eval", "datasets", "ray", "numpy")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A trial's record and the tables that lie beside it, by a name in `harness.records.record.TABLES`."""

    record: Record
    tables: Mapping[str, pd.DataFrame]


def run_trial(
    trial: Trial,
    *,
    cache: Path,
    on_step: OnStep | None = None,
    keep: Keep | None = None,
    keep_student: KeepStudent | None = None,
    group: Group = ALONE,
) -> Outcome:
    """Train and evaluate one trial.

    Args:
        trial: what to run.
        cache: folder of shared caches.
        on_step: called after every optimiser step.
        keep: makes what saves and restores training; no checkpoints if None.
        keep_student: handed the student once it is trained; its weights go with the process if None.
        group: the processes that train the student together, of which this is the first; the others call
            `distil` alone.

    Raises:
        UserError: bad input.
        NotFiniteError: training diverged.
        RankLostError: another process of the group ended.
        Stopped: the keeper was asked to stop.
    """
    workload, strategy, started = trial.workload, trial.strategy, now()
    made = distil(trial, cache=cache, on_step=on_step, keep=keep, group=group)
    model, inputs, training, teacher = made.model, made.inputs, made.training, made.teacher
    chosen, clock, device = made.chosen, made.clock, made.device
    if training is not None:
        model.eval()
        if keep_student is not None:
            keep_student(model, inputs.tokenizer)
    # Evaluation holds what lm-eval's batches need, the same for every strategy: not what is compared.
    peak = {} if training is None else peak_gib(device)
    if made.live is not None:
        peak["step"] = made.live.peak / 2**30
    with clock.phase("eval"):
        heldout, scores = _evaluate(trial, model, inputs, made.chunk, cache, device)
    record = Record(
        trial_id=trial.id,
        label=strategy.label,
        strategy=strategy.model_dump(mode="json", by_alias=True),
        workload=workload.model_dump(mode="json"),
        seed=trial.seed,
        sources=dict(trial.sources),
        core=core_digest(),
        status="finished",
        metrics=heldout.metrics | scores.metrics,
        selection=_selection(training),
        samples=chosen.summary if chosen is not None else None,
        rollouts=summary(training.tally, strategy) if training is not None else None,
        diagnostics=made.watch.settings.model_dump() if made.watch is not None else None,
        evaluation=scores.tasks,
        teacher_in_training=_teacher_in_training(teacher),
        cost=Cost(
            wall_s=clock.wall_s,
            peak_gib=peak,
            flops=dict(made.flops),
            tokens=training.tally.sequences * workload.data.sequence_length if training else 0,
            disk_bytes=_disk_bytes(made),
            shared_s=_shared_s(made),
        ),
        environment=environment(device)
        | ({"optimiser": name_of(workload.optimisation)} if training is not None else {}),
        seeds=_seeds(trial),
        started_at=started,
        finished_at=now(),
    )
    reliability = pd.concat([scores.reliability, heldout.reliability.assign(source="tokens")], ignore_index=True)
    items = pd.concat([scores.items, heldout.items], ignore_index=True)
    tables = {"items": items, "reliability": reliability[["source", *heldout.reliability.columns]]}
    if training is not None:
        tables["curve"] = training.curve
    if made.watch is not None:
        tables |= made.watch.tables
    if chosen is not None:
        tables["samples"] = chosen.table
    return Outcome(record=record, tables=tables)


def environment(device: str) -> dict[str, str]:
    """Return the versions and the kind of machine a number was measured on; no names of machines or people."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    found |= {name: version(name) for name in _VERSIONS}
    found["device"] = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    found["threads"] = str(torch.get_num_threads())
    return found


def _evaluate(
    trial: Trial, model: PreTrainedModel, inputs: Inputs, chunk: int, cache: Path, device: str
) -> tuple[Heldout, Scores]:
    workload = trial.workload
    heldout = measure_heldout(
        model,
        inputs.heldout,
        cached_teacher(inputs.heldout_cache, device) if inputs.heldout_cache is not None else None,
        vocab_size=inputs.vocab_size,
        batch_size=workload.evaluation.batch_size,
        chunk=chunk,
        device=device,
    )
    scores = evaluate(
        model, inputs.tokenizer, workload.evaluation, folder=workload.folder, split=trial.split, data_dir=cache
    )
    return heldout, scores


def _selection(training: Training | None) -> Selection | None:
    if training is None:
        return None
    tally = training.tally
    return Selection(
        valid_positions=tally.valid,
        supervised_positions=tally.supervised,
        realised_fraction=tally.supervised / max(tally.valid, 1),
        classes_per_position=tally.classes / max(tally.student_trained, 1) if tally.classes else None,
    )


def _disk_bytes(made: Distilled) -> dict[str, int]:
    found = {"hidden": made.inputs.train_cache.num_bytes} if made.inputs.train_cache else {}
    if made.chosen is not None and made.chosen.prepass is not None:
        found["prepass"] = made.chosen.prepass.num_bytes
    if made.stored is not None:
        found[made.stored.store.meta.kind] = made.stored.store.meta.num_bytes
    if made.scored:
        found["scores"] = sum(each.num_bytes for each in made.scored.values())
    return found


def _shared_s(made: Distilled) -> dict[str, float]:
    """Return the seconds of what is shared; what this trial built itself is in its own wall time already."""
    found = {"hidden": made.inputs.train_cache.build_s} if made.inputs.train_cache else {}
    if made.chosen is not None and made.chosen.prepass is not None and not made.chosen.prepass.built:
        found["prepass"] = made.chosen.prepass.build_s
    if made.stored is not None and not made.stored.built:
        found[made.stored.store.meta.kind] = made.stored.store.meta.build_s
    if shared := [each.build_s for each in made.scored.values() if not each.built]:
        found["scores"] = sum(shared)
    return found


def _teacher_in_training(teacher: Teacher | None) -> Literal["none", "head", "model"]:
    if teacher is None:
        return "none"
    return "model" if teacher.online else "head"


def _seeds(trial: Trial) -> dict[str, int]:
    if trial.seed is None:
        return {}
    strategy = trial.strategy
    purposes = ["global", *(["samples"] if strategy.samples else []), *([PURPOSE] if strategy.feature else [])]
    purposes += ["rollout"] if strategy.rollout else []
    purposes += [lora.PURPOSE] if trial.workload.lora else []
    return {purpose: derive(trial.seed, purpose) for purpose in purposes}


def now() -> str:
    """Return the time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
