"""`harness evaluate`: any model, asked as a trial's student is, without a grid."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from harness.cli.shared import ResultsFolder, check_writable, command_line, console
from harness.config.errors import UserError

if TYPE_CHECKING:
    from harness.evaluate.evaluation import Scores


def evaluate(
    model: Annotated[str, typer.Argument(help="Hub name, or folder with weights and tokenizer.", metavar="MODEL")],
    suite: Annotated[
        list[str] | None, typer.Option(help="Suite, lm-eval task or task file; repeatable; paper if left out.")
    ] = None,
    data_files: Annotated[
        list[str] | None,
        typer.Option(help="Rows of a task; TASK.train=FILE for its examples; repeatable.", metavar="TASK=FILE"),
    ] = None,
    fewshot: Annotated[
        list[str] | None,
        typer.Option(help="Examples before a question instead of the task's own number; repeatable.", metavar="TASK=N"),
    ] = None,
    max_new_tokens: Annotated[
        list[str] | None,
        typer.Option(help="Tokens of an answer at most instead of the task's own; repeatable.", metavar="TASK=N"),
    ] = None,
    num_items: Annotated[int | None, typer.Option(help="First items of each task; all if left out.", min=1)] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Put prompts and examples as turns of the chat template.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Sequences of a forward pass.", min=1)] = 16,
    dtype: Annotated[str, typer.Option(help="Of the weights: float32, bfloat16 or float64.")] = "float32",
    revision: Annotated[str | None, typer.Option(help="Commit or tag of a hub model.")] = None,
    to: Annotated[
        Path | None, typer.Option(help="Write metrics.csv, items.csv and evaluation.json there.", metavar="DIR")
    ] = None,
    results: ResultsFolder = Path("results"),
) -> None:
    """Ask a model whole test splits through lm-eval, as trials are asked; prints scores with standard errors."""
    from harness.config import Evaluation, ModelSource
    from harness.config.workloads import read_workload
    from harness.config.yaml import parse

    fields = {
        "suite": suite or "paper",
        "split": "whole",
        "num_items": num_items,
        "batch_size": batch_size,
        "data_files": _files(data_files or []),
        "fewshot": _pairs("--fewshot", fewshot or []),
        "max_new_tokens": _pairs("--max-new-tokens", max_new_tokens or []),
        "chat_template": chat_template,
        "packages": read_workload("smol").data.packages,  # what the suite docs is made from
    }
    settings = parse(Evaluation, fields, where="harness evaluate")
    if to is not None:
        check_writable(to)

    import torch

    from harness import models
    from harness.config.errors import unknown
    from harness.evaluate.evaluation import check_evaluation
    from harness.evaluate.evaluation import evaluate as score
    from harness.models.shapes import context_length
    from harness.records.layout import Results

    if dtype not in models.DTYPES:
        raise unknown("dtype", dtype, models.DTYPES)
    source, folder = ModelSource(path=model, revision=revision), Path()
    tokenizer = models.load_tokenizer(source, folder)
    place = Results(results)
    context = context_length(source, folder)
    check_evaluation(settings, folder, context=context, tokenizer=tokenizer, kept=place.documents)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = models.load_model(source, folder, dtype=models.DTYPES[dtype], device=device)
    scores = score(loaded, tokenizer, settings, folder=folder, split="test", results=place)
    _print(scores)
    if to is not None:
        identity = {"model": model, "fingerprint": models.fingerprint(source, folder), "dtype": dtype, "device": device}
        _write(to, scores, identity | {"evaluation": settings.model_dump(mode="json")})


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    split = [text.partition("=") for text in texts]
    for name, equals, value in split:
        if not (name and equals and value):
            raise UserError(f"{option} takes TASK=VALUE, it is {name + equals + value!r}")
    return {name: value for name, _, value in split}


def _files(texts: list[str]) -> dict[str, dict[str, str]]:
    files: dict[str, dict[str, str]] = {}
    for name, path in _pairs("--data-files", texts).items():
        task, _, split = name.partition(".")
        files.setdefault(task, {})[split or "test"] = path
    return files


def _print(scores: "Scores") -> None:
    table = Table("metric", "value", "standard error", "items")
    for name, metric in sorted(scores.metrics.items()):
        stderr = "-" if metric.stderr is None else f"{metric.stderr:.4f}"
        table.add_row(name, f"{metric.value:.4f}", stderr, str(metric.num))
    console().print(table)


def _write(folder: Path, scores: "Scores", what: dict[str, Any]) -> None:
    from importlib.metadata import version

    import pandas as pd

    from harness.records.files import write_text

    folder.mkdir(parents=True, exist_ok=True)
    metrics = {name: metric.model_dump() for name, metric in sorted(scores.metrics.items())}
    tasks = {name: task.model_dump(mode="json") for name, task in scores.tasks.items()}
    versions = {name: version(name) for name in ("lm_eval", "transformers", "torch")}
    payload = {"command": command_line(), **what, "tasks": tasks, "versions": versions, "metrics": metrics}
    write_text(folder / "evaluation.json", json.dumps(payload, indent=2) + "\n")
    scores.items.to_csv(folder / "items.csv", index=False, lineterminator="\n")
    table = pd.DataFrame.from_dict(metrics, orient="index").rename_axis("metric")
    table.to_csv(folder / "metrics.csv", lineterminator="\n")
