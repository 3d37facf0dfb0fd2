"""A Sequential that hands a run of sparse layers to the kernels in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.sparse.calls import fits, refuse_lookers, sparse_chain, text_for_lookers
from secateur.sparse.layers._choosing import Choosing
from secateur.sparse.layers._linear import SparseLinear
from secateur.sparse.programs import hooked


class SparseSequential(Choosing, nn.Sequential):
    """An `nn.Sequential` in which SparseLinear → ReLU → SparseLinear → … runs as one call.

    The activations between those layers stay in the kernels' layout and never become torch tensors, so a
    layer that has a hook, and whatever the kernels do not take, runs on its own, as in any Sequential.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Run the children in order."""
        refuse_lookers(input)
        children: list[Any] = list(self._modules.values())
        x, i = input, 0
        while i < len(children):
            x, i = self._run_at(children, i, x) or (children[i](x), i + 1)
        return x

    def __prepare_scriptable__(self) -> nn.Module:
        raise SecateurError(text_for_lookers())  # torch.jit.script asks before it compiles

    def _run_at(self, children: Sequence[nn.Module], begin: int, x: Tensor) -> tuple[Tensor, int] | None:
        """Run as many layers as one call takes, from `begin` on; return the output and which layer comes next."""
        if type(children[begin]) is not SparseLinear:
            return None
        run, behind = _run_from(children, begin)
        if len(run) < 2 or x.shape[-1] != run[0].plan.columns:
            return None
        parameters = [layer._parameters for layer in run]
        values: Any = tuple([own["values"] for own in parameters])
        biases = tuple([own.get("bias") for own in parameters])
        if not fits(x, *values, *biases):
            return None
        plans = tuple([layer.plan for layer in run])
        place, between = (begin, behind), children[begin:behind]
        if self._run_is_slower(place, x, lambda x: sparse_chain(x, plans, values, biases), between):
            return one_by_one(between, x), behind
        return sparse_chain(x, plans, values, biases), behind

    def _run_is_slower(
        self, place: object, x: Tensor, together: Callable[[Tensor], Tensor], children: Sequence[nn.Module]
    ) -> bool:
        """Tell whether the children are faster one by one, as each of them chooses, than in one call."""
        if "_choices" not in self.__dict__:
            return False
        return self._apart_is_faster(place, x, together, partial(one_by_one, children), children)


def one_by_one(children: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Run children in order, each by its own forward."""
    for child in children:
        x = child(x)
    return x


# This runs at every forward, between kernels that take microseconds: a plain loop, no attribute look-ups through
# nn.Module.__getattr__.
def _run_from(children: Sequence[nn.Module], begin: int) -> tuple[list[SparseLinear], int]:
    """Find the longest SparseLinear (→ ReLU → SparseLinear)* that begins at `begin`, and where it ends."""
    run: list[SparseLinear] = []
    behind, relu = begin, True
    for i in range(begin, len(children)):
        child = children[i]
        if hooked(child):
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
