"""A results folder that is kept on object storage too: what is whole is copied there, what is missing is fetched.

A folder (a trial, a cache, a checkpoint) is copied as one, its seal last: without the seal it does not exist there.
Which storage belongs to a results folder is written in the folder, so that every process that works in it knows.
"""

import functools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.config.errors import UserError
from harness.records.files import temporary, write_json, written

Kind = Literal["trials", "cache", "checkpoints"]
SEALS: dict[Kind, str] = {"trials": "record.json", "cache": "meta.json", "checkpoints": "state.json"}

_FILE = "mirror.json"


class MirrorError(UserError):
    """A storage could not be read or written to; it may be there again at the next attempt."""


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """The storage of one results folder.

    Attributes:
        root: the results folder.
        uri: where the storage is, as fsspec writes it (s3://bucket/folder, gs://..., file:///...).
    """

    root: Path
    uri: str

    def fetch(self, kind: Kind, name: str, *, replace: bool = False) -> bool:
        """Fetch a folder that is missing here; return whether it is there and was fetched.

        Args:
            kind: what it is.
            name: its place below the kind's folder.
            replace: fetch it too where this folder's seal is another one than the storage's.

        Raises:
            MirrorError: the storage cannot be read.
            UserError: the folder cannot be written.
        """
        local, remote, seal = self.root / kind / name, self._place(kind, name), SEALS[kind]
        if local.exists() and not replace:
            return False
        try:
            if not self._fs.exists(f"{remote}/{seal}"):
                return False
            if (local / seal).exists() and (local / seal).read_bytes() == self._fs.cat_file(f"{remote}/{seal}"):
                return False
            aside = temporary(local, "retired")
            if local.exists():
                local.rename(aside)
            with written(local, first_stays=True) as partial:
                for path in self._fs.find(remote):
                    target = partial / str(path).removeprefix(remote).lstrip("/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._fs.get_file(path, str(target))
            shutil.rmtree(aside, ignore_errors=True)
        except UserError:
            raise
        except Exception as error:
            # Every storage has exceptions of its own.
            raise self._failed("read", f"{kind}/{name}", error) from None
        return True

    def offer(self, kind: Kind, name: str) -> None:
        """Copy a folder that is whole.

        Raises:
            MirrorError: the storage cannot be written to.
        """
        local, remote, seal = self.root / kind / name, self._place(kind, name), SEALS[kind]
        files = sorted(path for path in local.rglob("*") if path.is_file() and not path.name.startswith("."))
        try:
            if self._fs.exists(f"{remote}/{seal}"):
                self._fs.rm_file(f"{remote}/{seal}")  # of other content: until the new one is whole, there is none
            for path in sorted(files, key=lambda path: path == local / seal):
                target = f"{remote}/{path.relative_to(local).as_posix()}"
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._fs.put_file(str(path), target)
        except Exception as error:
            raise self._failed("written to", f"{kind}/{name}", error) from None

    def remove(self, kind: Kind, name: str) -> None:
        """Remove a folder from the storage, if it is there.

        Raises:
            MirrorError: the storage cannot be written to.
        """
        remote = self._place(kind, name)
        try:
            if self._fs.exists(remote):
                self._fs.rm(remote, recursive=True)
        except Exception as error:
            raise self._failed("written to", f"{kind}/{name}", error) from None

    def names(self, kind: Kind, below: str = "") -> list[str]:
        """Return the folders of a kind that are whole, by name.

        Raises:
            MirrorError: the storage cannot be read.
        """
        place, seal = self._place(kind, below), SEALS[kind]
        try:
            found = self._fs.find(place) if self._fs.exists(place) else []
        except Exception as error:
            raise self._failed("read", kind, error) from None
        inside = (str(path).removeprefix(place).strip("/") for path in found)
        return sorted(path.removesuffix(f"/{seal}") for path in inside if path.endswith(f"/{seal}"))

    @property
    def _fs(self) -> Any:
        return _storage(self.uri)[0]

    def _place(self, kind: Kind, name: str) -> str:
        return "/".join(part for part in (_storage(self.uri)[1].rstrip("/"), kind, name) if part)

    def _failed(self, what: str, name: str, error: Exception) -> "MirrorError":
        told = str(error).strip().splitlines()
        return MirrorError(
            f"{self.uri.rstrip('/')}/{name} cannot be {what}: {type(error).__name__}{f': {told[0]}' if told else ''}. "
            "What is in the results folder is whole; run again to copy it"
        )


def attach(root: Path, uri: str) -> Mirror:
    """Give a results folder a mirror, for this and every later run.

    Raises:
        UserError: no such storage, a library for it is missing, or the folder has another mirror.
    """
    mirror = mirror_at(root, uri)
    if mirror_of(root) is None:
        write_json(root / _FILE, json.dumps({"uri": uri}))
    return mirror


def mirror_at(root: Path, uri: str) -> Mirror:
    """Return the mirror that a results folder has, or would have.

    Raises:
        UserError: as `attach`.
    """
    _storage(uri)
    found = mirror_of(root)
    if found is not None and found.uri != uri:
        raise UserError(f"{root} is mirrored at {found.uri}, not {uri}: remove {root / _FILE} to change that")
    return Mirror(root=root, uri=uri)


def mirror_of(root: Path) -> Mirror | None:
    """Return a results folder's mirror, None if it has none.

    Raises:
        UserError: the file that names it is unreadable.
    """
    path = root / _FILE
    try:
        return Mirror(root=root, uri=str(json.loads(path.read_text(encoding="utf-8"))["uri"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not readable; remove it, and name the mirror again with --mirror") from None


def fetch(path: Path, kind: Kind) -> bool:
    """Fetch `<results>/<kind>/<name>` if it is not here and its results folder's mirror has it."""
    found = mirror_of(path.parent.parent)
    return found is not None and found.fetch(kind, path.name)


def offer(path: Path, kind: Kind) -> None:
    """Copy `<results>/<kind>/<name>`, which is whole, to its results folder's mirror, if that has one."""
    found = mirror_of(path.parent.parent)
    if found is not None:
        found.offer(kind, path.name)


def exchange(mirror: Mirror) -> tuple[int, int]:
    """Fetch the trials that are missing here, copy those that are missing there; return how many of both.

    Raises:
        MirrorError: the storage cannot be read or written to.
    """
    there = set(mirror.names("trials"))
    here = {path.parent.name for path in (mirror.root / "trials").glob(f"*/{SEALS['trials']}")}
    for name in sorted(here - there):
        mirror.offer("trials", name)
    return sum(mirror.fetch("trials", name) for name in sorted(there - here)), len(here - there)


@functools.cache
def _storage(uri: str) -> tuple[Any, str]:
    # A plain install reads records without it.
    import fsspec

    try:
        # Other machines write there too, so nothing may be remembered of what it lists.
        found, place = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise UserError(f"--mirror {uri}: {str(error).splitlines()[0]}") from None
    return found, str(place)
