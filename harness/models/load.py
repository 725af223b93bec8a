"""Models and tokenizers from the hub or from a folder written by save_pretrained, through one code path."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from harness.config import ModelSource
from harness.config.annotations import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from harness.config.errors import UserError, first_line
from harness.models.head import Head, head_of
from harness.models.surgery import cut_configuration, cut_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_TOKENIZER_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
# A head with any of these is not `hidden @ weight.T`, which is what the chunked core computes.
_HEAD_MODIFIERS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")


def locate(source: ModelSource, folder: Path) -> Path:
    """Return a local folder with at least the configuration and the tokenizer of a model.

    Args:
        source: what the workload names.
        folder: where relative folders are looked up.

    Raises:
        UserError: the folder does not exist or holds no model; or the hub does not have it or cannot be reached.
    """
    local = folder / Path(source.path).expanduser()
    if local.is_dir():
        if not (local / "config.json").exists():
            raise UserError(f"{local} holds no model: config.json is missing")
        if source.revision is not None:
            raise UserError(f"{source.path} is a folder, so revision {source.revision!r} would do nothing")
        return local
    if source.path.startswith((".", "/", "~")) or source.path.count("/") != 1:
        raise UserError(f"no model folder at {local}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(source.path, revision=source.revision, allow_patterns=_TOKENIZER_FILES))
    except RepositoryNotFoundError:
        raise UserError(f"the hub has no model {source.path!r}, and there is no folder {local}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"model {source.path!r} is neither a folder ({local}) nor to be had from the hub: {type(error).__name__}"
        ) from None


def fingerprint(source: ModelSource, folder: Path) -> str:
    """Return a hash that changes when the weights, the configuration, the tokenizer or the layers kept change.

    A hub model is identified by its commit; a folder by the content of its files.

    Raises:
        UserError: a file of weights is damaged, or holds a number that is none; names it.
    """
    whole = _fingerprint(source, locate(source, folder))
    if source.layers is None:
        return whole
    return hashlib.sha256(f"{whole} {source.layers}".encode()).hexdigest()[:16]


def _fingerprint(source: ModelSource, located: Path) -> str:
    if located.parent.name == "snapshots":
        return located.name
    if not any(located.glob("*.safetensors")):
        raise UserError(f"{located} holds no weights: *.safetensors is missing")
    digest = hashlib.sha256()
    kinds = {".json", ".safetensors", ".txt", ".model", ".jinja"} | ({".py"} if source.trust_remote_code else set())
    for path in sorted(located.iterdir()):
        if path.suffix == ".safetensors":
            _check_weights(path)
        if path.suffix in kinds:
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def load_tokenizer(source: ModelSource, folder: Path) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Raises:
        UserError: the model's folder has no loadable tokenizer.
    """
    located = locate(source, folder)
    # Without this check the library makes up an empty tokenizer for some model types, without a word.
    if not any((located / name).exists() for name in _VOCABULARY_FILES):
        raise UserError(f"{located} holds no tokenizer: one of {', '.join(_VOCABULARY_FILES)} is needed")
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            located, trust_remote_code=source.trust_remote_code
        )
    except Exception as error:
        # The library raises whatever its parsers do, down to a bare Exception of the Rust tokenizers.
        raise UserError(f"{located} holds no loadable tokenizer: {first_line(error)}") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer in {located} has no end-of-text token, which separates packed documents")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    check_rows(located, len(tokenizer), int(read_config(source, located).vocab_size))
    return tokenizer


def check_rows(located: Path, num_tokens: int, rows: int) -> None:
    """Refuse a model with fewer rows of logits than its tokenizer has tokens."""
    if num_tokens > rows:
        raise UserError(f"{located}: the tokenizer has {num_tokens} tokens and the model only {rows} rows of logits")


def load_model(
    source: ModelSource,
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    layout: Mapping[str, str] | None = None,
) -> PreTrainedModel:
    """Load a causal language model, or the layers of it that are kept, in evaluation mode.

    Args:
        source: the model.
        folder: where relative folders are looked up.
        dtype: of its weights.
        device: where all of it goes.
        layout: where each of its modules goes instead: see `harness.models.devices.spread_layers`.

    Raises:
        UserError: it cannot be loaded, its head is not a plain matrix, or it has no such layers.
    """
    from transformers import AutoModelForCausalLM

    located = locate(source, folder)
    weights = located if any(located.glob("*.safetensors")) else source.path
    try:
        with _quiet():
            # use_safetensors: weights that would have to be unpickled are refused.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                weights,
                revision=source.revision,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=source.trust_remote_code,
                output_loading_info=True,
                **({} if layout is None else {"device_map": dict(layout)}),
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"model {source.path!r} cannot be loaded: {first_line(error)}") from None
    model: PreTrainedModel
    model, told = loaded
    if told["missing_keys"]:
        # The library would draw them at random.
        raise UserError(f"model {source.path!r} lacks the weights {', '.join(sorted(told['missing_keys'])[:3])}")
    _check_head(model, source.path)
    if source.layers is not None:
        cut_model(model, source.layers, source.path)
    if layout is None:
        model.to(device)  # type: ignore[arg-type]
    model.eval()
    return model


def load_head(source: ModelSource, folder: Path, vocab_size: int, *, dtype: torch.dtype) -> Head:
    """Read only the head of a saved model, so that a trial fed from a cache holds no teacher.

    Falls back to loading the model where its files do not name the head in the usual way.
    """
    located = locate(source, folder)
    files = sorted(located.glob("*.safetensors"))
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        for path in files:
            with safe_open(path, framework="pt") as tensors:
                if name in tensors.keys():  # noqa: SIM118 - the handle is no mapping
                    return Head(weight=tensors.get_tensor(name)[:vocab_size].to(dtype))
    model = load_model(source, folder, dtype=dtype)
    return Head(weight=head_of(model, vocab_size).weight.detach().clone())


def read_config(source: ModelSource, located: Path) -> PretrainedConfig:
    """Read a model's configuration from a folder, of the layers that are kept.

    Raises:
        UserError: it is not one, or of no language model, or has no such layers.
    """
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(located, trust_remote_code=source.trust_remote_code)
        sizes = [getattr(config, name, None) for name in ("vocab_size", "hidden_size")]
    except Exception as error:
        # Configurations are classes that validate themselves, each in its own way.
        raise UserError(f"{located / 'config.json'} is no model configuration: {first_line(error)}") from None
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UserError(f"{located / 'config.json'}: vocab_size and hidden_size must be numbers, they are {sizes}")
    return config if source.layers is None else cut_configuration(config, source.layers, source.path)


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - the handle is no mapping
                if not bool(torch.isfinite(tensors.get_tensor(name)).all()):
                    raise UserError(f"{path}: {name} holds values that are nan or infinite")
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: {first_line(error)}") from None


def _check_head(model: PreTrainedModel, name: str) -> None:
    embeddings = model.get_output_embeddings()
    plain = isinstance(embeddings, torch.nn.Linear) and embeddings.bias is None
    scaled = [key for key in _HEAD_MODIFIERS if getattr(model.config, key, None) not in (None, 1.0)]
    if not plain or scaled:
        raise UserError(
            f"model {name!r}: its head is not a plain matrix ({', '.join(scaled) or type(embeddings).__name__})"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars out of the trial's output."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
