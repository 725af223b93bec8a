"""Evaluation suites: which lm-eval tasks are asked, what is kept of an answer, and what a task's own rows look like."""

from collections.abc import Mapping
from pathlib import Path

from harness.config.errors import UserError, unknown
from harness.data.documents.items import TASKS as DOCS
from harness.data.items import TASKS as TINY
from harness.evaluate.definitions import Columns, Definition, SuiteTask, find_official, read_definition
from harness.evaluate.scores import ACCURACY, ACCURACY_FLEXIBLE, ACCURACY_NORM, ADHERENCE, LOG_LIKELIHOOD

SUITES: Mapping[str, tuple[str, ...]] = {
    "tiny": ("tiny_completion", "tiny_lastword", "tiny_arithmetic", "tiny_instructions"),
    "docs": ("docs_lastword", "docs_continuation", "docs_signature", "docs_instructions"),
    "paper": ("hellaswag", "piqa", "arc_easy", "gsm8k", "lambada_openai", "ifeval"),
}

_DEFINITIONS = Path(__file__).parent / "tasks"
_GENERATED = {**dict.fromkeys(TINY, "tiny"), **dict.fromkeys(DOCS, "docs")}
_IFEVAL: Columns = {
    "key": "whole number",
    "prompt": "text",
    "instruction_id_list": "list of texts",
    "kwargs": "list of mappings",
}

# Our measure by lm-eval's name for it. Of several accuracies the first listed is the one that counts.
_MEASURES: Mapping[str, str] = {
    "acc": ACCURACY,
    "exact_match": ACCURACY,
    "acc_norm": ACCURACY_NORM,
    "perplexity": LOG_LIKELIHOOD,
    "adherence": ADHERENCE,
    "prompt_level_strict_acc": ADHERENCE,
    "prompt_level_loose_acc": f"{ADHERENCE}/prompt_loose",
    "inst_level_strict_acc": f"{ADHERENCE}/inst_strict",
    "inst_level_loose_acc": f"{ADHERENCE}/inst_loose",
}

# What a row of an official data set holds, so that a file of another shape is refused and told what to hold.
_COLUMNS: Mapping[str, Columns] = {
    "hellaswag": {
        "activity_label": "text",
        "ctx_a": "text",
        "ctx_b": "text",
        "endings": "list of texts",
        "label": "whole number, also as text",
    },
    "piqa": {"goal": "text", "sol1": "text", "sol2": "text", "label": "whole number"},
    "arc_easy": {"question": "text", "choices": "mapping", "answerKey": "text"},
    "arc_challenge": {"question": "text", "choices": "mapping", "answerKey": "text"},
    "gsm8k": {"question": "text", "answer": "text"},
    "lambada_openai": {"text": "text"},
    "ifeval": _IFEVAL,
    "docs_instructions": _IFEVAL,
}


def resolve_suite(suite: str | tuple[str, ...], folder: Path) -> tuple[SuiteTask, ...]:
    """Find the tasks of a suite.

    Args:
        suite: a suite's name, or a list of suites' names, lm-eval tasks' names and paths of task files (.yaml).
        folder: where relative paths are looked up.

    Returns:
        The tasks in the order named.

    Raises:
        UnknownNameError: no such suite or task; suggests the nearest.
        UserError: a task file that is missing or wrong, a task named twice, or one none of whose metrics is known.
    """
    if isinstance(suite, str) and suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    if not suite:
        raise UserError("evaluation.suite is empty: name at least one suite or task")
    tasks: dict[str, SuiteTask] = {}
    for entry in (suite,) if isinstance(suite, str) else suite:
        for name in SUITES.get(entry, (entry,)):
            task = _task(name, folder)
            if task.name in tasks:
                raise UserError(f"evaluation.suite names the task {task.name!r} twice")
            tasks[task.name] = task
    return tuple(tasks.values())


def _task(name: str, folder: Path) -> SuiteTask:
    if name in _GENERATED:
        path = _DEFINITIONS / _GENERATED[name] / f"{name}.yaml"
    elif name.endswith((".yaml", ".yml")):
        path = (folder / name).resolve()
    else:
        path = find_official(name)
    definition = read_definition(path)
    return SuiteTask(
        definition=definition,
        measures=_measures(definition),
        columns=_COLUMNS.get(name) or dict.fromkeys(definition.columns, "anything"),
        generated=name in _GENERATED,
        documentary=name in DOCS,
    )


def _measures(definition: Definition) -> dict[str, str]:
    measures: dict[str, str] = {}
    for metric in definition.metrics:
        measure = _MEASURES.get(metric)
        if measure is not None and measure not in measures.values():
            measures[f"{metric},{definition.filters[0]}"] = measure
    if "flexible-extract" in definition.filters[1:] and "exact_match" in definition.metrics:
        measures["exact_match,flexible-extract"] = ACCURACY_FLEXIBLE
    if not measures or "acc_mutual_info" in definition.metrics:
        raise UserError(
            f"task {definition.name!r} reports {', '.join(definition.metrics) or 'no metric'}; it must report one of "
            f"{', '.join(_MEASURES)}, and not acc_mutual_info"
        )
    return measures
