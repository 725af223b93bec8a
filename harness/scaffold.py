"""Files to start a component from."""

import re
from pathlib import Path

import strategies
from harness.errors import UserError
from harness.grid import load_grid
from harness.results import write_json
from strategies.registry import SIGNALS

_SIGNAL = '''"""{title}: say in one line what it measures."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("{name}", source="unpublished")
def {name}(
    *, student_logprobs: Float[Tensor, "N V"], teacher_logprobs: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """Score each position by ...

    The keyword names are the inputs: keep what you need of student_logprobs, teacher_logprobs, student_logits,
    teacher_logits, targets (N,), noise (N,), or name any other signal, e.g. `kl`, to get its scores (N,).

    Returns:
        Unit and range. Higher scores are distilled first.
    """
    raise NotImplementedError("replace this line by the score")
'''

_TEST = '''"""What {name} must rank first. The contract tests cover shape, dtype and chunking already."""

import torch

from strategies.signals.{name} import {name}


def test_{name}_ranks_what_it_is_meant_to() -> None:
    student = torch.tensor([[0.97, 0.02, 0.01], [0.34, 0.33, 0.33]]).log()
    teacher = torch.tensor([[0.97, 0.02, 0.01], [0.05, 0.90, 0.05]]).log()
    agreed, undecided = {name}(student_logprobs=student, teacher_logprobs=teacher)
    assert undecided > agreed, "state here which of two positions your signal must rank first"
'''


def new_signal(name: str, *, grid: Path | None, root: Path | None = None) -> list[str]:
    """Write a signal file and its test, and add the signal to a grid's sweep.

    Args:
        name: the signal's name and file stem.
        grid: the grid file to add it to, None to leave grids alone.
        root: the project's folder; where the `strategies` package lies if left out.

    Returns:
        What was done and what is left to do, one line each.

    Raises:
        UserError: the name is no identifier or taken, or the grid has no sweep over position.signal; then nothing is
            written.
    """
    root = root or Path(strategies.__file__).parent.parent
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"signal name {name!r}: use small letters, digits and underscores, beginning with a letter")
    if name in SIGNALS:
        raise UserError(f"signal {name!r} exists already: {SIGNALS[name].build.__module__}")
    extended = None if grid is None else _with_signal(grid, name)
    source, test = root / "strategies" / "signals" / f"{name}.py", root / "tests" / f"test_signal_{name}.py"
    for path in (source, test):
        if path.exists():
            raise UserError(f"{path} exists already")
    title = name.replace("_", " ").capitalize()
    source.write_text(_SIGNAL.format(name=name, title=title), encoding="utf-8")
    test.parent.mkdir(exist_ok=True)
    test.write_text(_TEST.format(name=name), encoding="utf-8")
    lines = [f"wrote {source}: replace its last line by the score", f"wrote {test}: say what it must rank first"]
    if grid is not None and extended is not None:
        write_json(grid, extended.rstrip("\n"))
        lines += [f"added {name} to {grid}", f"then: harness run {grid}"]
    return lines


def _with_signal(grid: Path, name: str) -> str:
    """Return a grid file's text with one more value at the end of its first sweep over position.signal.

    The text is edited rather than dumped anew, because comments are part of a grid.
    """
    load_grid(grid)
    lines = grid.read_text(encoding="utf-8").splitlines()
    start = next((number for number, line in enumerate(lines) if re.match(r"\s*position\.signal:\s*$", line)), None)
    if start is None:
        raise UserError(
            f"{grid} has no sweep over position.signal to add {name!r} to: use --no-grid and edit it by hand"
        )
    last = start
    while last + 1 < len(lines) and re.match(r"\s*(- |#|$)", lines[last + 1]) and not _ends(lines, start, last + 1):
        last += 1
    indent = re.match(r"\s*", lines[start + 1])
    assert indent is not None
    lines.insert(last + 1, f"{indent.group()}- {name}")
    return "\n".join(lines) + "\n"


def _ends(lines: list[str], start: int, number: int) -> bool:
    """Tell whether a line stands further left than the sweep's list, so that it belongs to something else."""
    return len(lines[number]) - len(lines[number].lstrip()) < len(lines[start + 1]) - len(lines[start + 1].lstrip())
