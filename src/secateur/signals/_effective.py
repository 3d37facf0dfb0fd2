"""Effective weights: those that lie on a path of kept weights from the inputs to the outputs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError, UnfitModelError
from secateur.masks import Masks, unwrap
from secateur.measures import Batch, flow, gather

__all__ = ["Paths", "effective"]

_NO_PATH = "flow through this network is 0.0"  # as the measure says it
_NOT_ZERO_AT_ZERO = (nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Softplus)
_POOLS = {nn.MaxPool1d: nn.AvgPool1d, nn.MaxPool2d: nn.AvgPool2d, nn.MaxPool3d: nn.AvgPool3d}


class Paths:
    """Looks for paths in one model, for many masks: `paths(masks)` are the effective ones of them.

    Args:
        model: copied, and left as it is.
        batch: whose shapes the inputs have, as `prune` takes it.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self._twin = copy.deepcopy(unwrap(model)).eval()
        self._batch = batch
        with torch.no_grad():
            for each in self._twin.parameters():
                if each.is_floating_point():
                    each.requires_grad_(True).fill_(1.0)
            for module in self._twin.modules():
                if isinstance(variance := getattr(module, "running_var", None), Tensor):
                    variance.fill_(1.0)
                _linearise(module)

    def __call__(self, masks: Masks) -> Masks:
        """Return which of the weights that `masks` keep are effective.

        Raises:
            UnfitModelError: the model's own code does not run in float64, or on ones.
        """
        parameters = masks.parameters(self._twin)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(_averaging(masks[name].to(parameter.device)))
        own = {name: p for name, p in self._twin.named_parameters() if any(p is each for each in parameters.values())}
        try:
            flows = gather(self._twin, [self._batch], [flow(varied=True)], params=own)["flow"]
        except SecateurError as problem:  # a network without a path is one in which no weight is effective
            if _NO_PATH not in str(problem):
                raise
            return Masks({name: torch.zeros_like(mask) for name, mask in masks.items()}, copy=False)
        except (RuntimeError, TypeError) as problem:
            raise UnfitModelError(
                f"Paths are looked for by running the model in float64 on positive inputs, which it does not do: "
                f"{problem}. Count `masks.kept` instead, or leave `effective` out."
            ) from problem
        of = {id(parameter): flows[name] for name, parameter in own.items()}
        found = {name: (of[id(p)] != 0).to(masks[name].device) & masks[name] for name, p in parameters.items()}
        return Masks(found, copy=False)


def _linearise(module: nn.Module) -> None:
    """Let a unit without inputs send nothing on, and every position of a pooling window count.

    Of equal positions a maximum passes one on, and the others none.
    """
    for name, child in module.named_children():
        pool = _POOLS.get(type(child))
        if isinstance(child, _NOT_ZERO_AT_ZERO):
            setattr(module, name, nn.Identity())
        elif pool is not None and child.dilation == 1 and not child.return_indices:
            setattr(module, name, pool(child.kernel_size, child.stride, child.padding, child.ceil_mode).eval())


def _averaging(mask: Tensor) -> Tensor:
    rows = mask.reshape(mask.shape[0] if mask.dim() else 1, -1)
    return (rows / rows.sum(dim=1, keepdim=True).clamp(min=1)).reshape(mask.shape)


def effective(model: nn.Module, masks: Masks, batch: Batch) -> Masks:
    """Which of the weights that `masks` keep lie on a path of kept weights from some input to some output.

    Only those can matter: `effective(…).density` is the effective density, and 1 minus it the effective sparsity. They
    are found as ∂R/∂m > 0 with R = aᵀ f_m(x), where f_m is the network with the masks for weights, each row divided by
    what it keeps so that deep networks neither overflow nor vanish, with biases 0, normalisations as scalings and
    average pooling, in float64. So a weight of a convolution that only ever meets padding is not effective either.

    Args:
        model: read, and left as it is.
        masks: which weights stay.
        batch: whose shapes the inputs have, as `prune` takes it; no value of it is used.

    Raises:
        MaskError: masks of another model. UnfitModelError: the model does not run in float64 on ones.

    Source: Vysogorets & Kempe, "Connectivity matters", arXiv 2107.02306, §3.
    Deviates: activation functions stay as they are (the authors remove them), but modules that are not 0 at 0, as
    Sigmoid, at inputs between 1 and 2; the authors multiply magnitudes of weights, which underflow in deep networks.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> first, second = torch.tensor([[True, True], [True, False]]), torch.tensor([[True, False]])
    >>> masks = Masks({"0.weight": first, "2.weight": second})
    >>> masks.kept, effective(net, masks, torch.ones(1, 2)).kept  # the second hidden unit leads nowhere
    (4, 3)
    """
    masks.check(unwrap(model))
    return Paths(model, batch)(masks)
