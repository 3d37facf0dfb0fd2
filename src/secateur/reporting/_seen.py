"""Which inputs kept their connections: the view of the SNIP paper's Figure 2, for networks that read images flat."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.costing import Call
from secateur.masks import Masks
from secateur.reporting._told import Pixels

__all__ = ["kept_pixels"]


@torch.no_grad()
def kept_pixels(model: nn.Module, masks: Masks, call: Call) -> Pixels | None:
    """Count the kept connections of each pixel in the first linear layer that is given the whole image, flattened.

    kept[row, column] = Σ_channel Σ_unit m[unit, (channel, row, column)].

    Args:
        model: without what it remembers of earlier calls; it is run once, in eval mode.
        masks: by the model's names.
        call: what it is called with; images are a single tensor [n, channel, row, column].

    Returns:
        The picture; None where the inputs are no images, or no masked linear layer is given them as they are.

    Source: Lee et al., arXiv 1810.02340, Figure 2.
    """
    if len(call.inputs) != 1 or call.kwargs or not isinstance(call.inputs[0], Tensor) or call.inputs[0].dim() != 4:
        return None
    images = call.inputs[0]
    flat, found, handles = images.flatten(1), list[str](), list[Any]()
    for path, module in model.named_modules():
        name = f"{path}.weight" if path else "weight"
        if isinstance(module, nn.Linear) and name in masks and module.in_features == flat.shape[1]:

            def look(_: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
                same = given and isinstance(given[0], Tensor) and given[0].shape == flat.shape
                if same and torch.equal(given[0], flat):
                    found.append(name)

            handles.append(module.register_forward_pre_hook(look))
    if not handles:
        return None
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()(images)
    finally:
        for module, mode in modes:
            module.training = mode
        for handle in handles:
            handle.remove()
    if not found:
        return None
    kept = masks[found[0]].sum(dim=0).reshape(images.shape[1:]).sum(dim=0)
    return Pixels(found[0], kept.cpu(), images.float().mean(dim=(0, 1)).cpu())
