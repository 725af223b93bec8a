"""Options that several groups of commands share."""

from pathlib import Path
from typing import Annotated

import typer

Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file that registers components of your own; repeatable.", metavar="FILE"),
]
