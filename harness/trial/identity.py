"""What identifies the models, data and tasks that a workload names."""

from harness import models
from harness.config import Workload
from harness.config.legality import Facts, check_workload
from harness.data import text
from harness.evaluate import EVALUATION, evaluation
from harness.models.shapes import context_length
from harness.models.vocabulary import check_same_vocabulary, read_vocabulary
from harness.records.layout import Results


def fingerprints(workload: Workload, results: Results | None = None) -> dict[str, str]:
    """Hash what the workload's names stand for: weights, documents and evaluation tasks.

    What installed packages hold is kept in the results' cache, if there is one.

    Raises:
        UserError: a model or a file is missing or of the wrong shape, the two tokenizers differ, or the tasks cannot be
            asked of both models.
    """
    kept = None if results is None else results.documents
    vocabulary = read_vocabulary(workload.student, workload.folder)
    hashes = {
        "student": models.fingerprint(workload.student, workload.folder),
        "tokenizer": vocabulary.fingerprint,
        "data": text.fingerprint(workload.data, workload.folder, kept),
    }
    if workload.teacher is not None:
        check_same_vocabulary(read_vocabulary(workload.teacher, workload.folder), vocabulary)
        hashes["teacher"] = models.fingerprint(workload.teacher, workload.folder)
    limits = {
        name: context_length(source, workload.folder)
        for name, source in (("student", workload.student), ("teacher", workload.teacher))
        if source is not None
    }
    check_workload(workload, Facts(contexts=limits))
    # A row of a table may be the teacher as it is, so both must be able to answer.
    evaluation.check_evaluation(
        workload.evaluation,
        workload.folder,
        kept=kept,
        context=min(limits.values()),
        # Only to see whether it has a chat template: loading one takes seconds.
        tokenizer=models.load_tokenizer(workload.student, workload.folder)
        if workload.evaluation.chat_template
        else None,
    )
    digest = evaluation.fingerprint(workload.evaluation, workload.folder, kept)
    return hashes | {"evaluation": f"{EVALUATION}-{digest}"}
