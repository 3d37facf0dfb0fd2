"""compile_step: a whole training step of a network in one native call."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from secateur._base.arguments import named, refuse_sparsified, require_model
from secateur._base.behind import trainers
from secateur._base.errors import SecateurError
from secateur.masks import Masks, refuse_shared_memory, require_masks
from secateur.sparse.programs import is_recurrent_network
from secateur.sparse.steps._base import CompiledStep
from secateur.sparse.steps._held import refuse_held
from secateur.sparse.steps._network import NetworkStep, supported_network
from secateur.sparse.steps._recurrent import RecurrentStep, supported_recurrent
from secateur.sparse.steps._slices import Loss

__all__ = ["compile_step", "why_no_fused_step"]


def compile_step(model: nn.Module, masks: Masks, loss: Loss, optimizer: Optimizer) -> NetworkStep | RecurrentStep:
    """Compile forward, loss, gradients and update of a masked network into one native call.

    The step trains what `hold(model, masks)` and an ordinary loop would train, weight for weight within float
    tolerance: the surviving weights and the biases. They live in the engine; `write_back` brings model and
    optimizer up to date, `read_back` takes up what was loaded into them, `replace` goes on under other masks.

    Args:
        model: a network of linear layers, convolutions, batch normalisation, ReLU, pooling and residual sums that
            ends in a linear layer, as a Sequential or any model that traces to it; or (linear →) LSTM or GRU →
            last state → linear, which gives a `RecurrentStep`.
        masks: of weights and biases; a layer without a mask keeps all of its weights. Zeros are written over
            the pruned weights of `model`.
        loss: `torch.nn.functional.cross_entropy`, or an `nn.CrossEntropyLoss` with default options.
        optimizer: `torch.optim.SGD`, `Adam` or `AdamW` over exactly the model's parameters. Its options are
            read at every step, so learning-rate schedulers work; its `step` is not called.

    Raises:
        UnsupportedError: anything that would have to be approximated, with the reason.
        MaskError: masks that do not fit, or weights that are NaN or infinite.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> masks = Masks({"0.weight": torch.eye(3, 4) > 0})
    >>> why_no_fused_step(model, masks, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1))
    '`loss` must be cross_entropy or a CrossEntropyLoss with default options, got MSELoss()'
    """
    _refuse_arguments(model, masks, optimizer)
    _refuse_model(model, masks)
    if is_recurrent_network(model):
        classifier = supported_recurrent(model, masks, loss, optimizer)
        masks.apply_(model)
        return RecurrentStep(model, masks, optimizer, classifier)
    program = supported_network(model, masks, loss, optimizer)
    masks.apply_(model)
    return NetworkStep(model, masks, optimizer, program)


def _refuse_arguments(model: object, masks: object, optimizer: object) -> None:
    call = "compile_step(model, masks, loss, optimizer)"
    require_model(model, call)
    require_masks(masks, call)
    if not isinstance(optimizer, Optimizer):
        raise SecateurError(f"`optimizer` must be one of torch.optim's, as in {call}, got {named(optimizer)}.")


def _refuse_model(model: nn.Module, masks: Masks) -> None:
    """Raise if the weights are not all there, are not apart, or are older than another step's: which are meant?"""
    refuse_sparsified(model, "compile_step")
    refuse_shared_memory(dict(model.named_parameters()), dict(model.named_parameters()))
    refuse_held(model, masks)
    for other in trainers(model):
        if not isinstance(other, CompiledStep):
            raise SecateurError(
                "a sparsified model that follows the masks of this one trains it already; let go of that model first"
            )
        if other.ahead:
            raise SecateurError(
                "another compiled step has trained this model, and is ahead of it; call that step's write_back() to go "
                "on from there, or its read_back() to go on from the model's weights as they are"
            )


def why_no_fused_step(model: nn.Module, masks: Masks, loss: Loss, optimizer: Optimizer) -> str | None:
    """Return why `compile_step` would refuse these, or None if it would not. Changes nothing."""
    try:
        _refuse_arguments(model, masks, optimizer)
        _refuse_model(model, masks)
        supported = supported_recurrent if is_recurrent_network(model) else supported_network
        supported(model, masks, loss, optimizer)
    except SecateurError as error:
        return str(error)
    return None
