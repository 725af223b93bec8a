"""Object storage that a results folder is copied to: folders that are whole there, or do not exist.

A folder (a trial, a cache, a checkpoint) is copied as one, its seal last: without the seal it does not exist there.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.errors import UserError, first_line


class MirrorError(UserError):
    """A storage could not be read or written to; it may be there again at the next attempt."""


@dataclass(frozen=True)
class Mirror:
    """A storage. A place is a path below its root, with slashes.

    Attributes:
        uri: where it is, as fsspec writes it (s3://bucket/folder, gs://..., file:///...).
    """

    uri: str

    def read(self, place: str) -> bytes | None:
        """Return a file's content, None if there is no such file.

        Raises:
            MirrorError: the storage cannot be read.
        """
        with self._asked("read", place):
            path = self._path(place)
            return bytes(self._fs.cat_file(path)) if self._fs.exists(path) else None

    def download(self, place: str, folder: Path) -> None:
        """Copy everything below a place into a folder here.

        Raises:
            MirrorError: the storage cannot be read.
            OSError: the folder cannot be written.
        """
        root = self._path(place)
        with self._asked("read", place, but=OSError):
            for path in self._fs.find(root):
                target = folder / str(path).removeprefix(root).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(path, str(target))

    def upload(self, folder: Path, place: str, *, last: str) -> None:
        """Copy a folder that is whole, and its seal `last`.

        Raises:
            MirrorError: the storage cannot be written to.
        """
        root = self._path(place)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        with self._asked("written to", place):
            if self._fs.exists(f"{root}/{last}"):
                self._fs.rm_file(f"{root}/{last}")  # of other content: until the new one is whole, there is none
            for path in sorted(files, key=lambda path: path == folder / last):
                target = f"{root}/{path.relative_to(folder).as_posix()}"
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._fs.put_file(str(path), target)

    def remove(self, place: str) -> None:
        """Remove what is below a place, if there is anything.

        Raises:
            MirrorError: the storage cannot be written to.
        """
        with self._asked("written to", place):
            if self._fs.exists(self._path(place)):
                self._fs.rm(self._path(place), recursive=True)

    def names(self, place: str, seal: str) -> list[str]:
        """Return the folders below a place that hold a seal, by their path from there.

        Raises:
            MirrorError: the storage cannot be read.
        """
        root = self._path(place)
        with self._asked("read", place):
            files = self._fs.find(root) if self._fs.exists(root) else []
        inside = (str(path).removeprefix(root).strip("/") for path in files)
        return sorted(path.removesuffix(f"/{seal}") for path in inside if path.endswith(f"/{seal}"))

    @property
    def _fs(self) -> Any:
        return _storage(self.uri)[0]

    def _path(self, place: str) -> str:
        return "/".join((_storage(self.uri)[1].rstrip("/"), place))

    @contextmanager
    def _asked(self, what: str, place: str, *, but: type[Exception] = UserError) -> Iterator[None]:
        """Say which storage failed at what; every storage has exceptions of its own."""
        try:
            yield
        except but:
            raise
        except Exception as error:
            line = first_line(error, empty="")
            raise MirrorError(
                f"{self.uri.rstrip('/')}/{place} cannot be {what}: {type(error).__name__}"
                f"{f': {line}' if line else ''}. What is in the results folder is whole; run again to copy it"
            ) from None


def check_storage(uri: str) -> None:
    """Refuse a storage that cannot be.

    Raises:
        UserError: no such storage, or a library for it is missing.
    """
    _storage(uri)


@functools.cache
def _storage(uri: str) -> tuple[Any, str]:
    # A plain install reads records without it.
    import fsspec

    try:
        # Other machines write there too, so nothing may be remembered of what it lists.
        storage, place = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise UserError(f"--mirror {uri}: {first_line(error)}") from None
    return storage, str(place)
