"""Seeds where they decide: after the grid's own, more for the rows that are still undecided, and for the baseline.

The rows are chosen from the records of the grid's own seeds alone, so a run that is begun again chooses the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Console

from harness.records.layout import Results
from harness.records.record import SecondLook
from harness.run.plan import Plan


def stages(plan: Plan, results: Results, console: Console) -> Iterator[Plan]:
    """Yield a plan and, once that has run, the same with more seeds for its undecided rows, if it may have them."""
    yield plan
    if plan.second_look is None:
        return
    from harness.analysis.frame import load
    from harness.analysis.read import Run
    from harness.analysis.undecided import undecided

    manifest = plan.manifest(command="")
    labels = undecided(Run(manifest, load(results.root, manifest)))
    seeds = ", ".join(map(str, plan.second_look.seeds))
    told = f"seeds {seeds} for {', '.join(labels)}, and the baseline" if labels else "no row is"
    console.print(f"Undecided against {plan.grid.baseline}: {told}.", highlight=False, markup=False, soft_wrap=True)
    yield extended(plan, labels)


def extended(plan: Plan, undecided: Sequence[str]) -> Plan:
    """Add the further seeds of some rows, and of the baseline if there are any, to a plan."""
    assert plan.second_look is not None, "only for a plan that may have more seeds"
    wanted = {*undecided, plan.grid.baseline} if undecided else set()
    added = [(label, trial) for label, trial in plan.further if label in wanted]
    labels = tuple(dict.fromkeys(label for label, _ in plan.rows))
    rows = tuple(row for label in labels for row in (*plan.rows, *added) if row[0] == label)
    trials, new = ({trial.id: trial for _, trial in some} for some in (rows, added))
    return replace(
        plan,
        trials=tuple(trials.values()),
        chosen=tuple(trials.values()),
        todo=tuple(trial for trial in new.values() if trial.id in plan.further_todo),
        rows=rows,
        further=(),
        second_look=SecondLook(seeds=plan.second_look.seeds, labels=tuple(each for each in labels if each in wanted)),
    )
