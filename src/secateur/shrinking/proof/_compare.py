"""The proof on the user's own model: outputs and gradients of the smaller model and of the masked one, side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur._base.errors import SecateurError
from secateur.costing import Call
from secateur.coupling import Outputs, lies_in, tensors_of, undisturbed
from secateur.shrinking.cuts import Plan, kept_indices, ratios, scalings, sliced
from secateur.shrinking.proof._modes import Precision, without_dropout

__all__ = ["Comparison", "compare", "difference", "inputs_like"]

_TINY = 1e-300
# Below this share of the largest gradient of a model, one is rounding: a bias in front of batch norm.
_GRADIENT_FLOOR = 1e-4


@dataclass(frozen=True)
class Comparison:
    """One comparison of two models.

    Attributes:
        mode: "eval" or "train".
        inputs: which inputs: "example", or "random 1" and so on.
        dtype: in which it was computed.
        outputs: largest difference of outputs, relative to the largest output.
        gradients: largest difference of gradients at what is kept, relative to the largest of the parameter; None
            where there were none.
        buffers: in train mode, the largest difference of running statistics; None in eval mode.
        tolerance: what was allowed.
    """

    mode: str
    inputs: str
    dtype: torch.dtype
    outputs: float
    gradients: float | None
    buffers: float | None
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether all differences are within the tolerance."""
        return all(not each > self.tolerance for each in (self.outputs, self.gradients or 0.0, self.buffers or 0.0))

    def __str__(self) -> str:
        parts = [f"outputs {self.outputs:.1e}"]
        parts += [] if self.gradients is None else [f"gradients {self.gradients:.1e}"]
        parts += [] if self.buffers is None else [f"statistics {self.buffers:.1e}"]
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.mode}, {self.inputs} inputs, {kind}: {', '.join(parts)} (allowed {self.tolerance:.0e})"


def compare(
    masked: nn.Module,
    build: Callable[[nn.Module], nn.Module],
    plan: Plan,
    call: Call,
    outputs: Outputs | None,
    modes: Sequence[str],
    draws: int,
) -> list[Comparison]:
    """Compare copies of two models in float64, or in float32 where there are no kernels.

    The smaller one is built in that precision too: a folded constant, or a weight that was scaled, is rounded in the
    model that is handed back as every other weight is.

    Args:
        masked: the model of full size, what goes is zero in it.
        build: makes the smaller model of a copy of it.
        plan: the cut.
        call: example inputs.
        outputs: picks what is compared from what the models return.
        modes: of "eval" and "train".
        draws: how many random inputs besides the example.

    Raises:
        SecateurError: neither runs.
    """
    problem: Exception | None = None
    where = ""
    for dtype in (torch.float64, torch.float32):
        big = _cast(masked, dtype)
        pair = [big, build(big)]
        found, mode = [], ""
        try:
            with undisturbed(masked), torch.inference_mode(False), torch.enable_grad():
                for mode in modes:
                    for name, each in inputs_like(call, draws, dtype):
                        found.append(_one(pair, plan, each, outputs, mode, name, dtype))
                return found
        except Exception as error:  # whatever the user's code raises where a size is wrong
            problem, where = error, mode
    other = f' modes=("{modes[0]}",) leaves that mode out.' if where != modes[0] else ""
    raise SecateurError(
        f"`shrink` could not run the model and its smaller copy in {where} mode to compare them: "
        f"{type(problem).__name__}: {problem}.{other} Nothing was changed."
    ) from problem


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    twin = copy.deepcopy(model).to(dtype)
    for parameter in twin.parameters():
        parameter.grad = None
    return twin


def inputs_like(call: Call, draws: int, dtype: torch.dtype) -> Iterator[tuple[str, Call]]:
    """Yield the example, and random inputs like it: normal of the same mean and spread, integers within its range."""
    own = torch.Generator().manual_seed(0)

    def cast(leaf: Any) -> Any:
        return leaf.detach().to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    def draw(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dtype == torch.bool or leaf.numel() == 0:
            return leaf
        if leaf.is_floating_point():
            known = leaf.detach().to(dtype)
            spread = known.std() if leaf.numel() > 1 else known.new_ones(())
            spread = torch.where(spread > 0, spread, 1.0)
            return torch.randn(leaf.shape, generator=own, dtype=dtype).to(leaf.device) * spread + known.mean()
        low, high = int(leaf.min()), int(leaf.max())
        return torch.randint(low, high + 1, leaf.shape, generator=own, dtype=leaf.dtype).to(leaf.device)

    yield "example", Call(tree_map(cast, call.inputs), tree_map(cast, dict(call.kwargs)))
    for k in range(draws):
        yield f"random {k + 1}", Call(tree_map(draw, call.inputs), tree_map(draw, dict(call.kwargs)))


def _one(
    pair: list[nn.Module],
    plan: Plan,
    call: Call,
    outputs: Outputs | None,
    mode: str,
    name: str,
    dtype: torch.dtype,
) -> Comparison:
    found: list[list[Tensor]] = []
    precision = Precision(dtype)
    for model in pair:
        model.train(mode == "train")
        torch.manual_seed(0)
        with without_dropout(model, mode), precision:
            out = model(*call.inputs, **call.kwargs)
        found.append(tensors_of(out if outputs is None else outputs(out)))
        _backward(model, found[-1])
    worst = max((difference(a, b) for a, b in zip(*found, strict=True)), default=0.0)
    statistics = _buffers(pair, plan) if mode == "train" else None
    return Comparison(mode, name, dtype, worst, _gradients(pair, plan), statistics, precision.tolerance)


def _backward(model: nn.Module, outs: Sequence[Tensor]) -> None:
    model.zero_grad(set_to_none=True)
    own = torch.Generator().manual_seed(1)
    graded = [out for out in outs if out.requires_grad]
    weights = [torch.randn(out.shape, generator=own, dtype=torch.float64).to(out) for out in graded]
    if graded:
        torch.autograd.backward(graded, weights)


def difference(one: Tensor, other: Tensor, floor: float = _TINY) -> float:
    """Return the largest difference of two tensors, relative to the largest entry; NaN must meet NaN."""
    if one.shape != other.shape:
        return float("inf")
    if one.numel() == 0:
        return 0.0
    if not one.is_floating_point() and not one.is_complex():
        return float((one != other).any())
    a, b = one.detach().double(), other.detach().double()
    wild = ~a.isfinite() | ~b.isfinite()
    if bool((wild & ~((a == b) | (a.isnan() & b.isnan()))).any()):
        return float("inf")
    a, b = a.masked_fill(wild, 0.0), b.masked_fill(wild, 0.0)
    return float((a - b).abs().max() / a.abs().max().clamp_min(floor))


def _gradients(pair: list[nn.Module], plan: Plan) -> float | None:
    """The masked model's gradients at what is kept, beside the small model's."""
    big, small = (dict(model.named_parameters()) for model in pair)
    graded = {n: p.grad for n, p in big.items() if p.grad is not None and lies_in(n, plan.removed) is None}
    if not graded:
        return None
    kept = {name: dims for names, dims in kept_indices(plan).items() for name in names}
    scale = {f"{norm.module}.{norm.weight}".lstrip("."): ratio**0.5 for norm, ratio in ratios(plan).items()}
    scale |= scalings(plan)
    floor = max(float(grad.abs().max()) for grad in graded.values() if grad.numel()) * _GRADIENT_FLOOR
    worst = 0.0
    for name, grad in graded.items():
        mine = small[name].grad if name in small else None
        wanted = sliced(grad, kept[name]) if name in kept else grad
        mine = torch.zeros_like(wanted) if mine is None else mine * scale.get(name, 1.0)
        worst = max(worst, difference(wanted, mine, max(floor, _TINY)))
    return worst


def _buffers(pair: list[nn.Module], plan: Plan) -> float:
    big, small = (dict(model.named_buffers()) for model in pair)
    kept = {name: dims for names, dims in kept_indices(plan).items() for name in names}
    pairs = ((sliced(t, kept[name]) if name in kept else t, small[name]) for name, t in big.items() if name in small)
    return max((difference(a, b) for a, b in pairs), default=0.0)
