"""Models: loading them, and the trunk and head that the core works with."""

from harness.models.head import (
    GivenLogits,
    Head,
    States,
    compute_activations_anew,
    evaluating,
    head_of,
    layer_classes,
    layers_of,
    trunk,
    trunk_layers,
)  # fmt: skip
from harness.models.load import (
    DTYPES,
    fingerprint,
    load_head,
    load_model,
    load_tokenizer,
    locate,
    read_config,
)  # fmt: skip

__all__ = [
    "DTYPES", "GivenLogits", "Head", "States", "compute_activations_anew", "evaluating", "fingerprint", "head_of",
    "layer_classes", "layers_of", "load_head", "load_model", "load_tokenizer", "locate", "read_config", "trunk",
    "trunk_layers",
]  # fmt: skip
