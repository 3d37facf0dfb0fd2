"""Reorder hidden channels of a model in place: what writes them and what reads them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.arranging._search import kept_by, order_for
from secateur.coupling import Coupling, Entry, tensors_of, trace
from secateur.masks import prunable, unwrap


@dataclass(frozen=True, eq=False)
class Arrangement:
    """What was reordered, and what it gained.

    Attributes:
        orders: for each group of channels that has another order now, by the tensor where it is first seen: at each
            place the channel that was there before.
        before: the share of Σ|w| that N:M kept of the layers that read them.
        after: the share that it keeps now.
        error: the largest difference of the model's outputs on the example, by the largest output.
    """

    orders: dict[str, Tensor] = field(repr=False)
    before: float
    after: float
    error: float


@torch.inference_mode(mode=False)
@torch.no_grad()
def arrange_(
    model: nn.Module,
    *example_inputs: Any,
    n: int = 2,
    m: int = 4,
    worth: Callable[[Tensor], Tensor] = torch.abs,
    rounds: int = 100,
    tolerance: float = 1e-4,
) -> Arrangement:
    """Reorder the hidden channels of a model, in place, so that N:M keeps more; the function stays.

    `coupling.trace` says what writes a channel and what reads it; all of those are reordered alike. The order is
    searched by swaps between groups of M (`order_for`) on all layers that read the channels. After each group the model
    is run: where its outputs are not what they were, the old order comes back. Prune afterwards, by any method with
    `scope.n_of_m(n, m)` or a `pattern`.

    Args:
        model: the model, dense.
        *example_inputs: what its forward is called with; their values are used for the proof.
        n: N of every M inputs will stay.
        m: M.
        worth: of the weights, entry by entry; at least 0.
        rounds: of the search.
        tolerance: the largest difference of outputs, by the largest output, that counts as none.

    Source: Pool & Yu, "Channel permutations for N:M sparsity", NeurIPS 2021; the pattern: Mishra et al., arXiv
    2104.08378.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> found = arrange_(net, torch.randn(3, 8))
    >>> found.after > found.before, found.error < 1e-5
    (True, True)
    """
    network = unwrap(model)
    coupling = trace(network, *example_inputs)
    weights = set(prunable(network, frozen=True))
    orders: dict[str, Tensor] = {}
    sums, worst = np.zeros(3), 0.0
    with _in_use(network):
        dense = _outputs(network, example_inputs)
        for name, entries in _whole_groups(coupling):
            readers = [entry for entry in entries if entry.reads and set(entry.names) & weights]
            if not readers or len(entries[0].ids) % m:
                continue
            columns = torch.cat([_columns(network, entry, worth) for entry in readers])
            order = order_for(columns, n, m, rounds=rounds)
            _reorder(network, entries, order)
            error = _difference(_outputs(network, example_inputs), dense)
            if not error <= tolerance:
                _reorder(network, entries, order.argsort())
                order = torch.arange(len(order), device=order.device)
            else:
                worst = max(worst, error)
            if not torch.equal(order.cpu(), torch.arange(len(order))):
                orders[name] = order
            sums += [kept_by(columns, n, m), kept_by(columns[:, order], n, m), float(columns.sum(dtype=torch.float64))]
    if not sums[2]:
        raise SecateurError(
            f"No hidden channels of {type(network).__name__} can be reordered for {n}:{m}: none whose number M "
            "divides, that is written and read as a whole."
        )
    return Arrangement(orders, float(sums[0] / sums[2]), float(sums[1] / sums[2]), worst)


@contextmanager
def _in_use(network: nn.Module) -> Iterator[None]:
    """Run the model without dropout and without a trace; buffers are not guarded, for they are reordered as well."""
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.random.fork_rng():
            network.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _whole_groups(coupling: Coupling) -> Iterator[tuple[str, list[Entry]]]:
    """Channels that are written and read as whole dimensions, in one order everywhere, and by nothing else."""
    factors = [ids for product in coupling.products for ids in product.factors if ids is not None]
    merged = [product.merged.ravel() for product in coupling.products]
    shared = coupling.mark([*factors, *merged, *coupling.pieces])
    for group in coupling.groups:
        units = coupling.mark([group.units])
        entries = [entry for entry in coupling.entries if units[entry.ids].any()]
        first = entries[0].ids
        alike = all(len(entry.ids) == len(first) and bool((entry.ids == first).all()) for entry in entries)
        if alike and len(np.unique(first)) == len(first) == len(group.units) and not shared[first].any():
            yield group.name, entries


def _tensor(network: nn.Module, entry: Entry) -> Tensor:
    path, _, name = entry.names[0].rpartition(".")
    return getattr(network.get_submodule(path), name)


def _columns(network: nn.Module, entry: Entry, worth: Callable[[Tensor], Tensor]) -> Tensor:
    """What a layer reads of the channels: one column each."""
    return worth(_tensor(network, entry).detach()).movedim(entry.dim, -1).flatten(0, -2).float()


def _reorder(network: nn.Module, entries: Sequence[Entry], order: Tensor) -> None:
    for entry in entries:
        tensor = _tensor(network, entry)
        tensor.copy_(tensor.index_select(entry.dim, order.to(tensor.device)))


def _outputs(network: nn.Module, inputs: Sequence[Any]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors_of(network(*inputs))]


def _difference(found: Sequence[Tensor], dense: Sequence[Tensor]) -> float:
    largest = max((float(tensor.abs().max()) for tensor in dense if tensor.numel()), default=0.0)
    apart = (float((a.float() - b.float()).abs().max()) for a, b in zip(found, dense, strict=True) if a.numel())
    return max(apart, default=0.0) / max(largest, 1e-30)
