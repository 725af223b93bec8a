"""A trained student as a folder for others: weights, tokenizer, the trial's record, and a model card made from it."""

import shutil
from pathlib import Path

import yaml

from harness.config.errors import UserError, unknown
from harness.records.files import written
from harness.records.layout import Results
from harness.records.record import Metric, Record
from harness.records.store import read_record

# Of a normal distribution, for 95%.
_Z = 1.959964


def export(results: Results, trial: str, to: Path | None) -> Path:
    """Copy a trial's student with its record and a model card.

    Args:
        results: where the trial ran.
        trial: the trial's id, or how it begins.
        to: a folder that does not exist yet; `exports/<trial id>` if None.

    Returns:
        The folder, which from_pretrained loads.

    Raises:
        UserError: no trial of this id, or several; it failed; its weights were not kept; the folder exists.
    """
    record = _record(results, trial)
    source, target = results.student(record.trial_id), to or Path("exports") / record.trial_id
    if not source.is_dir():
        raise UserError(_not_kept(record))
    if target.exists():
        raise UserError(f"{target} exists already; choose another folder with --to")
    with written(target) as partial:
        shutil.copytree(source, partial)
        shutil.copy(results.record(record.trial_id), partial)
        (partial / "README.md").write_text(card(record), encoding="utf-8")
    return target


def card(record: Record) -> str:
    """Return a model card: what was distilled, on what, what was measured, and how to do it again."""
    workload, layers = record.workload, record.workload["student"].get("layers")
    teacher = workload["teacher"]["path"] if workload["teacher"] else None
    data, lora = workload["data"], workload.get("lora")
    header = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["knowledge-distillation"]}
    named = data.get("generator") or " ".join(filter(None, (data.get("dataset"), data.get("name"))))
    rows = [f"| {name} | {_value(metric)} | {metric.num:,} |" for name, metric in sorted(record.metrics.items())]
    seed = "" if record.seed is None else f", seed {record.seed}"
    settings = {key: value for key, value in record.strategy.items() if key not in ("label", "source") and value}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(header, sort_keys=False).strip(),
            "---",
            f"# {record.label} on {workload['name']}{seed}",
            "",
            f"`{workload['student']['path']}`"
            + (f", layers {', '.join(map(str, layers))} of it" if layers else "")
            + (f", distilled from `{teacher}`." if teacher is not None else ", trained without a teacher."),
            "The licence is for whoever publishes this to choose, within those of both models and of the data.",
            "",
            "## Strategy",
            "",
            *([f"Source: {record.strategy['source']}.", ""] if record.strategy.get("source") else []),
            "```yaml",
            yaml.safe_dump(settings, sort_keys=False).strip(),
            "```",
            "",
            "## Data and optimisation",
            "",
            f"{record.cost.tokens:,} tokens of {named}, {data['sequence_length']} per sequence.",
            "",
            "```yaml",
            yaml.safe_dump(
                {"data": data, "optimisation": workload["optimisation"], **({"lora": lora} if lora else {})},
                sort_keys=False,
            ).strip(),
            "```",
            "",
            "## Measured",
            "",
            "Intervals are 95% over the items asked, for these weights; what other seeds would give is not in them.",
            "",
            "| metric | value | items |",
            "| --- | ---: | ---: |",
            *rows,
            "",
            "## Again",
            "",
            f"Trial `{record.trial_id}`, core `{record.core}`, with "
            + ", ".join(f"{name} {value}" for name, value in record.environment.items())
            + ".",
            "`record.json` beside this file holds every setting. A grid with the strategy above on this workload and",
            f"seed {record.seed} is the same trial: `harness run GRID --seeds {record.seed} --keep-students`.",
            "",
        ]
    )


def _value(metric: Metric) -> str:
    if metric.stderr is None:
        return f"{metric.value:.5g}"
    return f"{metric.value:.5g} ± {_Z * metric.stderr:.2g}"


def _record(results: Results, trial: str) -> Record:
    known = results.trial_ids()
    ids = [each for each in known if each.startswith(trial)]
    if not ids:
        raise unknown("trial", trial, known)
    if len(ids) > 1:
        raise UserError(f"{len(ids)} trials begin like {trial!r}: {', '.join(ids[:5])}")
    record = read_record(results.record(ids[0]))
    if record.status != "finished":
        raise UserError(f"trial {ids[0]} ({record.label}) failed, so there is no student to export")
    return record


def _not_kept(record: Record) -> str:
    if not record.strategy["train"]:
        return f"trial {record.trial_id} ({record.label}) trains nothing: its model is the one it was given"
    seconds = record.cost.wall_s.get("train", 0.0)
    return (
        f"the weights of trial {record.trial_id} ({record.label}) were not kept. Train it again, {seconds:.0f} s: "
        f"harness run GRID --only '{record.label}' --seeds {record.seed} --force --keep-students"
    )
