"""A Sequential that hands a run of sparse layers to the kernels in one call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from secateur.sparse.calls._chain import fits, sparse_chain
from secateur.sparse.layers._linear import SparseLinear

__all__ = ["SparseSequential"]


class SparseSequential(nn.Sequential):
    """An `nn.Sequential` in which SparseLinear → ReLU → SparseLinear → … runs as one call.

    The activations between those layers stay in the kernels' layout and never become torch tensors, so a
    layer that has a hook, and whatever the kernels do not take, runs on its own, as in any Sequential.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Run the children in order."""
        children = list(self._modules.values())
        x, i = input, 0
        while i < len(children):
            child = children[i]
            assert child is not None, "a Sequential has no empty places"
            if type(child) is SparseLinear:
                run, behind = _run_from(children, i)
                if len(run) > 1 and _takes(run, x):
                    x = _through(run, x)
                    i = behind
                    continue
            x = child(x)
            i += 1
        return x


# These run at every forward, between kernels that take microseconds: plain loops, no attribute look-ups through
# nn.Module.__getattr__.
def _run_from(children: Sequence[nn.Module | None], start: int) -> tuple[list[SparseLinear], int]:
    """Find the longest SparseLinear (→ ReLU → SparseLinear)* that begins at `start`, and where it ends."""
    run: list[SparseLinear] = []
    behind, relu = start, True
    for i in range(start, len(children)):
        child = children[i]
        assert child is not None, "a Sequential has no empty places"
        if child._forward_hooks or child._forward_pre_hooks or child._backward_hooks or child._backward_pre_hooks:
            break
        kind = type(child)
        if kind is SparseLinear and isinstance(child, SparseLinear):
            fitting = not run or run[-1].plan.rows == child.plan.columns
            if not relu or child.compute_dense or not fitting:
                break
            run.append(child)
            behind, relu = i + 1, False
        elif kind is nn.ReLU and not relu:
            relu = True
        elif not (kind is nn.Identity or (kind is nn.Dropout and not child.training)):
            break
    return run, behind


def _takes(run: list[SparseLinear], x: Tensor) -> bool:
    if x.shape[-1] != run[0].plan.columns:
        return False
    for layer in run:
        parameters = layer._parameters
        if not fits(x, parameters["values"], parameters.get("bias")):  # type: ignore[arg-type]
            return False
    return True


def _through(run: list[SparseLinear], x: Tensor) -> Tensor:
    values = tuple([layer._parameters["values"] for layer in run])
    biases = tuple([layer._parameters.get("bias") for layer in run])
    return sparse_chain(x, tuple([layer.plan for layer in run]), values, biases)  # type: ignore[arg-type]
