"""sparsify and densify: from a masked model to one that stores only what survived, and back."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from secateur._base.errors import MaskError
from secateur.holding import held, hold
from secateur.masks import Masks
from secateur.sparse.convert._convolution import choose_convolution, is_convolution
from secateur.sparse.convert._recurrent import choose_recurrent, dense_recurrent, is_recurrent
from secateur.sparse.convert._report import Choice, LayerReport, Report
from secateur.sparse.layers._convolution import SparseConvolution, dense_convolution
from secateur.sparse.layers._linear import SparseLinear
from secateur.sparse.layers._network_sequential import NetworkSequential
from secateur.sparse.layers._onednn import OneDnnLinear
from secateur.sparse.layers._recurrent import SparseRecurrent
from secateur.sparse.layers._semi_structured import SemiStructuredLinear, choose_on_cuda, on_cuda, this_device
from secateur.sparse.layers._sequential import SparseSequential
from secateur.sparse.measured._machine import Machine, this_machine

__all__ = ["densify", "report_of", "sparsify"]

_REPORT = "sparse_report"


def sparsify(model: nn.Module, masks: Masks, *, batch: int = 128, machine: Machine | None = None) -> nn.Module:
    """Return a copy of the model that stores, computes and trains only the surviving weights of its layers.

    Each masked `nn.Linear` becomes a `SparseLinear` whose parameters are the surviving values and the bias, each
    masked `nn.Conv1d` or `nn.Conv2d` a `SparseConv1d` or `SparseConv2d`, each masked `nn.LSTM` or `nn.GRU` a
    `SparseLSTM` or `SparseGRU`, so that gradients and optimizer state shrink: make the optimizer afterwards, from
    the new model. Above the break-even density, measured once on this machine, a layer keeps computing densely.
    In an `nn.Sequential`, neighbouring sparse layers run as one call: linear layers with a ReLU between them, and
    convolutions with the normalisation, ReLU, pooling and linear layers behind them. In evaluation mode without
    gradients, such a call folds normalisations into the surviving weights in front of them; the model keeps both,
    so that it can train on and `densify` stays exact. The state_dict stays that of the dense model, in and out.
    The model passed in is left as it is.

    Args:
        model: the model; pruned weights need not be zero yet, they are left behind.
        masks: what survives. Parameters of other layers than these stay dense and are written to
            zero where pruned; `report_of(model).not_held` names them, for `secateur.hold`.
        batch: how many samples a step will have; the break-even depends on it.
        machine: measurements to decide by instead of this machine's. On CUDA each linear layer is timed as it is:
            2:4 masks run on the sparse tensor cores in evaluation where that is faster, all else stays dense.

    Returns:
        The new model. `report_of(model)` says what was chosen for each layer and why.

    Raises:
        MaskError: masks that do not fit the model, or NaN or infinite weights under them.

    >>> from secateur.sparse import BreakEven
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> masks = Masks({"0.weight": torch.eye(64) > 0})
    >>> example = Machine("example", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.3),))
    >>> fast = sparsify(model, masks, machine=example)
    >>> [tuple(p.shape) for p in fast.parameters()]
    [(64,), (64,), (8, 64), (8,)]
    >>> print(report_of(fast))
    0.weight [64 × 64]: sparse: density 1.6 % is below break-even 30 %
    2.weight [8 × 64]: untouched: it has no mask
    """
    if batch < 1:
        raise ValueError(f"`batch` must be at least 1, got {batch}")
    owned = masks.parameters(model)
    by_id = {id(parameter): name for name, parameter in owned.items()}
    _refuse_nan(masks, owned)
    machine = this_machine() if machine is None else machine
    uses = _uses(model)
    lines: list[LayerReport] = []
    swaps: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if is_recurrent(module):
            replacement, found = choose_recurrent(path, module, by_id, masks, uses, machine, batch)
            lines += found
            swaps |= {} if replacement is None else {path: replacement}
        if is_convolution(module):
            parent = model.get_submodule(path.rpartition(".")[0])
            convolution, line = choose_convolution(path, module, by_id, masks, uses, machine, parent)
            lines.append(line)
            swaps |= {} if convolution is None else {path: convolution}
        if not isinstance(module, nn.Linear):
            continue
        name = by_id.get(id(module._parameters.get("weight")))
        mask = None if name is None else masks[name]
        new, line = _choose(path, module, mask, by_id, uses, machine, batch)
        lines.append(line)
        if new is not None:
            swaps[path] = new
    done = {line.name for line in lines}
    lines += [_other(name, masks[name]) for name in masks if name not in done]
    return _assemble(model, masks, swaps, Report(tuple(lines)))


def report_of(model: nn.Module) -> Report:
    """Return what `sparsify` chose for the layers of this model, and why."""
    report = getattr(model, _REPORT, None)
    if not isinstance(report, Report):
        raise ValueError("the model was not made by secateur.sparsify, so there is no report of it")
    return report


def densify(model: nn.Module) -> nn.Module:
    """Return a copy of the model with ordinary dense layers again: `sparsify` undone, bit for bit.

    >>> from secateur.sparse import BreakEven
    >>> layer = nn.Linear(3, 2)
    >>> masks = Masks({"weight": torch.tensor([[True, False, True], [False, True, False]])})
    >>> masks.apply_(layer)
    >>> example = Machine("example", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.9),))
    >>> back = densify(sparsify(layer, masks, machine=example))
    >>> torch.equal(back.weight, layer.weight)
    True
    """
    swaps: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if isinstance(module, SparseLinear):
            weight = module.plan.scatter(module.values.detach())
            swaps[path] = _linear(weight, module.bias, module.values.requires_grad, module.training)
        elif isinstance(module, SparseRecurrent):
            swaps[path] = dense_recurrent(module)
        elif isinstance(module, SparseConvolution):
            swaps[path] = dense_convolution(module)
        elif type(module) in (OneDnnLinear, SemiStructuredLinear):
            assert isinstance(module, nn.Linear)
            swaps[path] = _linear(
                module.weight.detach().clone(), module.bias, module.weight.requires_grad, module.training
            )
    dense = _copy_with(model, swaps)
    for module in list(dense.modules()):
        if type(module) in (SparseSequential, NetworkSequential):
            module.__class__ = nn.Sequential  # type: ignore[assignment]
    if hasattr(dense, _REPORT):
        delattr(dense, _REPORT)
    return dense


def _choose(
    path: str,
    module: nn.Linear,
    mask: Tensor | None,
    names: dict[int, str],
    uses: dict[int, int],
    machine: Machine,
    batch: int,
) -> tuple[nn.Module | None, LayerReport]:
    weight = module.weight
    name = names.get(id(weight), f"{path}.weight" if path else "weight")
    kept = weight.numel() if mask is None else int(mask.count_nonzero())

    def line(choice: Choice, reason: str, held: bool) -> LayerReport:
        return LayerReport(name, tuple(weight.shape), kept, weight.numel(), choice, reason, held)

    reason = _why_not(module, names, uses)
    if reason is not None:
        return None, line(Choice.UNTOUCHED, reason, False)
    if on_cuda(module) and mask is not None:
        return choose_on_cuda(module, name, mask, batch, this_device(weight.device))
    if weight.dtype is not torch.float32 or weight.device.type != "cpu":
        kind = str(weight.dtype).removeprefix("torch.")
        why = f"its weights are {kind} on {weight.device.type}; the kernels take float32 on cpu"
        return None, line(Choice.UNTOUCHED, why, False)
    if mask is None or kept == weight.numel():
        why = "it has no mask" if mask is None else "its mask keeps every weight"
        if machine.onednn and min(weight.shape) >= 64:
            return _onednn(module), line(Choice.DENSE, f"{why}; it multiplies through oneDNN, faster here", False)
        return None, line(Choice.UNTOUCHED, why, False)
    density, limit = kept / weight.numel(), machine.break_even(weight.shape[0], weight.shape[1], batch)
    sparse = SparseLinear.from_dense(module, mask)
    texts = _percent(density), _percent(limit)
    if density < limit:
        kind = ", in blocks of four outputs" if sparse.plan.blocks else ""
        return sparse, line(Choice.SPARSE, "density {} is below break-even {}{}".format(*texts, kind), True)
    sparse.compute_dense, sparse.onednn = True, machine.onednn
    return sparse, line(Choice.DENSE, "density {} is above break-even {}".format(*texts), True)


def _why_not(module: nn.Linear, names: dict[int, str], uses: dict[int, int]) -> str | None:
    """Tell why a Linear cannot be swapped, or return None."""
    if type(module) is not nn.Linear:
        return f"it is a {type(module).__name__}, not a plain nn.Linear"
    if uses[id(module.weight)] > 1 or (module.bias is not None and uses[id(module.bias)] > 1):
        return "its parameters are shared with another layer"
    if id(module.bias) in names:
        return "its bias is masked too"
    if 0 in module.weight.shape:
        return "it has no weights"
    return None


def _percent(density: float) -> str:
    """Format a density so that neighbours of the break-even stay apart.

    >>> _percent(0.31), _percent(0.0156), _percent(0.0001)
    ('31 %', '1.6 %', '0.01 %')
    """
    return f"{density * 100:.2g} %" if density < 0.995 else "100 %"


def _other(name: str, mask: Tensor) -> LayerReport:
    reason = "no sparse kernel for this kind of parameter; keep its zeros with secateur.hold"
    return LayerReport(
        name, tuple(mask.shape), int(mask.count_nonzero()), mask.numel(), Choice.UNTOUCHED, reason, False
    )


def _refuse_nan(masks: Masks, owned: dict[str, nn.Parameter]) -> None:
    for name, parameter in owned.items():
        bad = int((~torch.isfinite(parameter.detach()) & masks[name].to(parameter.device)).count_nonzero())
        if bad:
            raise MaskError(
                f"{name!r} has {bad} NaN or infinite surviving weights; a model that has diverged is not worth "
                "making faster. Load an earlier checkpoint."
            )


def _uses(model: nn.Module) -> dict[int, int]:
    """Count by how many modules each parameter is used."""
    found: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                found[id(parameter)] = found.get(id(parameter), 0) + 1
    return found


def _assemble(model: nn.Module, masks: Masks, swaps: dict[str, nn.Module], report: Report) -> nn.Module:
    new = _copy_with(model, swaps)
    _hold_the_rest(new, report)
    remaining = dict(new.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in masks:
            if name in remaining:
                remaining[name].masked_fill_(~masks[name].to(remaining[name].device), 0)
    for module in new.modules():
        if type(module) is nn.Sequential and any(isinstance(child, SparseConvolution) for child in module):
            module.__class__ = NetworkSequential  # type: ignore[assignment]
        elif type(module) is nn.Sequential and any(isinstance(child, SparseLinear) for child in module):
            module.__class__ = SparseSequential
    setattr(new, _REPORT, report)
    return new


def _hold_the_rest(new: nn.Module, report: Report) -> None:
    """A held model's copy is held as well, but a swapped layer has nothing left that could leak."""
    for before in held(new):
        rest = {name: mask for name, mask in before.masks.items() if name in report.not_held}
        before.release()
        if rest:
            hold(new, Masks(rest))


def _copy_with(model: nn.Module, swaps: dict[str, nn.Module]) -> nn.Module:
    """Deep-copy the model with some modules replaced; what is replaced is not copied first."""
    if "" in swaps:
        return swaps[""]
    memo: dict[int, object] = {id(model.get_submodule(path)): new for path, new in swaps.items()}
    return copy.deepcopy(model, memo)


def _onednn(linear: nn.Linear) -> nn.Module:
    new = copy.deepcopy(linear)
    new.__class__ = OneDnnLinear
    return new


def _linear(weight: Tensor, bias: Tensor | None, trains: bool, training: bool) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=trains)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return linear.train(training)
