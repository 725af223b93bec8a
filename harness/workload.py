"""Workload files: loading, and what identifies the models, data and tasks they name."""

import hashlib
from pathlib import Path

from harness.config import Workload
from harness.errors import UserError, unknown
from harness.files import parse, read_yaml
from strategies.digest import source_digest

_BUILT_IN = Path(__file__).parent / "workloads"
ASSETS = _BUILT_IN / "tiny"
_EVALUATE = Path(__file__).parent / "evaluate"


def built_in() -> list[str]:
    """Return the names of the workloads that ship with the harness."""
    return sorted(path.stem for path in _BUILT_IN.glob("*.yaml"))


def load_workload(name: str) -> Workload:
    """Load a workload by its built-in name or the path of a YAML file.

    Raises:
        UserError: the file is missing or wrong; names the key and the value.
        UnknownNameError: no built-in workload of this name; suggests the nearest.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else _BUILT_IN / f"{name}.yaml"
    if not name.endswith((".yaml", ".yml")) and name not in built_in():
        raise unknown("workload", name, built_in())
    fields = {"name": path.stem, **read_yaml(path), "folder": path.resolve().parent}
    return _decided(parse(Workload, fields, where=str(path)))


def _decided(workload: Workload) -> Workload:
    """Replace an optimiser that depends on what is installed by the one it comes down to here."""
    settings = workload.optimisation
    if settings.optimiser != "adamw_8bit_if_available":
        return workload
    # Torch is imported for workloads that ask for it only: `harness list` reads them all.
    from harness.distill.optimiser import eight_bit

    found = "adamw" if workload.resources.shard_student or eight_bit() is None else "adamw_8bit"
    return workload.model_copy(update={"optimisation": settings.model_copy(update={"optimiser": found})})


def fingerprints(workload: Workload) -> dict[str, str]:
    """Hash what the workload's names stand for: weights, documents and evaluation tasks.

    Raises:
        UserError: a model or a file is missing or of the wrong shape, the two tokenizers differ, or the tasks cannot be
            asked of both models.
    """
    from harness import models
    from harness.data import text
    from harness.evaluate import evaluation

    student_tokenizer = models.load_tokenizer(workload.student, workload.folder)
    found = {
        "student": models.fingerprint(workload.student, workload.folder),
        "tokenizer": models.tokenizer_fingerprint(student_tokenizer),
        "data": text.fingerprint(workload.data, workload.folder),
    }
    if workload.teacher is not None:
        models.check_same_vocabulary(models.load_tokenizer(workload.teacher, workload.folder), student_tokenizer)
        found["teacher"] = models.fingerprint(workload.teacher, workload.folder)
    limits = {
        name: models.context_length(source, workload.folder)
        for name, source in (("student", workload.student), ("teacher", workload.teacher))
        if source is not None
    }
    for name, limit in limits.items():
        if workload.data.sequence_length > limit:
            raise UserError(
                f"workload {workload.name!r}: data.sequence_length {workload.data.sequence_length} is more than the "
                f"{name}'s context of {limit} tokens"
            )
    # A row of a table may be the teacher as it is, so both must be able to answer.
    evaluation.check_evaluation(workload.evaluation, workload.folder, context=min(limits.values()))
    digest = evaluation.fingerprint(workload.evaluation, workload.folder)
    return found | {"evaluation": f"{_evaluation_digest()}-{digest}"}


def _evaluation_digest() -> str:
    """Hash the code and the task files that turn a student into metrics, and the items they are asked."""
    digest = hashlib.sha256()
    for path in sorted([*_EVALUATE.rglob("*.py"), _EVALUATE.parent / "data" / "items.py"]):
        digest.update(source_digest(path.read_text(encoding="utf-8")).encode())
    for path in sorted(_EVALUATE.rglob("*.yaml")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
