"""What is started over is moved aside, not deleted."""

from dataclasses import dataclass
from pathlib import Path

from harness.config.errors import UserError
from harness.records import lock
from harness.records.layout import Results
from harness.run.attempt import lock_name
from harness.trial.trial import Trial

_SECONDS_FOR_A_LOCK = 1.0


@dataclass(frozen=True, kw_only=True)
class Trash:
    """One folder for what one command moves aside.

    Attributes:
        results: what it is moved out of.
        folder: where to, `Results.trash`; made when something is moved.
    """

    results: Results
    folder: Path

    def take(self, trial: Trial, *, record: bool) -> bool:
        """Move a trial's checkpoints, and its record and tables if asked to; tell whether there was anything.

        Raises:
            UserError: another process runs the trial, or it cannot be moved.
        """
        places = [self.results.checkpoints(trial.id)] + [self.results.trial(trial.id)] * record
        found = [path for path in places if path.exists()]
        if not found:
            return False
        try:
            with lock.held(self.results.locks, lock_name(trial.id), doing="moved", timeout_s=_SECONDS_FOR_A_LOCK):
                for path in found:
                    target = self.folder / path.relative_to(self.results.root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.rename(target)
        except lock.LockedError as error:
            raise UserError(f"{trial.name} ({trial.id}) cannot be started over: it is {error}") from None
        except OSError as error:
            raise UserError(f"{error.filename} cannot be moved to {self.folder}: {error.strerror}") from None
        return True
