"""What a grid's report says, in reading order."""

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis import archive, findings, settings
from harness.analysis.claims import ClaimVerdict, Judgement, claims_table, judge_claims
from harness.analysis.comparison import compare_runs
from harness.analysis.document import Block, Code, Contents, Plot, Section, Table, Text
from harness.analysis.frame import Frames
from harness.analysis.read import Run
from harness.analysis.tables import noted
from harness.analysis.tables.build import SEED, STRATEGY, build, counts, words
from harness.records.record import Manifest, Record

_MESSAGE_LIMIT = 300
# Of one claim, and of several.
_VERDICTS: dict[ClaimVerdict, tuple[str, str]] = {
    "holds": ("holds", "hold"),
    "contradicted": ("is contradicted", "are contradicted"),
    "undecided": ("is undecided", "are undecided"),
    "not measured": ("is not measured", "are not measured"),
}


def compose(
    run: Run, tables: tuple[Table, ...], plots: tuple[Plot, ...], *, folder: Path, other: Run | None = None
) -> Contents:
    """Say everything that a grid's records say; `folder` holds records/, whose files are named with their hashes."""
    # Where nothing was measured there is no main table.
    main = tables[:1] if tables and tables[0].name == "main" else ()
    warnings = findings.warnings(run)
    told = findings.findings(run)
    # The headlines come first, as a list of points, and after them every difference of every metric.
    headlines = len(told) == 1 or any(isinstance(block, Text) and block.points for block in told[:1])
    question = re.sub(r"^hypothesis:\s*", "", run.manifest.hypothesis.strip(), flags=re.IGNORECASE)
    judged = judge_claims(run)
    claimed = claims_table([(run.manifest.grid, each) for each in judged], "claims", "What the grid claims")
    sections = [
        Section(title="Claims", blocks=_claims(judged)),
        Section(title="Warnings", blocks=(Text(lines=warnings, points=True, warning=True),) if warnings else ()),
        Section(title="Findings", blocks=told[:headlines]),
        Section(title="Results", blocks=(*main, *plots[:1])),
        Section(title="Every difference", blocks=told[headlines:], folded=True),
        Section(title="Further tables", blocks=(*tables[len(main) :], *([noted(run, claimed)] if claimed else []))),
        Section(title="Further figures", blocks=plots[1:]),
        Section(title="What is noise", blocks=findings.noise(run)),
        Section(title="Failures", blocks=_failures(run.frames)),
        *([compare_runs(run, other)] if other is not None else []),
        Section(title="Reproduce", blocks=_reproduce(run.manifest, folder)),
        Section(title="Provenance", blocks=tuple(_provenance(run.frames, folder)), folded=True),
    ]
    return Contents(
        title=run.manifest.grid,
        lead=question[:1].upper() + question[1:],
        facts=_facts(run),
        sections=tuple(section for section in sections if section.blocks),
    )


def _claims(judged: tuple[Judgement, ...]) -> tuple[Block, ...]:
    if not judged:
        return ()
    tally = Counter(each.verdict for each in judged)
    said = ", ".join(f"{num} {word[num > 1]}" for verdict, word in _VERDICTS.items() if (num := tally[verdict]))
    lines = (
        f"Of {len(judged)} claims that the grid makes, {said}.",
        "In brackets the 95% interval of the single difference; verdicts are of one-sided tests that allow for the "
        "number of claims, so one may stand where that interval ends close beyond zero.",
    )
    return (
        Text(lines=lines),
        Text(lines=tuple(each.sentence for each in judged), points=True),
    )


def _facts(run: Run) -> tuple[tuple[str, str], ...]:
    manifest, trials = run.manifest, run.frames.trials
    return (
        ("Workload", manifest.workload),
        ("Split", manifest.split),
        ("Baseline", manifest.baseline or "none"),
        ("Strategies", str(trials["label"].nunique())),
        ("Seeds", ", ".join(map(str, run.seeds)) or "none"),
        ("Trials", counts(trials["status"], "finished", "failed", "missing")),
    )


def _failures(frames: Frames) -> tuple[Block, ...]:
    unfinished = frames.trials[frames.trials["status"] != "finished"]
    if unfinished.empty:
        return (Text(lines=(f"None: all {len(frames.trials)} trials finished.",)),)
    columns = ["label", "seed", "trial_id", "status", "failure_kind", "failure_message"]
    table = build(
        "failures",
        f"{len(unfinished)} of {len(frames.trials)} trials did not finish",
        unfinished[columns].to_dict("records"),
        [STRATEGY, SEED, words("Trial", "trial_id", code=True), words("Status", "status"), words("Reason", _reason)],
        caption="They count as planned in every table. A failed trial's record holds its whole traceback.",
        numbers=unfinished[columns],
    )
    return (table,)


def _reason(row: Mapping[Hashable, Any]) -> str:
    if row["status"] == "missing":
        return "no record: it was not run, or it was interrupted"
    if pd.isna(row["failure_kind"]):
        return "its record gives no reason"
    text = f"{row['failure_kind']}: {row['failure_message']}"
    return text if len(text) <= _MESSAGE_LIMIT else f"{text[:_MESSAGE_LIMIT]}…"


def _reproduce(manifest: Manifest, folder: Path) -> tuple[Block, ...]:
    kept = [name for name in archive.digests(folder) if not name.endswith(".json")]
    tables = ", ".join(f"records/{name}" for name in kept) or "none"
    return (
        Text(lines=("The trials again, and then this report:",)),
        Code(text=manifest.command),
        Text(lines=("This report alone, from the records it carries; neither torch nor a GPU is needed:",)),
        Code(text=f"pip install .\nharness report reports/{manifest.grid}"),
        Text(
            lines=(
                f"Everything here is made from manifest.json and records/. Tables beside the records: {tables}; one "
                f"above {archive.TABLE_LIMIT_BYTES // 2**20} MiB stays out.",
            )
        ),
    )


def _provenance(frames: Frames, folder: Path) -> Iterator[Block]:
    records = [record for record in frames.records if record is not None]
    yield _setting_table(records)
    hashes = archive.digests(folder)
    yield _trial_table(frames, hashes)
    tables = [(name, digest) for name, digest in hashes.items() if not name.endswith(".json")]
    if tables:
        yield Text(lines=("SHA-256 of the tables:", *(f"{name} {digest}" for name, digest in tables)), points=False)


def _setting_table(records: list[Record]) -> Table:
    groups = settings.grouped(records).items()
    rows = [(kind, key, "; ".join(values)) for kind, group in groups for key, values in group.items()]
    return build(
        "settings",
        "Versions and workload",
        rows,
        [words("Setting", itemgetter(1)), words("Value", itemgetter(2))],
        caption="As the records state them; several values are separated by semicolons.",
        numbers=pd.DataFrame(rows, columns=["kind", "setting", "value"]),
    )


def _trial_table(frames: Frames, hashes: dict[str, str]) -> Table:
    numbers = frames.trials[["label", "seed", "trial_id", "status"]].copy()
    numbers["sha256"] = [hashes.get(f"{trial}.json") for trial in numbers["trial_id"]]
    return build(
        "trials",
        "Trials and their records",
        numbers.to_dict("records"),
        [
            STRATEGY,
            SEED,
            words("Trial", "trial_id", code=True),
            words("Status", "status"),
            words("SHA-256 of its record", "sha256", code=True),
        ],
        caption="A trial's id is a hash of what it computes: strategy, workload, seed, split and source. Its record is "
        "records/<trial>.json; `sha256sum records/*.json` prints the last column.",
        numbers=numbers,
    )
