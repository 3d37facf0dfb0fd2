"""Build a sparse LSTM or GRU from a dense one, and the dense one again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.sparse.layers._recurrent import RecurrentOptions, SparseGRU, SparseLSTM, SparseRecurrent
from secateur.sparse.plans._recurrent import RecurrentPlan, plan_recurrent

__all__ = ["dense_recurrent", "is_recurrent", "sparse_recurrent"]


def is_recurrent(module: nn.Module) -> bool:
    """Tell whether this is one of torch's LSTM or GRU layers."""
    return isinstance(module, nn.LSTM | nn.GRU)


def sparse_recurrent(module: nn.LSTM | nn.GRU, masks: Mapping[str, Tensor]) -> SparseRecurrent:
    """Take the surviving weights out of a dense layer, as copies.

    Args:
        module: the dense layer.
        masks: by the layer's own names ("weight_ih_l0"); a weight without one keeps all, a bias must be kept or
            pruned whole. A pruned bias becomes a constant zero.

    >>> layer = nn.GRU(3, 2)
    >>> sparse = sparse_recurrent(layer, {"weight_ih_l0": torch.eye(6, 3) > 0})
    >>> [(name, tuple(p.shape)) for name, p in sparse.named_parameters()][:2]
    [('values_ih_l0', (3,)), ('values_hh_l0', (12,))]
    """
    options = RecurrentOptions(
        module.input_size, module.hidden_size, module.num_layers, module.bias,
        module.batch_first, module.dropout, module.bidirectional,
    )  # fmt: skip
    gru = isinstance(module, nn.GRU)
    plans: list[RecurrentPlan] = []
    tensors: dict[str, Tensor] = {}
    constants: set[str] = set()
    empty = {name for name, mask in masks.items() if name.startswith("bias") and not bool(mask.any())}
    for suffix in options.suffixes:
        weights: list[Tensor] = [getattr(module, f"weight_{which}_{suffix}") for which in ("ih", "hh")]
        full = [torch.ones_like(w, dtype=torch.bool) for w in weights]
        kept = [masks.get(f"weight_{which}_{suffix}", all_) for which, all_ in zip(("ih", "hh"), full, strict=True)]
        plan = plan_recurrent(kept[0], kept[1], gru=gru)
        plans.append(plan)
        for which, weight in zip(("ih", "hh"), weights, strict=True):
            values = plan.gather(weight.detach(), state=which == "hh")
            tensors[f"values_{which}_{suffix}"] = values.requires_grad_(weight.requires_grad)
        for name in (f"bias_ih_{suffix}", f"bias_hh_{suffix}") if options.bias else ():
            bias: Tensor = getattr(module, name)
            pruned = name in empty
            if pruned or name in module._buffers:
                constants.add(name)
            copy = torch.zeros_like(bias) if pruned else bias.detach().clone()
            tensors[name] = copy.detach().requires_grad_(bias.requires_grad and not pruned)
    kind = SparseGRU if gru else SparseLSTM
    sparse = kind(options, tuple(plans), tensors, constants=frozenset(constants), pruned=frozenset(empty))
    return sparse.train(module.training)


def dense_recurrent(module: SparseRecurrent) -> nn.LSTM | nn.GRU:
    """Return the dense layer again, bit for bit; constants that `sparsify` found stay buffers."""
    o = module.options
    kind = nn.GRU if module.gru else nn.LSTM
    dense = kind(
        o.input_size, o.hidden_size, o.num_layers, bias=o.bias, batch_first=o.batch_first,
        bidirectional=o.bidirectional, device="meta",
    )  # fmt: skip
    dense.dropout = o.dropout  # torch warns where it has no effect, as it did when the layer was first made
    for index, suffix in enumerate(o.suffixes):
        plan = module.plans[index]
        values_ih, values_hh, *_ = module.direction(index)
        assert values_ih is not None and values_hh is not None
        for which, values in (("ih", values_ih), ("hh", values_hh)):
            weight = plan.scatter(values.detach(), state=which == "hh")
            setattr(dense, f"weight_{which}_{suffix}", nn.Parameter(weight, requires_grad=values.requires_grad))
        for name in (f"bias_ih_{suffix}", f"bias_hh_{suffix}") if o.bias else ():
            bias: Tensor = getattr(module, name)
            if name in module._buffers and name not in module.pruned:
                delattr(dense, name)
                dense.register_buffer(name, bias.detach().clone())
            else:
                trains = bias.requires_grad or name in module.pruned
                setattr(dense, name, nn.Parameter(bias.detach().clone(), requires_grad=trains))
    return dense.train(module.training)
