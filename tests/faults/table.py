"""The table of faults: what was injected, and what came of it."""

import csv
from pathlib import Path

FOLDER = Path(__file__).parent.parent.parent / "reports" / "robustness"

_ABOUT = """# What was done to runs, and what came of it

Written by `make test-faults`. Each fault is injected into a run of a small grid at a seeded instant; the same run is
then taken to its end, and every record (metrics with all digits, selections, operations, checksums of tables; not
seconds and the worker's resident memory) and a hash of the trained weights are compared with those of the undisturbed
run.
A fault is survived if the run then ends by itself with nothing lost and nothing that differs.
"""


class Faults:
    """Counts by kind of fault."""

    COLUMNS = ("faults", "survived", "records lost", "records that differ", "orphan processes", "locks left")

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, int]] = {}

    def note(self, kind: str, **found: int) -> None:
        """Add to the row of a kind; a column's blanks are underscores, and one left out is 0."""
        row = self.rows.setdefault(kind, dict.fromkeys(self.COLUMNS, 0))
        for name, value in found.items():
            row[name.replace("_", " ")] += value

    def lines(self) -> list[list[str]]:
        """Return the table, heading and total included."""
        total = {column: sum(row[column] for row in self.rows.values()) for column in self.COLUMNS}
        rows = {**self.rows, "all": total}
        return [["fault", *self.COLUMNS], *([kind, *(str(row[c]) for c in self.COLUMNS)] for kind, row in rows.items())]

    def markdown(self) -> str:
        """Return the table as text."""
        heading, *rows = self.lines()
        rule = ["---", *["---:"] * len(self.COLUMNS)]
        return "".join(f"| {' | '.join(line)} |\n" for line in (heading, rule, *rows))

    def write(self) -> None:
        """Write faults.csv and faults.md."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        with (FOLDER / "faults.csv").open("w", encoding="utf-8", newline="") as handle:
            csv.writer(handle, lineterminator="\n").writerows(self.lines())
        (FOLDER / "faults.md").write_text(f"{_ABOUT}\n{self.markdown()}", encoding="utf-8")
