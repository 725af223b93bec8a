"""A model cut out of another one: some of its layers, in their order, and everything else as it is."""

import copy
from collections.abc import Sequence

from torch import nn

from harness.config.annotations import PretrainedConfig, PreTrainedModel
from harness.config.errors import UserError
from harness.models.head import layer_classes


def check_layers(layers: Sequence[int], num: int, named: str) -> None:
    """Refuse layers that a model does not have.

    Args:
        layers: numbers of the layers that are kept, ascending.
        num: how many the whole model has.
        named: the model, for the message.

    Raises:
        UserError: there is one that does not exist.
    """
    if layers[-1] >= num:
        raise UserError(f"layers: model {named!r} has no layer {layers[-1]}; its layers are 0 to {num - 1}")


def cut_configuration(config: PretrainedConfig, layers: Sequence[int], named: str) -> PretrainedConfig:
    """Return the configuration of a model that keeps only some of its layers.

    Raises:
        UserError: as `check_layers`.
    """
    num = int(config.num_hidden_layers)
    check_layers(layers, num, named)
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = len(layers)
    # What is said of each layer: `layer_types` of most models, `no_rope_layers` of some.
    for name, entries in vars(config).items():
        if "layer" in name and isinstance(entries, list) and len(entries) == num:
            setattr(cut, name, [entries[layer] for layer in layers])
    return cut


def cut_model(model: PreTrainedModel, layers: Sequence[int], named: str) -> None:
    """Remove all but some layers from a model, in place; what is kept is numbered anew, as a saved copy will be.

    Raises:
        UserError: as `check_layers`, or the model does not keep its layers in one list.
    """
    classes = layer_classes(model)
    stacks = [
        module
        for module in model.base_model.modules()
        if isinstance(module, nn.ModuleList) and len(module) and {type(each).__name__ for each in module} <= {*classes}
    ]
    if len(stacks) != 1:
        raise UserError(f"layers: model {named!r} ({type(model).__name__}) does not keep its layers in one list")
    whole = model.config
    cut = cut_configuration(whole, layers, named)
    for module in model.modules():
        if getattr(module, "config", None) is whole:
            module.config = cut  # type: ignore[assignment]
    (stack,) = stacks
    kept = [stack[layer] for layer in layers]
    del stack[:]
    stack.extend(kept)
    # Keys and values of a generation are stored by this number.
    for number, layer in enumerate(kept):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number  # type: ignore[assignment]
