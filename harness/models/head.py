"""A model as the core sees it: a trunk that makes hidden states, and a head that makes logits of them."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.config.annotations import PreTrainedModel
from harness.config.errors import UserError

# N = rows, B = sequences, L = positions, D = hidden size, V = tokenizer vocabulary

# Whether the positions of the rows that a trunk runs on are known to count up from 0.
_UNPACKED: ContextVar[bool] = ContextVar("unpacked", default=False)


@dataclass(frozen=True, kw_only=True)
class Head:
    """A language-model head: logits are `hidden @ weight.T`.

    Attributes:
        weight: rows beyond the tokenizer's vocabulary (padding of the embedding matrix) are left out, so that they
            take part in no distribution.
    """

    weight: Float[Tensor, "V D"]

    def logits(self, states: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Return the logits of some rows."""
        return states @ self.weight.T

    def pull_back(self, grad_logits: Float[Tensor, "N V"]) -> Float[Tensor, "N D"]:
        """Return the gradient of the states from that of their logits."""
        return grad_logits @ self.weight


@dataclass(frozen=True, kw_only=True)
class GivenLogits(Head):
    """No head: what stands in the place of hidden states are the logits. Its weight is empty."""

    def logits(self, states: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """Return the rows themselves, as a tensor that may be overwritten, like any head's."""
        return states.clone()

    def pull_back(self, grad_logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """Return the gradient as it is."""
        return grad_logits


@dataclass(frozen=True, kw_only=True)
class States:
    """Hidden states of a batch.

    Attributes:
        final: after the last norm; what the head reads.
        layers: of layers inside the trunk, where they were asked for. The last layer's come after the last norm.
    """

    final: Float[Tensor, "B L D"]
    layers: tuple[Float[Tensor, "B L D"], ...] = ()


def trunk(model: PreTrainedModel, input_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
    """Run everything but the head: final hidden states, after the last norm.

    Causal attention makes a mask unnecessary: padding stands at the end of a sequence and no target looks at it.
    """
    with _unpacked():
        hidden = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    assert isinstance(hidden, Tensor)
    return hidden


def trunk_layers(model: PreTrainedModel, input_ids: Int[Tensor, "B L"], layers: Sequence[int]) -> States:
    """Run everything but the head, and keep what some layers return: 0 is the embeddings, n the n-th layer."""
    with _unpacked():
        found = model.base_model(input_ids=input_ids, use_cache=False, output_hidden_states=True)
    assert isinstance(found.last_hidden_state, Tensor)
    return States(final=found.last_hidden_state, layers=tuple(found.hidden_states[layer] for layer in layers))


@contextmanager
def _unpacked() -> Iterator[None]:
    """Say to transformers that a row is one sequence, which it would read from the positions' values.

    Without a mask it asks of every batch whether its positions ever jump, as they do where sequences are packed into
    one row by their positions. A GPU's host would wait for the answer, and tensors without storage have none.
    """
    _ask_only_if_packed()
    token = _UNPACKED.set(True)
    try:
        yield
    finally:
        _UNPACKED.reset(token)


@functools.cache
def _ask_only_if_packed() -> None:
    """Let transformers' question be asked outside `_unpacked` only; a caller's own trunks are masked as ever."""
    from transformers import masking_utils

    ask = masking_utils.find_packed_sequence_indices

    @functools.wraps(ask)
    def answer(position_ids: Tensor) -> Tensor | None:
        return None if _UNPACKED.get() else ask(position_ids)

    masking_utils.find_packed_sequence_indices = answer


def layer_classes(model: PreTrainedModel) -> list[str]:
    """Return the names of the classes of which a model says that they are not to be split: its layers."""
    return sorted(getattr(model, "_no_split_modules", None) or ())


def layers_of(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Return a trunk's layers, in order.

    Raises:
        UserError: the model does not say what its layers are.
    """
    classes = layer_classes(model)
    found = [module for module in model.base_model.modules() if type(module).__name__ in classes]
    if not found:
        raise UserError(f"{type(model).__name__} names no layers, so it cannot be shared out among processes")
    return found


def compute_activations_anew(model: PreTrainedModel) -> None:
    """Let a trunk's backward pass compute each layer's activations anew, instead of keeping those of all layers."""
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # its name from transformers 5.20 on
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def head_of(model: PreTrainedModel, vocab_size: int) -> Head:
    """Return a model's head, a view of its parameter, over the tokenizer's vocabulary only."""
    embeddings = model.get_output_embeddings()
    assert isinstance(embeddings, torch.nn.Linear)
    weight = embeddings.weight
    return Head(weight=weight if len(weight) == vocab_size else weight[:vocab_size])


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off, which would draw from the global generator, and leave every module's mode as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
