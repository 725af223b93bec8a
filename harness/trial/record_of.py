"""What a record says of a trial."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch

from harness.config import arithmetic
from harness.config.seeds import derive
from harness.config.strategy import recorded
from harness.data.documents.corpus import installed_versions, other_versions
from harness.distill.feature import PURPOSE
from harness.distill.optimiser import name_of
from harness.distill.tally import Tally
from harness.evaluate.evaluation import Scores
from harness.evaluate.heldout import Heldout
from harness.models import lora
from harness.records.record import Cost, Record, Rollouts, Supervision
from harness.teacher.provide import Stored
from harness.trial.stages import Stages, Taught
from harness.trial.trial import Trial, core_digest

_VERSIONS = ("torch", "transformers", "lm_eval", "datasets", "ray", "numpy")


def now() -> str:
    """Return the time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def identified(trial: Trial) -> dict[str, Any]:
    """Return the fields of a record that do not depend on how the trial ended."""
    return {
        "trial_id": trial.id,
        "label": trial.strategy.label,
        "strategy": recorded(trial.strategy),
        "workload": trial.workload.model_dump(mode="json"),
        "seed": trial.seed,
        "sources": dict(trial.sources),
        "core": core_digest(),
        "finished_at": now(),
    }


def finished_record(
    trial: Trial, stages: Stages, heldout: Heldout, scores: Scores, *, peak_gib: dict[str, float], started_at: str
) -> Record:
    """Build the record of an evaluated trial; peak memory, by device, is that up to the evaluation."""
    trained, taught, loaded = stages.trained, stages.taught, stages.loaded
    tally = trained.training.tally if trained is not None else None
    stored = _stored(stages)
    optimiser = {} if trained is None else {"optimiser": name_of(trial.workload.optimisation)}
    return Record(
        **identified(trial),
        status="finished",
        metrics=heldout.metrics | scores.metrics,
        selection=None if tally is None else _selection(tally),
        samples=stages.chosen.summary,
        rollouts=None
        if tally is None or trial.strategy.rollout is None
        else Rollouts(sequences=tally.rollouts, generated_tokens=tally.generated, ended=tally.ended),
        diagnostics=None if trained is None or trained.watch is None else trained.watch.settings.model_dump(),
        evaluation=scores.tasks,
        teacher_in_training="none" if taught.teacher is None else "model" if taught.teacher.online else "head",
        cost=Cost(
            wall_s=loaded.clock.wall_s,
            cpu_s=loaded.clock.cpu_s,
            thread_s=loaded.clock.thread_s,
            peak_gib=peak_gib,
            flops={} if trained is None else dict(trained.flops),
            tokens=0 if tally is None else tally.sequences * trial.workload.data.sequence_length,
            disk_bytes=_disk_bytes(taught, stored),
            shared_s=_shared_s(taught, stored),
        ),
        environment=environment(loaded.device) | optimiser | _documents(trial.workload.evaluation.packages),
        seeds=_seeds(trial),
        started_at=started_at,
    )


def tables_of(stages: Stages, heldout: Heldout, scores: Scores) -> dict[str, pd.DataFrame]:
    """Return the tables that lie beside a trial's record, by a name in `harness.records.record.TABLES`."""
    trained, samples = stages.trained, stages.chosen.table
    reliability = pd.concat([scores.reliability, heldout.reliability.assign(source="tokens")], ignore_index=True)
    items = pd.concat([scores.items, heldout.items], ignore_index=True)
    tables = {"items": items, "reliability": reliability[["source", *heldout.reliability.columns]]}
    if trained is not None:
        tables["curve"] = trained.training.curve
        tables |= {} if trained.watch is None else trained.watch.tables
    return tables if samples is None else {**tables, "samples": samples}


def environment(device: str) -> dict[str, str]:
    """Return the versions, the kind of machine and its arithmetic; no names of machines or people."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in _VERSIONS},
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": str(torch.get_num_threads()),
        **arithmetic.conditions(device),
    }


def _documents(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages whose documents were read, and which are not those that were expected."""
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions(packages).items())
    others = {"other_documents": ", ".join(other_versions(packages))}
    return {name: told for name, told in ({"documents": versions} | others).items() if told}


def _selection(tally: Tally) -> Supervision:
    return Supervision(
        valid_positions=tally.valid,
        supervised_positions=int(tally.supervised),
        realised_fraction=tally.supervised / max(tally.valid, 1),
        classes_per_position=tally.classes / max(tally.student_trained, 1) if tally.classes else None,
    )


def _stored(stages: Stages) -> dict[str, list[Stored[Any]]]:
    """Return what the trial reads from the disk besides the teacher's states, by kind."""
    taught, prepass = stages.taught, stages.chosen.prepass
    stored: dict[str, list[Stored[Any]]] = {}
    if prepass is not None:
        stored["prepass"] = [prepass]
    if taught.targets is not None:
        stored[taught.targets.store.meta.kind] = [taught.targets]
    if taught.scores:
        stored["scores"] = [*taught.scores.values()]
    return stored


def _disk_bytes(taught: Taught, stored: dict[str, list[Stored[Any]]]) -> dict[str, int]:
    hidden = {} if taught.states is None else {"hidden": taught.states.num_bytes}
    return hidden | {name: sum(each.num_bytes for each in kept) for name, kept in stored.items()}


def _shared_s(taught: Taught, stored: dict[str, list[Stored[Any]]]) -> dict[str, float]:
    """Return the seconds of what is shared; what this trial built itself is in its own wall time already."""
    hidden = {} if taught.states is None else {"hidden": taught.states.build_s}
    reused = {name: [each.build_s for each in kept if not each.built] for name, kept in stored.items()}
    return hidden | {name: sum(seconds) for name, seconds in reused.items() if seconds}


def _seeds(trial: Trial) -> dict[str, int]:
    if trial.seed is None:
        return {}
    strategy = trial.strategy
    purposes = ["global", *(["samples"] if strategy.samples else []), *([PURPOSE] if strategy.feature else [])]
    purposes += ["rollout"] if strategy.rollout else []
    purposes += [lora.PURPOSE] if trial.workload.lora else []
    return {purpose: derive(trial.seed, purpose) for purpose in purposes}
