"""The results folder: every file that a run leaves has its place here, and its copy in object storage if there is one.

Nobody else joins the names of these folders.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.config.errors import UserError
from harness.records.files import temporary, write_text, written
from harness.records.mirror import Mirror, check_storage

# The file of a copied folder that is written last, by the folder it lies in: without its seal a copy does not exist.
_SEALS = {"trials": "record.json", "cache": "meta.json", "checkpoints": "state.json"}


@dataclass(frozen=True)
class Results:
    """A results folder.

    Attributes:
        root: where it is.
        mirror: the storage that it is copied to, None if there is none.
    """

    root: Path
    mirror: Mirror | None = None

    @classmethod
    def at(cls, root: Path, uri: str | None = None) -> "Results":
        """Return the results folder at a path with its mirror: the one that is noted in it, or the one asked for.

        Raises:
            UserError: no such storage, a library for it is missing, the folder has another mirror, or its note is
                unreadable.
        """
        if uri is not None:
            check_storage(uri)
        noted = _noted(root / "mirror.json")
        if uri is not None and noted not in (None, uri):
            raise UserError(f"{root} is mirrored at {noted}, not {uri}: remove {root / 'mirror.json'} to change that")
        uri = noted or uri
        return cls(root, None if uri is None else Mirror(uri))

    def note_mirror(self) -> None:
        """Write down which mirror the folder has, for every later run."""
        path = self.root / "mirror.json"
        if self.mirror is not None and _noted(path) is None:
            write_text(path, json.dumps({"uri": self.mirror.uri}) + "\n")

    def resolved(self) -> "Results":
        """Return the same folder by its absolute path, for processes that work elsewhere."""
        return replace(self, root=self.root.resolve())

    @property
    def cache(self) -> Path:
        """What trials share: packed text, and what is stored of the teacher."""
        return self.root / "cache"

    @property
    def cache_locks(self) -> Path:
        """Locks of those who build what trials share."""
        return self.cache / "locks"

    def packing(self, name: str) -> Path:
        """Return the folder of a data set that is being packed."""
        return self.cache / "packing" / name

    @property
    def punkt(self) -> Path:
        """What IFEval's checks read, in a folder of its own."""
        return self.cache / "nltk"

    @property
    def models(self) -> Path:
        """Models that were fetched, a folder each."""
        return self.cache / "models"

    @property
    def documents(self) -> Path:
        """What was read of installed packages."""
        return self.cache / "documents"

    @property
    def items(self) -> Path:
        """Items of evaluation tasks."""
        return self.cache / "items"

    @property
    def locks(self) -> Path:
        """Locks of trials."""
        return self.root / "locks"

    @property
    def trials(self) -> Path:
        """Records and tables, a folder for each trial."""
        return self.root / "trials"

    def trial(self, trial_id: str) -> Path:
        """Return the folder of a trial's record and tables."""
        return self.trials / trial_id

    def record(self, trial_id: str) -> Path:
        """Return the file of a trial's record."""
        return self.trial(trial_id) / "record.json"

    def checkpoints(self, trial_id: str) -> Path:
        """Return the folder of a trial's checkpoints while it is unfinished."""
        return self.root / "checkpoints" / trial_id

    def student(self, trial_id: str) -> Path:
        """Return the folder of a trained student's weights, if they were kept."""
        return self.root / "students" / trial_id

    def manifest(self, grid: str) -> Path:
        """Return the file that says which trials a grid consists of."""
        return self.root / grid / "manifest.json"

    @property
    def reports(self) -> Path:
        """Reports of what has run here, a folder for each grid."""
        return self.root / "reports"

    def tensorboard(self, grid: str) -> Path:
        """Return the folder of a grid's event files."""
        return self.root / "tensorboard" / grid

    def trash(self, name: str) -> Path:
        """Return the folder of what one command moves aside, named after the time and what is moved."""
        return self.root / "trash" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name}"

    def fetch(self, path: Path, *, changed: bool = False) -> bool:
        """Fetch a folder that is missing here from the mirror; return whether it was there and was fetched.

        Args:
            path: a trial, a cache or a checkpoint.
            changed: fetch it too where it is here with another seal than the mirror's.

        Raises:
            MirrorError: the storage cannot be read.
            UserError: the folder cannot be written.
        """
        if self.mirror is None or (path.exists() and not changed):
            return False
        place, seal = self._place(path), self._seal(path)
        sealed = self.mirror.read(f"{place}/{seal}")
        if sealed is None or ((path / seal).exists() and (path / seal).read_bytes() == sealed):
            return False
        aside = temporary(path, "retired")
        if path.exists():
            path.rename(aside)
        with written(path, first_stays=True) as partial:
            self.mirror.download(place, partial)
        shutil.rmtree(aside, ignore_errors=True)
        return True

    def offer(self, path: Path) -> None:
        """Copy a folder that is whole to the mirror, if there is one.

        Raises:
            MirrorError: the storage cannot be written to.
        """
        if self.mirror is not None:
            self.mirror.upload(path, self._place(path), last=self._seal(path))

    def withdraw(self, path: Path) -> None:
        """Remove a folder's copy from the mirror, if there is one.

        Raises:
            MirrorError: the storage cannot be written to.
        """
        if self.mirror is not None:
            self.mirror.remove(self._place(path))

    def copies(self, path: Path) -> list[str]:
        """Return the folders below one that are whole at the mirror, by name.

        Raises:
            MirrorError: the storage cannot be read.
        """
        return [] if self.mirror is None else self.mirror.names(self._place(path), self._seal(path))

    def exchange(self) -> tuple[int, int]:
        """Fetch the trials that are missing here, copy those that are missing there; return how many of both.

        Raises:
            MirrorError: the storage cannot be read or written to.
        """
        if self.mirror is None:
            return 0, 0
        there, here = set(self.copies(self.trials)), set(self.trial_ids())
        for name in sorted(here - there):
            self.offer(self.trial(name))
        return sum(self.fetch(self.trial(name)) for name in sorted(there - here)), len(here - there)

    def trial_ids(self) -> Sequence[str]:
        """Return the trials that have a record, by id."""
        return sorted(path.parent.name for path in self.trials.glob("*/record.json"))

    def _place(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _seal(self, path: Path) -> str:
        return _SEALS[path.relative_to(self.root).parts[0]]


def _noted(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["uri"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not readable; remove it, and name the mirror again with --mirror") from None
