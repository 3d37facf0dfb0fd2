"""Choose between dense and 2:4 for a linear layer on CUDA, by measurement."""

from __future__ import annotations

from torch import Tensor, nn

from secateur._base.types import Bool
from secateur.sparse.convert._report import Choice, LayerReport
from secateur.sparse.layers import SemiStructuredLinear, SparseDevice, is_two_of_four

# A gain that is smaller may be the measurement's.
_WORTH_IT = 0.95


def choose_on_cuda(
    linear: nn.Linear, name: str, mask: Bool[Tensor, "rows columns"], batch: int, device: SparseDevice
) -> tuple[SemiStructuredLinear | None, LayerReport]:
    """Choose between dense and 2:4 for one masked layer by measurement; None leaves it dense.

    Args:
        linear: the layer, on the device.
        name: of its weight.
        mask: what survives.
        batch: samples of a call, which decide what is faster.
        device: what can be asked of the device; `this_device`, or another one in tests.
    """
    new, choice, reason = _decide(linear, mask, batch, device)
    joint = ";" if new is None else ","
    # The dense weight stays a parameter, whatever computes the product: its zeros want holding.
    return new, LayerReport.of(name, linear.weight, mask, choice, f"{reason}{joint} keep its zeros with secateur.hold")


def _decide(
    linear: nn.Linear, mask: Tensor, batch: int, device: SparseDevice
) -> tuple[SemiStructuredLinear | None, Choice, str]:
    if device.why_not is not None:
        return None, Choice.DENSE, device.why_not
    if not is_two_of_four(mask):
        return None, Choice.DENSE, "its mask is not 2:4, the only sparsity that CUDA runs faster"
    new = SemiStructuredLinear.from_dense(linear, mask, device)
    try:
        dense, sparse = device.measure(linear, new.compressed(), batch)
    except (RuntimeError, ValueError, NotImplementedError) as problem:
        why = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        return None, Choice.DENSE, f"torch does not run it 2:4: {why}"
    if not sparse < _WORTH_IT * dense:
        return None, Choice.DENSE, f"2:4 takes {sparse / dense:.2f} of the dense time at batch {batch}"
    reason = f"2:4 in evaluation, {sparse / dense:.2f} of the dense time at batch {batch}; dense in training"
    return new, Choice.SPARSE, reason
