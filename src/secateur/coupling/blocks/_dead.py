"""Which residual blocks a pruned model has no branch of any more, and what has to be zero besides."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.coupling.blocks._block import ResidualBlock, function_of
from secateur.coupling.blocks._find import CLOSE, alike, called, cast, result_of
from secateur.coupling.copies import undisturbed

__all__ = ["dead_blocks"]

_DRAWS = 3


def dead_blocks(
    model: nn.Module,
    blocks: Sequence[ResidualBlock],
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    close: bool = True,
) -> dict[ResidualBlock, tuple[str, ...]]:
    """Find the blocks that give out their input, or a function of it alone, whatever it is.

    Args:
        model: pruned: zeros stand in its weights.
        blocks: of the dense model, as `residual_blocks` finds them.
        inputs, kwargs: what the model is called with.
        close: whether parts of a block whose outputs no longer depend on its input may be set to zero for that, as a
            shift behind a convolution of zeros.

    Returns:
        Each dead block, with the names of the parameters that must be zero besides.
    """
    for dtype in CLOSE:
        look = _Look(copy.deepcopy(model).to(dtype).eval(), blocks, close)
        try:
            with undisturbed(model), torch.no_grad():
                look.model(*cast(inputs, dtype), **cast(dict(kwargs), dtype))
        except Exception:  # no kernels of that type: whatever else is wrong, the trace that comes next will say
            continue
        return look.found()
    return {}


class _Look:
    def __init__(self, model: nn.Module, blocks: Sequence[ResidualBlock], close: bool) -> None:
        self.model, self._close, self._busy = model, close, False
        self._drawn = torch.Generator().manual_seed(0)
        self._zeros: dict[ResidualBlock, set[str] | None] = {}
        for block in blocks:
            model.get_submodule(block.path).register_forward_pre_hook(self._hook(block), with_kwargs=True)

    def found(self) -> dict[ResidualBlock, tuple[str, ...]]:
        return {block: tuple(sorted(names)) for block, names in self._zeros.items() if names is not None}

    def _hook(self, block: ResidualBlock) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            known = self._zeros.get(block, set())
            if self._busy or known is None:
                return
            self._busy = True
            now = self._closed(block, module, args, kwargs)
            self._zeros[block] = None if now is None else {*known, *now}
            self._busy = False

        return look

    def _closed(
        self, block: ResidualBlock, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> set[str] | None:
        given: Tensor = kwargs[block.argument] if block.argument else args[0]
        draws = [torch.randn(given.shape, generator=self._drawn, dtype=torch.float64) for _ in range(_DRAWS)]
        tried = [given, *(each.to(given) for each in draws)]
        own = dict(module.named_parameters())
        zero: set[str] = set()
        if self._close:
            still = self._still(block, module, args, kwargs, tried)
            zero = {name for name, value in own.items() if any(_within(name, path) for path in still) and value.any()}
        weights = {name: torch.zeros_like(value) if name in zero else value for name, value in own.items()}
        after = function_of(module, block.after)
        for x in tried:
            out = result_of(called(module, weights, args, kwargs, block.argument, x))
            if out is None or not alike(x if after is None else after(x.clone()), out[2], given.dtype):
                return None
        return {f"{block.path}.{name}" for name in zero}

    def _still(
        self,
        block: ResidualBlock,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tried: Sequence[Tensor],
    ) -> set[str]:
        """The modules of a block that give out the same for every input."""
        seen: dict[str, list[list[Tensor]]] = {}
        handles = [each.register_forward_hook(_record(seen, path)) for path, each in module.named_modules() if path]
        try:
            for x in tried:
                called(module, dict(module.named_parameters()), args, kwargs, block.argument, x)
        finally:
            for handle in handles:
                handle.remove()
        return {path for path, outs in seen.items() if len(outs) > 1 and all(_same(outs[0], each) for each in outs)}


def _record(seen: dict[str, list[list[Tensor]]], path: str) -> Any:
    def record(module: nn.Module, args: Any, out: Any) -> None:
        tensors = [leaf.detach().clone() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        seen.setdefault(path, []).append(tensors)

    return record


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) > 0 and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _within(name: str, path: str) -> bool:
    return name.startswith(f"{path}.")
