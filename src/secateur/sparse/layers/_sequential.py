"""A Sequential that hands a run of sparse layers to the kernels in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.sparse.calls import (
    are_float32,
    autocast_to,
    fits,
    in_float32,
    refuse_lookers,
    sparse_chain,
    text_for_lookers,
)
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
        plans = tuple([layer.plan for layer in run])
        together: Callable[[Tensor], Tensor] = partial(sparse_chain, plans=plans, values=values, biases=biases)
        if autocast_to(x) is not None:
            own = are_float32(*values, *biases)
            return (self._run_reduced((begin, behind), x, together, children[begin:behind]), behind) if own else None
        if not fits(x, *values, *biases):
            return None
        return self._run((begin, behind), x, together, children[begin:behind]), behind

    def _run(
        self, place: object, x: Tensor, together: Callable[[Tensor], Tensor], children: Sequence[nn.Module]
    ) -> Tensor:
        """Run children in one call, or one by one, as each of them chooses, where that is faster."""
        if "_choices" in self.__dict__:
            apart = partial(one_by_one, children)
            return apart(x) if self._apart_is_faster(place, x, together, apart, children) else together(x)
        return together(x)

    def _run_reduced(
        self, place: tuple[object, ...], x: Tensor, together: Callable[[Tensor], Tensor], children: Sequence[nn.Module]
    ) -> Tensor:
        """Run children under autocast: one by one, or in one call in float32 where that is faster."""
        wanted = autocast_to(x)
        assert wanted is not None, "the caller has looked"
        ways = (partial(one_by_one, children), in_float32(together, wanted))
        return ways[self._fastest((*place, wanted), x, ways, children)](x)


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
