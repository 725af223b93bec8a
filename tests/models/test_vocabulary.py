"""Vocabularies read from files alone: the same, to the last byte, as transformers makes of them, or left to it."""

import json
import shutil
from pathlib import Path

import pytest

from harness.config import ModelSource
from harness.config.workloads import ASSETS
from harness.models import load_tokenizer, vocabulary
from harness.models.vocabulary import Vocabulary, read_vocabulary


@pytest.fixture
def folder(checkpoints: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints / "student", tmp_path / "student"))


def change(folder: Path, **settings: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("embedded", [True, False])
def test_a_vocabulary_of_files_is_the_tokenizers(embedded: bool, checkpoints: Path) -> None:
    source, folder = ModelSource(path="./student"), ASSETS if embedded else checkpoints
    plain = vocabulary._plain(folder / "student")
    assert plain is not None
    assert plain == read_vocabulary(source, folder) == Vocabulary.of(load_tokenizer(source, folder))


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "Qwen2Tokenizer"},
        {"add_prefix_space": True},
        {"extra_special_tokens": ["<|more|>"]},
        {"pad_token": "<|pad|>"},
        {"unk_token": "a"},
    ],
)
def test_what_transformers_would_change_is_left_to_it(settings: dict[str, object], folder: Path) -> None:
    change(folder, **settings)
    assert vocabulary._plain(folder) is None
    source = ModelSource(path=str(folder))
    loaded = Vocabulary.of(load_tokenizer(source, folder)) if "pad_token" not in settings else None
    if loaded is not None:
        assert read_vocabulary(source, folder) == loaded
