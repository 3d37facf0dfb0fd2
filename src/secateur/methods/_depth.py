"""Depth: whole residual blocks go, those first that turn what runs through them least."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Structure, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import residual_blocks
from secateur.propagation import block_influence


def score(influence: Tensor) -> Tensor:
    return influence


def depth(density: float, *, structure: Structure | None = None) -> Method:
    """Keep the residual blocks that turn what runs through them most: BI = 1 − E[cos(x, y)], x goes in, y comes out.

    For `shrink`, that finds the blocks and takes them out: shrink(model, methods.depth(0.75), example,
    batches=batches). A block is a module that gives out its input where its weights are zero
    (`coupling.residual_blocks`).

    Args:
        density: the fraction of the residual blocks that stays.
        structure: the units; by default `structure.residual_blocks()`, which `shrink` fills in. With
            `structure.residual_blocks(coupling.residual_blocks(model, example))` it works with `prune` as well, which
            writes zeros.

    Family: after training.
    Source: Men et al., "ShortGPT: Layers in large language models are more redundant than you expect",
    arXiv 2403.03853, eq. 1.
    Deviates: blocks of convolutions too, position by position.
    """
    return method(
        "depth",
        measured(score, {"influence": block_influence()}),
        structure=structure or residual_blocks(),
        scope=everywhere(),
        schedule=once(density),
    )
