"""A Sequential that hands a run of sparse layers to the kernels in one call."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from secateur.sparse.linear import SparseLinear
from secateur.sparse.product import fits, sparse_chain

__all__ = ["SparseSequential"]


class SparseSequential(nn.Sequential):
    """An `nn.Sequential` in which SparseLinear → ReLU → SparseLinear → … runs as one call.

    The activations between those layers stay in the kernels' layout and never become torch tensors, so a
    layer that has a hook, and whatever the kernels do not take, runs on its own, as in any Sequential.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Run the children in order."""
        children = [m for m in self if not _passes_through(m)]
        x, i = input, 0
        while i < len(children):
            run = _run_from(children, i)
            if len(run) > 1 and _takes(run, x):
                x = sparse_chain(
                    x,
                    tuple(layer.plan for layer in run),
                    tuple(layer.values for layer in run),
                    tuple(layer.bias for layer in run),
                )
                i += 2 * len(run) - 1
            else:
                x = children[i](x)
                i += 1
        return x


def _passes_through(module: nn.Module) -> bool:
    kind = type(module)
    return (kind is nn.Identity or (kind is nn.Dropout and not module.training)) and not _hooked(module)


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _run_from(children: list[nn.Module], start: int) -> list[SparseLinear]:
    """Return the sparse layers of the longest SparseLinear (→ ReLU → SparseLinear)* that begins at `start`."""
    run: list[SparseLinear] = []
    for i in range(start, len(children), 2):
        layer = children[i]
        if type(layer) is not SparseLinear or not layer.runs_sparse or _hooked(layer):
            break
        if run and (type(children[i - 1]) is not nn.ReLU or _hooked(children[i - 1])):
            break
        run.append(layer)
    return run


def _takes(run: list[SparseLinear], x: Tensor) -> bool:
    joined = all(one.plan.rows == next_.plan.columns for one, next_ in pairwise(run))
    return joined and x.shape[-1] == run[0].plan.columns and all(fits(x, m.values, m.bias) for m in run)
