"""The documents of a list of packages: read once, kept on the disk, identified by their content."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from harness.config.errors import UserError
from harness.data.documents.read import Document, digest_files, installed_version, read_documents, source_files
from harness.data.documents.splits import split_documents
from harness.records.files import write_text

# The version of what is read and how it is split, a part of every trial's identity: raised by whoever changes it on
# purpose. tests/data/test_documents.py holds hashes.
DOCUMENTS = 1
DOCUMENTS_SEED = 20261
# Registered names of what is read.
DOCSTRINGS, CODE = "docstrings", "code"

_KNOWN: dict[tuple[str, tuple[str, ...]], "Documents"] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """Documents of some packages; each call of `load_documents` for the same ones returns the same object.

    Attributes:
        splits: documents of train, validation and test, in the order in which they are used.
        versions: installed version by package.
        digest: hash of all of it.
    """

    splits: Mapping[str, Sequence[Document]]
    versions: Mapping[str, str]
    digest: str


def load_documents(generator: str, packages: Sequence[str], cache: Path | None = None) -> Documents:
    """Read the documents of packages, or find them read.

    Args:
        generator: `docstrings` or `code`.
        packages: distributions, each with the version that is expected or without (`numpy==2.4.6`).
        cache: a folder where they are kept for the next process; none if None.

    Raises:
        UserError: a package is not installed.
    """
    key = generator, tuple(packages)
    if key not in _KNOWN:
        _KNOWN[key] = _load(generator, [name_of(package) for package in packages], cache)
    return _KNOWN[key]


def name_of(package: str) -> str:
    """Return a package's name without the version that is expected of it."""
    return package.partition("==")[0]


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return each package's installed version, of those that are installed."""
    found = {name: installed_version(name) for name in map(name_of, packages)}
    return {name: version for name, version in found.items() if version is not None}


def other_versions(packages: Sequence[str]) -> list[str]:
    """Say which packages have another version than the expected one."""
    found = installed_versions(packages)
    wanted = (package.partition("==")[::2] for package in packages if "==" in package)
    return [f"{name} {found[name]} instead of {version}" for name, version in wanted if found.get(name) != version]


def _load(generator: str, names: Sequence[str], cache: Path | None) -> Documents:
    try:
        files = {name: source_files(name) for name in names}
    except PackageNotFoundError as error:
        name = str(error.args[0])
        raise UserError(f"package {name!r} of data.packages is not installed: pip install {name}") from None
    versions = installed_versions(names)
    digests = [(name, digest_files(files[name])) for name in names]
    key = hashlib.sha256(json.dumps([DOCUMENTS, DOCUMENTS_SEED, generator, digests]).encode()).hexdigest()[:16]
    place = None if cache is None else cache / f"{generator}-{key}.json"
    splits = None if place is None else _kept(place)
    if splits is None:
        read = (each for name in names for each in read_documents(name, files[name], code=generator == CODE))
        splits = split_documents(read, seed=DOCUMENTS_SEED)
        if place is not None:
            write_text(place, _sealed(splits))
    digest = hashlib.sha256(json.dumps([DOCUMENTS, versions, _plain(splits)]).encode()).hexdigest()[:16]
    return Documents(splits=splits, versions=versions, digest=digest)


def _plain(splits: Mapping[str, Sequence[Document]]) -> dict[str, list[dict[str, str]]]:
    return {split: [asdict(document) for document in documents] for split, documents in splits.items()}


def _sealed(splits: Mapping[str, Sequence[Document]]) -> str:
    text = json.dumps(_plain(splits))
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n"


def _kept(place: Path) -> dict[str, list[Document]] | None:
    """Read what was kept; None where nothing was, or not the whole of it: it is read from the packages then."""
    if not place.exists():
        return None
    checksum, _, text = place.read_text(encoding="utf-8").partition("\n")
    if hashlib.sha256(text.removesuffix("\n").encode()).hexdigest() != checksum:
        return None
    return {split: [Document(**fields) for fields in listed] for split, listed in json.loads(text).items()}
