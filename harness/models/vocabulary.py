"""What a plan reads of a tokenizer: its tokens and their ids, from its files alone where these say everything."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from harness.config import ModelSource
from harness.config.annotations import PreTrainedTokenizerBase
from harness.config.errors import UserError
from harness.models.load import check_rows, load_tokenizer, locate
from harness.models.shapes import is_on_disk, known_models, outline

# Classes of transformers that are tokenizer.json as it stands, and settings that change nothing of it.
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_SPECIAL = {"bos_token", "eos_token", "pad_token", "unk_token"}
_SETTINGS = _SPECIAL | {
    "backend",
    "chat_template",
    "clean_up_tokenization_spaces",
    "is_local",
    "local_files_only",
    "model_max_length",
    "tokenizer_class",
}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What maps text to ids.

    Attributes:
        ids: id of every token.
        end: id of the end-of-text token.
        backend: the tokenizer in the library's own JSON.
    """

    ids: Mapping[str, int]
    end: int
    backend: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "Vocabulary":
        """Take it from a loaded tokenizer."""
        return cls(
            ids=tokenizer.get_vocab(), end=int(tokenizer.eos_token_id), backend=tokenizer.backend_tokenizer.to_str()
        )

    @property
    def fingerprint(self) -> str:
        """Hash of all of it."""
        payload = json.dumps([self.backend, sorted(self.ids.items()), self.end])
        return hashlib.sha256(payload.encode()).hexdigest()[:16]


def read_vocabulary(source: ModelSource, folder: Path) -> Vocabulary:
    """Read a model's vocabulary; through transformers, which takes seconds, only where its files alone do not tell.

    Raises:
        UserError: as `load_tokenizer`.
    """
    located = locate(source, folder)
    vocabulary = _plain(located)
    if vocabulary is None:
        return Vocabulary.of(load_tokenizer(source, folder))
    check_rows(located, len(vocabulary.ids), int(outline(source, folder).vocab_size))
    return vocabulary


def _plain(located: Path) -> Vocabulary | None:
    """Read a tokenizer that transformers would leave as it is; None where it might add to it, or is to refuse it."""
    if (located / "special_tokens_map.json").exists() or (located / "added_tokens.json").exists():
        return None
    try:
        settings = json.loads((located / "tokenizer_config.json").read_text(encoding="utf-8"))
        backend = Tokenizer.from_file(str(located / "tokenizer.json"))
    except Exception:
        return None
    added = {token.content: number for number, token in backend.get_added_tokens_decoder().items() if token.special}
    end = added.get(settings.get("eos_token"))
    plain = settings.get("tokenizer_class") in _PLAIN_CLASSES and settings.keys() <= _SETTINGS
    if end is None or not plain or not {settings[name] for name in _SPECIAL & settings.keys()} <= added.keys():
        return None
    return Vocabulary(ids=backend.get_vocab(), end=end, backend=backend.to_str())


def check_same_vocabulary(teacher: Vocabulary, student: Vocabulary) -> None:
    """Refuse a pair whose rows of logits do not mean the same tokens.

    The maps are compared, not their sizes: equal sizes with other ids would train on noise without an error.

    Raises:
        UserError: the tokenizers differ; names a token on which they do.
    """
    ours, theirs = student.ids, teacher.ids
    for token in sorted(ours.keys() | theirs.keys()):
        if ours.get(token) != theirs.get(token):
            raise UserError(
                "teacher and student tokenizers differ, so their distributions cannot be compared: "
                f"token {token!r} has id {theirs.get(token)} for the teacher and {ours.get(token)} for the student"
            )


@cache
def num_tokens(source: ModelSource, folder: Path) -> int:
    """Return how many tokens a model's tokenizer has; logit columns beyond are padding.

    Raises:
        UserError: the tokenizer is neither on the disk nor known nor to be had from the hub.
    """
    if not is_on_disk(source, folder) and source.path in known_models():
        return int(known_models()[source.path]["num_tokens"])
    return len(read_vocabulary(source, folder).ids)
