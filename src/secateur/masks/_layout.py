"""Which dimension of a weight is which: transposed layers keep their inputs first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from secateur.masks._prunable import is_hugging_face_conv1d, unwrap


@dataclass(frozen=True)
class Layout:
    """The layout of a weight stored inputs first, `[in, out/groups, ...]`, and the way to `[out, in/groups, ...]`.

    The second is canonical: structures and scopes are written for it, and Linear, Conv* and recurrent layers have it.
    Both ways are one turn, done within each of the `groups` of a transposed convolution.

    >>> layout = Layout(groups=2)
    >>> weight = nn.ConvTranspose2d(4, 6, 5, groups=2).weight  # [4, 3, 5, 5]
    >>> layout.to_canonical(weight).shape
    torch.Size([6, 2, 5, 5])
    >>> layout.from_canonical(layout.to_canonical(weight)).shape
    torch.Size([4, 3, 5, 5])
    """

    groups: int = 1

    def to_canonical(self, tensor: Tensor) -> Tensor:
        """Turn a tensor of the weight's shape to `[out, in/groups, ...]`; a view where there is one group."""
        return tensor.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)

    def from_canonical(self, tensor: Tensor) -> Tensor:
        """Turn a canonical tensor back to the weight's own shape, contiguous."""
        return self.to_canonical(tensor).contiguous()  # turning is its own inverse


def layouts(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, Layout]:
    """Return the layout of each parameter of `model` (or of `names`) that is not stored `[out, in, ...]`.

    These are the weights of ConvTranspose* layers and of GPT-2's `Conv1D`. A tensor that several modules share has
    the layout that it has in the first of them, the one it is named after. Wrappers (DDP, `torch.compile`) are looked
    through.

    >>> layouts(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 3, 3)))
    {'1.weight': Layout(groups=1)}
    """
    model = unwrap(model)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, Layout | None] = {}
    for module in model.modules():
        for local, parameter in module.named_parameters(recurse=False):
            found.setdefault(name_of[id(parameter)], _layout_of(module) if local == "weight" else None)
    wanted = found if names is None else names
    return {name: layout for name in wanted if (layout := found.get(name)) is not None}


def _layout_of(module: nn.Module) -> Layout | None:
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return Layout(module.groups)
    return Layout() if is_hugging_face_conv1d(module) else None
