"""Classes of transformers, which takes seconds to import, for signatures alone; who calls one imports it there."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
else:
    PretrainedConfig = PreTrainedModel = PreTrainedTokenizerBase = Any

__all__ = ["PreTrainedModel", "PreTrainedTokenizerBase", "PretrainedConfig"]
