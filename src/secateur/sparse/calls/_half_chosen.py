"""Which kernels multiply blocks of 64 outputs × 2 inputs in bfloat16: both are timed, on the layer's own input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base import door
from secateur.sparse.calls._half import Rounded, half_linear
from secateur.sparse.plans import PAIRED, LayerPlan, paired_of, plan_layer
from secateur.sparse.timing import Verdict, decide, remembered_verdict

_SECONDS = 0.2  # at most, for a choice that is close


@dataclass(frozen=True)
class BlocksTimed:
    """What timing the kernels for blocks (first) against those for single weights (second) found."""

    verdict: Verdict

    @property
    def blocks(self) -> bool:
        """Whether the kernels for blocks are taken: unless the others are faster for certain."""
        return not self.verdict.second_is_faster

    @property
    def name(self) -> str:
        """How the weights are multiplied, in words."""
        return "in blocks of {} × {}".format(*PAIRED) if self.blocks else "blocks as single weights"

    def __str__(self) -> str:
        ratio = self.verdict.ratio if self.blocks else 1 / max(self.verdict.ratio, 1e-9)
        return f"{self.name} ({ratio:.2g} times as fast as {'single weights' if self.blocks else 'in blocks'})"


def has_blocks(plan: LayerPlan) -> bool:
    """Tell whether there is a choice: a plan of whole blocks, and instructions that multiply them."""
    return door.native is not None and door.native.half_has_pairs() and paired_of(plan) is not None


def blocks_at_inference(x: Tensor, plan: LayerPlan, values: Tensor, bias: Tensor | None) -> BlocksTimed | None:
    """Time both kernels on an input without gradients, values rounded before; None where there is no choice."""
    if not has_blocks(plan):
        return None
    x, values = x.detach(), values.detach()
    added = None if bias is None else bias.detach()

    def through(blocks: bool) -> Callable[[], object]:
        rounded = Rounded()
        return lambda: half_linear(x, plan, values, added, rounded, blocks)

    def measure() -> tuple[Verdict, str]:
        known = "_half" in plan.__dict__
        with torch.no_grad():
            verdict = decide(through(True), through(False), seconds=_SECONDS)
        if not verdict.second_is_faster and not known:
            plan.__dict__.pop("_half", None)  # eight bytes a weight that nobody needs
        return verdict, "blocks"

    stored = "" if plan.blocks else ", stored singly"
    return BlocksTimed(remembered_verdict(_kind(f"inference{stored}", x, plan, values, bias), measure)[0])


def blocks_in_training(x: Tensor, plan: LayerPlan, values: Tensor, bias: Tensor | None) -> BlocksTimed | None:
    """Time both kernels forward and backward, each on values in its own order, rounded anew at each step: to bring them
    into the other's at each step would cost as much again as the products. None where there is no choice.

    Args:
        x: the input; its gradient is computed where it takes one.
        plan, values: the layer's weights, in blocks.
        bias: [rows], or None.
    """
    trains = values.requires_grad
    if not has_blocks(plan) or not (trains or x.requires_grad):
        return None

    def measure() -> tuple[Verdict, str]:
        single = plan_layer(plan.mask())
        own = single.gather(plan.scatter(values.detach()))
        with torch.enable_grad():
            ways = _step(x, plan, values, bias, trains=trains), _step(x, single, own, bias, trains=trains)
            return decide(*ways, seconds=_SECONDS), "blocks"

    what = f"training{'' if x.requires_grad else ', first layer'}{'' if trains else ', weights fixed'}"
    return BlocksTimed(remembered_verdict(_kind(what, x, plan, values, bias), measure)[0])


def _step(x: Tensor, plan: LayerPlan, values: Tensor, bias: Tensor | None, *, trains: bool) -> Callable[[], object]:
    inside, own = x.detach().requires_grad_(x.requires_grad), values.detach().requires_grad_(trains)
    added = None if bias is None else bias.detach()
    dy = torch.ones((*x.shape[:-1], plan.rows), dtype=torch.bfloat16, device="cpu")
    wanted = [tensor for tensor in (inside, own) if tensor.requires_grad]

    def step() -> object:
        return torch.autograd.grad(half_linear(inside, plan, own, added, Rounded()), wanted, dy)

    return step


def _kind(mode: str, x: Tensor, plan: LayerPlan, values: Tensor, bias: Tensor | None) -> str:
    native = door.native
    assert native is not None, "the caller has looked"
    types = f"{_name(x)} by {_name(values)}{'' if bias is None else ' with bias'}"
    size = f"{plan.columns} → {plan.rows}, density {plan.spread}"
    shape = " × ".join(map(str, x.shape))
    return f"blocks of {PAIRED} or single weights, {size}, {mode} at {shape}, {types}, {native.half_set()}"


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
