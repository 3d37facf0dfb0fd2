"""sparsify and densify: from a masked model to one that stores only what survived, and back."""

from __future__ import annotations

import copy
from numbers import Integral

import torch
from torch import nn
from torch.optim import Optimizer

from secateur._base.arguments import refuse_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import MaskError, SecateurError
from secateur._base.finite import all_finite
from secateur.holding import held, hold
from secateur.masks import Masks, refuse_shared_memory, require_masks
from secateur.sparse.convert._candidates import fastest
from secateur.sparse.convert._choose import choose
from secateur.sparse.convert._following import Following, changing_hold
from secateur.sparse.convert._inputs import Inputs, assumed, uses_of
from secateur.sparse.convert._report import REPORT, Choice, LayerReport, Report
from secateur.sparse.convert._situation import Situation
from secateur.sparse.layers import (
    Choosing,
    DenseState,
    NetworkSequential,
    OneDnnLinear,
    RoundedLinear,
    SemiStructuredLinear,
    SparseConvolution,
    SparseLinear,
    SparseSequential,
    apart,
    carry_on,
    fill,
    refuse_to_carry,
)
from secateur.sparse.measured import Machine
from secateur.sparse.transformers import SparseEncoder, SparseEncoderLayer

#: Classes that modules around sparse layers take, and the class that each had.
_DENSE: dict[type[nn.Module], type[nn.Module]] = {
    SparseSequential: nn.Sequential,
    NetworkSequential: nn.Sequential,
    SparseEncoderLayer: nn.TransformerEncoderLayer,
    SparseEncoder: nn.TransformerEncoder,
}
_ENCODERS = {_DENSE[kind]: kind for kind in (SparseEncoderLayer, SparseEncoder)}


def sparsify(
    model: nn.Module,
    masks: Masks,
    *,
    example_inputs: Inputs | None = None,
    batch: int = 128,
    machine: Machine | None = None,
    optimizer: Optimizer | None = None,
) -> nn.Module:
    """Return a copy of the model that stores, computes and trains only the surviving weights of its layers.

    Each masked `nn.Linear` becomes a `SparseLinear` whose parameters are the surviving values and the bias, each
    masked `nn.Conv1d` or `nn.Conv2d` a `SparseConv1d` or `SparseConv2d`, each masked `nn.LSTM` or `nn.GRU` a
    `SparseLSTM` or `SparseGRU`, each masked `nn.MultiheadAttention` a `SparseAttention` and each masked `Conv1D` of
    GPT-2 a `SparseTransposedLinear`, so that gradients and optimizer state shrink: make the optimizer afterwards, from
    the new model, or pass the one that trains the old. A layer that is faster dense stays dense, at dense speed, and
    its zeros are held.

    What is faster is timed: with `example_inputs` (or in a chain of linear layers, whose shapes follow from `batch`)
    every layer on its own shape, in the model's mode (`model.eval()`: the forward pass; `model.train()`: forward and
    backward), interleaved with the best dense way that torch has, until the order is certain; then the whole model,
    as its layers chose, all sparse, and all dense. Layers' verdicts are remembered on this machine. Without
    `example_inputs`, layers whose input's shape is unknown go by break-evens measured once on this machine.

    In an `nn.Sequential`, neighbouring sparse layers run as one call: linear layers with a ReLU between them, and
    convolutions with the normalisation, ReLU, pooling and linear layers behind them. In evaluation mode without
    gradients, such a call folds normalisations into the surviving weights in front of them; the model keeps both,
    so that it can train on and `densify` stays exact. The state_dict stays that of the dense model, in and out.
    The model passed in is left as it is.

    Args:
        model: the model; pruned weights need not be zero yet, they are left behind.
        masks: what survives. Parameters of other layers than these stay dense and are written to
            zero where pruned; `report_of(model).not_held` names them, for `secateur.hold`.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a mapping of them by name; of
            the batch size that matters.
        batch: how many samples a step will have, where `example_inputs` does not say.
        machine: break-evens to decide by, instead of timing anything. On CUDA each linear layer is timed as it is:
            2:4 masks run on the sparse tensor cores in evaluation where that is faster, all else stays dense.
        optimizer: the one that trains the model, between two of its steps. It trains the new model from here on, in
            place: groups, options, counters and all that it remembers of surviving weights go along, and its next step
            is that of the held model. Gradients do not: one that is accumulated over several batches begins anew.

    Returns:
        The new model. `report_of(model)` says what was chosen for each layer and why.

    Raises:
        MaskError: masks that do not fit the model, or NaN or infinite weights under them.
        SecateurError: a model that is sparsified already, or in which two parameters share memory, or one that does
            not run on `example_inputs`, or an optimizer that does not remember each entry by itself.

    >>> from secateur.sparse import BreakEven, report_of
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> masks = Masks({"0.weight": torch.eye(64) > 0})
    >>> example = Machine("example", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.3),))
    >>> fast = sparsify(model, masks, machine=example)
    >>> [tuple(p.shape) for p in fast.parameters()]
    [(64,), (64,), (8, 64), (8,)]
    >>> print(report_of(fast))
    0.weight [64 × 64]: sparse: density 1.6 % is below break-even 30 %
    2.weight [8 × 64]: untouched: it has no mask
    NOTE surviving values are vectors: weight decay for `ndim >= 2` skips them; see secateur.sparse.dense_shapes
    """
    require_model(model, "sparsify(model, masks)")
    require_masks(masks, "sparsify(model, masks)")
    _refuse_options(batch, machine)
    refuse_sparsified(model, "sparsify")
    if hasattr(model, REPORT):
        raise SecateurError("the model was made by sparsify already; sparsify secateur.densify(model) instead")
    catch_up(model)
    if optimizer is not None:
        refuse_to_carry(optimizer, model)
    refuse_shared_memory(masks.parameters(model), dict(model.named_parameters()))
    changing = changing_hold(model, masks)
    refuse_nan(masks, model)
    inputs = assumed(model, batch) if example_inputs is None and machine is None else example_inputs
    uses = {} if inputs is None or machine is not None else uses_of(model, inputs)
    situation = Situation.of(model, masks, machine, batch, uses, follows=changing is not None)
    chosen = _converted(situation)
    if inputs is not None and machine is None:
        chosen = fastest(situation, chosen, inputs, _converted)
    if optimizer is not None:
        carry_on(optimizer, model, chosen, masks)
    if changing is not None:
        Following(model, changing, chosen)
    return chosen


def _converted(situation: Situation) -> nn.Module:
    """Convert as the layers' own times say, or as is wanted."""
    model, masks = situation.model, situation.masks
    lines: list[LayerReport] = []
    swaps: dict[str, nn.Module] = {}
    told = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}  # with their attention
    for path, module in model.named_modules():
        new, found = choose(path, module, situation) if id(module) not in told else (None, [])
        if situation.follows and isinstance(new, DenseState) and not isinstance(new, SparseLinear | SparseConvolution):
            new, found = None, [line.as_it_is() for line in found]
        lines += found
        swaps |= {} if new is None else {path: new}
    done = {line.name for line in lines}
    why = "no sparse kernel for this kind of parameter; keep its zeros with secateur.hold"
    lines += [LayerReport.of(n, masks[n], masks[n], Choice.UNTOUCHED, why) for n in masks if n not in done]
    return _assemble(situation, swaps, Report(tuple(lines)))


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
    require_model(model, "densify(model)")
    swaps: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if path.rpartition(".")[0] in swaps:
            continue  # part of a layer that becomes dense as a whole
        if isinstance(module, DenseState):
            swaps[path] = module.dense()
        elif isinstance(module, OneDnnLinear | RoundedLinear | SemiStructuredLinear):
            made = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
            weight = module.weight
            swaps[path] = fill(made, weight.detach().clone(), module, trains=weight.requires_grad)
    dense = apart(copy_with(model, swaps))
    for module in list(dense.modules()):
        if type(module) in _DENSE:
            module.__class__ = _DENSE[type(module)]  # type: ignore[assignment]
    report = getattr(dense, REPORT, None)
    if isinstance(report, Report):
        for ours in held(dense):
            if ours.masks.keys() <= _kept_dense(report):
                ours.release()
        delattr(dense, REPORT)
    return dense


def _kept_dense(report: Report) -> set[str]:
    """Names of weights that stay dense, and whose zeros `sparsify` has held."""
    return {line.name for line in report.layers if line.choice is Choice.DENSE and line.held}


def _refuse_options(batch: object, machine: object) -> None:
    if not isinstance(batch, Integral):
        raise SecateurError(f"`batch` must be a number of samples, got {batch!r}")
    if int(batch) < 1:
        raise SecateurError(f"`batch` must be at least 1, got {batch}")
    if machine is not None and not isinstance(machine, Machine):
        raise SecateurError(f"`machine` must be a secateur.sparse.Machine, or None for this one, got {machine!r}")


def refuse_nan(masks: Masks, model: nn.Module) -> None:
    """Raise if weights that the masks keep are not finite."""
    for name, parameter in masks.parameters(model).items():
        if all_finite(parameter.detach()):
            continue
        bad = int((~torch.isfinite(parameter.detach()) & masks[name].to(parameter.device)).count_nonzero())
        if bad:
            raise MaskError(
                f"{name!r} has {bad} NaN or infinite surviving weights; a model that has diverged is not worth "
                "making faster. Load an earlier checkpoint."
            )


def _assemble(situation: Situation, swaps: dict[str, nn.Module], report: Report) -> nn.Module:
    model, masks = situation.model, situation.masks
    new = copy_with(model, swaps)
    if situation.channels_last:
        new.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _hold_the_rest(new, report)
    stays = _kept_dense(report)
    if stay := {name: masks[name] for name, _ in new.named_parameters() if name in stays and name in masks}:
        hold(new, Masks(stay))
    remaining = dict(new.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in masks:
            if name in remaining:
                remaining[name].masked_fill_(~masks[name].to(remaining[name].device), 0)
    for module in new.modules():
        kinds = {type(child) for child in module} if type(module) is nn.Sequential else set()
        if any(issubclass(kind, SparseConvolution) for kind in kinds):
            module.__class__ = NetworkSequential  # type: ignore[assignment]
        elif SparseLinear in kinds:
            module.__class__ = SparseSequential  # type: ignore[assignment]
        elif type(module) in _ENCODERS and any(isinstance(inner, DenseState) for inner in module.modules()):
            module.__class__ = _ENCODERS[type(module)]  # type: ignore[assignment]
    setattr(new, REPORT, report)
    if situation.given is None:
        _let_choose(new, situation)
    return new


def _let_choose(new: nn.Module, situation: Situation) -> None:
    """Let layers choose at first calls, in the modes in which they were not timed."""
    for path, module in new.named_modules():
        if isinstance(module, Choosing):
            uses, reduced = situation.uses_by_path, torch.is_autocast_enabled("cpu")
            timed = path in uses or path.rpartition(".")[0] in uses  # by itself, or within an attention
            known = timed or (isinstance(module, SparseSequential) and bool(uses))
            module.let_choose(settled=situation.model.training if known and not reduced else None)


def _hold_the_rest(new: nn.Module, report: Report) -> None:
    """A held model's copy is held as well, but a swapped layer has nothing left that could leak."""
    for before in held(new):
        rest = {name: mask for name, mask in before.masks.items() if name in report.not_held}
        before.release()
        if rest:
            hold(new, Masks(rest))


def copy_with(model: nn.Module, swaps: dict[str, nn.Module]) -> nn.Module:
    """Deep-copy the model with some modules replaced; what is replaced is not copied first."""
    if "" in swaps:
        return swaps[""]
    memo: dict[int, object] = {id(model.get_submodule(path)): new for path, new in swaps.items()}
    return copy.deepcopy(model, memo)
