"""How much a residual block turns what runs through it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.coupling import ResidualBlock, lies_in, residual_blocks
from secateur.measures import Evidence, Level, Measure, Needs, Params, Probe, Running, all_sum, reduced

__all__ = ["block_influence"]


class _Influence(Running):
    """Σ of 1 − cos, and how many there were, for each block; of its tensors, each has an equal share."""

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self._blocks: tuple[ResidualBlock, ...] | None = None

    def update(self, probe: Probe) -> None:
        if self._blocks is None:
            args, kwargs = _arguments(probe.inputs)
            self._blocks = residual_blocks(probe.model, *args, kwargs=kwargs)
        sums: dict[str, Tensor] = {}
        handles = [
            probe.model.get_submodule(block.path).register_forward_hook(_watch(block, sums), with_kwargs=True)
            for block in self._blocks
        ]
        try:
            with torch.no_grad():
                probe.run()
        finally:
            for handle in handles:
                handle.remove()
        found = {name: lies_in(name, self._blocks) for name in self.params}
        self.fold({name: sums[block.path].clone() for name, block in found.items() if block and block.path in sums})

    def compute(self) -> Evidence:
        whole = reduced(dict(self.running), all_sum)
        blocks = {name: lies_in(name, self._blocks or ()) for name in self.params}
        shares = {block: sum(each == block for each in blocks.values()) for block in blocks.values()}
        found = {name: sums[:1] / sums[1].clamp_min(1) / shares[blocks[name]] for name, sums in whole.items()}
        return {name: found.get(name, torch.zeros(1, dtype=torch.float64)) for name in self.params}


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), {name: value for name, value in inputs.items() if name != "labels"}
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}


def _watch(block: ResidualBlock, sums: dict[str, Tensor]) -> Any:
    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        x: Tensor = kwargs[block.argument] if block.argument else args[0]
        y: Tensor = out if block.place < 0 else out[block.place]
        convolves = any(isinstance(each, nn.modules.conv._ConvNd) for each in module.modules())
        dim = 1 if convolves else -1
        x, y = x.detach().double(), y.detach().double()
        lengths = (x.square().sum(dim) * y.square().sum(dim)).sqrt()
        turned = (1 - (x * y).sum(dim) / lengths).masked_fill(lengths == 0, 0.0)
        both = torch.stack([turned.sum(), (lengths != 0).sum().to(turned)])
        if not bool(both.isfinite().all()):
            raise SecateurError(f"block_influence: {block.path} gives out NaN or infinities.")
        sums[block.path] = sums[block.path] + both if block.path in sums else both

    return watch


def block_influence() -> Measure:
    """Block influence: BI = 1 − E[x · y / (‖x‖ ‖y‖)], x what goes into a residual block and y what comes out of it.

    The mean is over all samples and positions; a vector is what stands at one position: along dimension 1 where a block
    has convolutions, else along the last; one of zeros has no direction, and is left out. In [0, 2], float64; 0 where
    the block changes nothing but lengths. Each tensor of a block has an equal share, so that their sum is the block's;
    what is in no block has 0. Eval mode; labels are not needed.

    Source: Men et al., "ShortGPT: Layers in large language models are more redundant than you expect",
    arXiv 2403.03853, eq. 1.
    """
    return Measure("block_influence", _Influence, needs=Needs.INPUTS, level=Level.UNIT, train=False, reduction=None)
