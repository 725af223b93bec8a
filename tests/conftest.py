"""What the tests share: shape checks, a small pair of models, and a whole workload of local files.

The hook is installed before anything of the project is imported, so that every shape in a signature is really checked.
"""

import gc
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness  # noqa: F401 - pins the arithmetic, which must be done before anything imports torch or numpy

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

PROJECT = Path(__file__).parents[1]
SHAPED = ("strategies", "harness/data", "harness/distill", "harness/evaluate", "harness/models", "harness/teacher",
          "harness/trial")  # fmt: skip


def _shaped() -> list[str]:
    """Return the modules that state a shape; a check of every call costs those that state none dearly."""
    paths = (path for room in SHAPED for path in (PROJECT / room).rglob("*.py"))
    shaped = (path for path in paths if "from jaxtyping import" in path.read_text(encoding="utf-8"))
    return [".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for path in shaped]


install_import_hook(_shaped(), "beartype.beartype")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm  # noqa: E402

from harness.config import Strategy, plugins  # noqa: E402
from harness.data.tokens import Batch, with_targets  # noqa: E402
from harness.distill.feature import make_projection  # noqa: E402
from harness.distill.group import ALONE, Group  # noqa: E402
from harness.distill.objective import compile_strategy  # noqa: E402
from harness.distill.step import Core  # noqa: E402
from harness.models import Head, head_of, trunk, trunk_layers  # noqa: E402
from harness.records.layout import Results  # noqa: E402
from harness.teacher.interface import Teacher  # noqa: E402
from strategies.digest import digest_of  # noqa: E402
from strategies.registry import REGISTRIES  # noqa: E402

VOCAB = 97
ROWS = 104  # more rows than tokens, as padded embedding matrices have
SEPARATOR = 1
END_OF_TEXT = "<|end|>"

torch.set_num_threads(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is there for good out of every later search for garbage: each trial makes one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Undo what a run in this process sets: no test may depend on those before it."""
    yield
    torch.set_num_threads(1)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A student and a teacher over one vocabulary."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    vocab_size: int = VOCAB


class ExactNorm(torch.nn.Module):
    """RMSNorm in its input's dtype: Qwen3's own goes through float32, which would limit a float64 gradient to 1e-7."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps)


def small_model(
    hidden_size: int, *, seed: int, dtype: torch.dtype, rows: int = ROWS, tied: bool = False, context: int = 1024
) -> PreTrainedModel:
    """Build a two-layer model whose weights do not depend on a library's initialisation, exact in its dtype."""
    config = Qwen3Config(
        vocab_size=rows,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=SEPARATOR,
        pad_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Qwen3RMSNorm):
                setattr(module, name, ExactNorm(len(child.weight), child.variance_epsilon))
    draws = np.random.RandomState(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.from_numpy(0.35 * draws.standard_normal(tuple(parameter.shape)))
            parameter.copy_(1.0 + noise if parameter.ndim == 1 else noise)
    return model.to(dtype).eval()


def build_pair(dtype: torch.dtype = torch.float64, *, rows: int = ROWS, vocab_size: int = VOCAB, seed: int = 0) -> Pair:
    """Build a fresh pair: a tied student of hidden size 16 and an untied teacher of 24."""
    return Pair(
        student=small_model(16, seed=2 * seed, dtype=dtype, rows=rows, tied=True),
        teacher=small_model(24, seed=2 * seed + 1, dtype=dtype, rows=rows),
        vocab_size=vocab_size,
    )


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., Pair]:
    """Build a fresh pair: see `build_pair`."""
    return build_pair


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """Build packed sequences with a few separators and of unequal lengths, padded to the right."""

    def make(num: int = 6, length: int = 13, *, vocab_size: int = VOCAB, seed: int = 0, padding: int = 0) -> Batch:
        draws = np.random.RandomState(seed)
        ids = torch.from_numpy(draws.randint(2, vocab_size, size=(num, length))).long()
        ids[torch.from_numpy(draws.random_sample((num, length)) < 0.08)] = SEPARATOR
        batch = with_targets(ids, index=torch.arange(num), separator=SEPARATOR)
        lengths = torch.from_numpy(draws.randint(length // 2, length + 1, size=num))
        valid = batch.valid & (torch.arange(length) < lengths[:, None] - 1)
        junk = torch.from_numpy(draws.randint(2, vocab_size, size=(num, padding))).long()
        return Batch.of(
            index=batch.index,
            input_ids=torch.cat([ids, junk], dim=1),
            targets=torch.cat([batch.targets, torch.zeros_like(junk)], dim=1),
            valid=torch.cat([valid, torch.zeros_like(junk, dtype=torch.bool)], dim=1),
        )

    return make


def build_core(
    strategy: Strategy,
    pair: Pair,
    *,
    chunk: int = 20,
    seed: int = 7,
    with_teacher: bool = True,
    group: Group = ALONE,
) -> Core:
    """Put a strategy and a pair together, the teacher online."""
    teacher = Teacher(
        hidden=lambda batch: trunk(pair.teacher, batch.input_ids),
        head=Head(weight=head_of(pair.teacher, pair.vocab_size).weight.detach()),
        online=True,
        layers=lambda batch, layers: trunk_layers(pair.teacher, batch.input_ids, layers),
    )
    objective = compile_strategy(strategy)
    sizes = [int(model.config.hidden_size) for model in (pair.student, pair.teacher)]
    return Core(
        student=pair.student,
        teacher=teacher if with_teacher else None,
        objective=objective,
        vocab_size=pair.vocab_size,
        chunk=chunk,
        seed=seed,
        projection=make_projection(objective, *sizes, seed) if objective.feature is not None else None,
        group=group,
    )


@pytest.fixture(scope="session")
def make_core() -> Callable[..., Core]:
    """Put a strategy and a pair together, the teacher online."""

    return build_core


def split_batch(batch: Batch, sizes: list[int]) -> list[Batch]:
    """Cut a global batch into micro-batches."""
    assert sum(sizes) == len(batch.input_ids)
    parts = [getattr(batch, name).split(sizes) for name in ("index", "input_ids", "targets", "valid")]
    return [
        Batch.of(index=index, input_ids=ids, targets=targets, valid=valid)
        for index, ids, targets, valid in zip(*parts, strict=True)
    ]


def _sentences(seed: int, num: int) -> list[str]:
    draws = random.Random(seed)
    words = [
        "a",
        "cat",
        "dog",
        "bird",
        "sees",
        "finds",
        "the",
        "red",
        "blue",
        "small",
        "stone",
        "river",
        "and",
        "then",
        "it",
        "runs",
        "home",
        "to",
        "sleep",
        "under",
    ]
    return [" ".join(draws.choices(words, k=draws.randint(6, 18))).capitalize() + "." for _ in range(num)]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer of exactly VOCAB tokens."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<unk>", END_OF_TEXT], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT, unk_token="<unk>")
    assert len(tokenizer) == VOCAB
    assert tokenizer.eos_token_id == SEPARATOR
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 97 tokens; tests must not change it."""
    return train_tokenizer(_sentences(0, 200))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a saved teacher, a saved student, text in two formats and `workload.yaml`; read only."""
    folder = tmp_path_factory.mktemp("workload")
    for name, hidden_size, seed in (("student", 16, 0), ("teacher", 24, 1)):
        small_model(hidden_size, seed=seed, dtype=torch.float32, tied=name == "student").save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for seed, split in enumerate(("train", "validation")):
        lines = (json.dumps({"text": text}) for text in _sentences(seed, 60))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = (json.dumps({"text": text, "source": "made up"}) for text in _sentences(2, 60))
    (folder / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "workload.yaml").write_text(yaml.safe_dump(workload_fields()), encoding="utf-8")
    return folder


def workload_fields() -> dict[str, Any]:
    """Return the fields of the small workload: 3 steps of 4 sequences of 32 tokens."""
    return {
        "teacher": {"path": "./teacher"},
        "student": {"path": "./student"},
        "data": {
            "dataset": "json",
            "data_files": {split: f"{split}.jsonl" for split in ("train", "validation", "test")},
            "sequence_length": 32,
            "train_tokens": 384,
            "heldout_tokens": 192,
            "cross_document_targets": False,
        },
        "optimisation": {
            "learning_rate": 0.001,
            "betas": [0.9, 0.95],
            "weight_decay": 0.0,
            "schedule": "cosine",
            "warmup": 0.1,
            "batch_size": 4,
            "micro_batch_size": 2,
            "epochs": 1,
            "max_grad_norm": 1.0,
        },
        "evaluation": {"suite": "tiny", "num_items": 4, "batch_size": 4},
        "resources": {"cpus": 1, "gpus": 0, "dtype": "float32", "logit_memory_mib": 1},
        "seeds": [1, 2],
    }


@pytest.fixture(scope="session")
def workload_file(checkpoints: Path) -> Path:
    """The small workload's file."""
    return checkpoints / "workload.yaml"


@pytest.fixture
def write_workload(checkpoints: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a variant of the small workload: `section__key=value` sets a key, a dict replaces a section."""

    def write(name: str = "variant", **changes: Any) -> Path:
        fields = workload_fields()
        fields["teacher"]["path"] = str(checkpoints / "teacher")
        fields["student"]["path"] = str(checkpoints / "student")
        files = fields["data"]["data_files"]
        files.update({split: str(checkpoints / path) for split, path in files.items()})
        for dotted, value in changes.items():
            *parents, leaf = dotted.split("__")
            node = fields
            for parent in parents:
                node = node[parent]
            node[leaf] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_grid(tmp_path: Path) -> Callable[..., Path]:
    """Write a grid file from text (the part from `strategies:` on) or from a list of entries."""

    def write(strategies: Any, *, stem: str = "question", workload: str | None = "tiny", **fields: Any) -> Path:
        path = tmp_path / f"{stem}.yaml"
        payload = {"workload": workload, "split": "validation", "strategies": strategies, **fields}
        path.write_text("# A question.\n" + yaml.safe_dump(payload, sort_keys=False), encoding="utf-8")
        return path

    return write


class _Caches(Results):
    @property
    def cache(self) -> Path:
        return self.root


def caches_in(folder: Path) -> Results:
    """Return a results folder whose caches lie right in a folder."""
    return _Caches(folder)


class Asked:
    """Says stop once, after so many steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.fixture
def forget_plugins(tmp_path: Path) -> Iterator[None]:
    """Forget the plugins of a test that lie in its folder, as the end of a process does."""
    before = [(registry, {name: registry[name] for name in registry}) for registry in REGISTRIES]
    modules, loaded = set(sys.modules), dict(plugins._loaded)
    yield
    for registry, components in before:
        registry._components.clear()
        registry._components.update(components)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    plugins._loaded.clear()
    plugins._loaded.update(loaded)
    digest_of.cache_clear()
