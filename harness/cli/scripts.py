"""Scripts of a checkout that made what ships, run as commands."""

import subprocess
import sys
from pathlib import Path

import strategies
from harness.config.errors import UserError


def run_script(module: str, *arguments: Path) -> None:
    """Run a script of the checkout in a process of its own, to its end.

    Args:
        module: its name, e.g. "scripts.tiny.build".
        arguments: passed to it.

    Raises:
        UserError: this installation is no checkout, so the script is not there; or the script failed.
    """
    checkout = Path(strategies.__file__).parent.parent
    file = checkout.joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        raise UserError(f"{file} is missing: this command runs in a checkout of the repository only")
    ended = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-m", module, *(str(each.resolve()) for each in arguments)], cwd=checkout, check=False
    )
    if ended.returncode != 0:
        raise UserError(f"{module} failed with exit code {ended.returncode}; its output stands above")
