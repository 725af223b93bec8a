"""One trial from beginning to end: its stages, its evaluation, its record. Knows nothing of Ray, grids or reports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from harness.config.annotations import PreTrainedModel, PreTrainedTokenizerBase
from harness.distill.group import ALONE, Group
from harness.evaluate.evaluation import Scores, evaluate
from harness.evaluate.heldout import Heldout, measure_heldout
from harness.records.layout import Results
from harness.records.record import Record
from harness.teacher.live import cached_teacher
from harness.trial.meter import peak_gib
from harness.trial.record_of import finished_record, now, tables_of
from harness.trial.stages import Keep, Loaded, OnStep, run_stages
from harness.trial.trial import Trial

# (trained student, tokenizer)
KeepStudent = Callable[[PreTrainedModel, PreTrainedTokenizerBase], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A trial's record and the tables that lie beside it, by a name in `harness.records.record.TABLES`."""

    record: Record
    tables: Mapping[str, pd.DataFrame]


def run_trial(
    trial: Trial,
    *,
    results: Results,
    on_step: OnStep | None = None,
    keep: Keep | None = None,
    keep_student: KeepStudent | None = None,
    group: Group = ALONE,
) -> Outcome:
    """Train and evaluate one trial; arguments and errors as in `run_stages`.

    Of a group, this is the first process; the others call `run_stages` alone. `keep_student` is handed the student once
    it is trained; its weights go with the process if None.
    """
    started_at = now()
    stages = run_stages(trial, results=results, on_step=on_step, keep=keep, group=group)
    loaded, trained = stages.loaded, stages.trained
    model, peak = loaded.model, dict[str, float]()
    if trained is not None:
        model = trained.model
        model.eval()
        if keep_student is not None:
            keep_student(model, loaded.inputs.tokenizer)
        # Evaluation holds what lm-eval's batches need, the same for every strategy: not what is compared.
        peak = peak_gib(loaded.device)
        if trained.live is not None:
            peak["step"] = trained.live.peak / 2**30
    with loaded.clock.phase("eval"):
        heldout, scores = _evaluate(trial, model, loaded)
    record = finished_record(trial, stages, heldout, scores, peak_gib=peak, started_at=started_at)
    return Outcome(record=record, tables=tables_of(stages, heldout, scores))


def _evaluate(trial: Trial, model: PreTrainedModel, loaded: Loaded) -> tuple[Heldout, Scores]:
    workload, inputs = trial.workload, loaded.inputs
    states = inputs.heldout_cache
    heldout = measure_heldout(
        model,
        inputs.heldout,
        cached_teacher(states, loaded.device) if states is not None else None,
        vocab_size=inputs.vocab_size,
        batch_size=workload.evaluation.batch_size,
        chunk=loaded.chunk,
        device=loaded.device,
    )
    scores = evaluate(
        model, inputs.tokenizer, workload.evaluation, folder=workload.folder, split=trial.split, results=loaded.results
    )
    return heldout, scores
