"""Dropout for a network that has lost connections: less of it, since there is less that could overfit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from secateur._base.arguments import require_model
from secateur._base.behind import catch_up
from secateur.masks import Masks, unwrap
from secateur.measures import Batch, call, inputs_of, preserved

_DROPOUTS = nn.modules.dropout._DropoutNd


def dropout_rates(model: nn.Module, masks: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
    """Return the rate that each dropout should have while the pruned network is retrained.

        D_r = D_o · √(C_ir / C_io)

    with D_o the dropout's present rate, C_io the connections of the layer that it feeds and C_ir those that are left.
    Where a dropout feeds several layers (the three projections of attention, say), both are sums over them.

    Which layer is fed is seen in one forward of the batch: the first masked layers that the dropout's output reaches.
    Rates that are no module of their own, of `nn.MultiheadAttention` and `nn.LSTM`, are not looked at, and a dropout
    whose output reaches no masked layer has no entry.

    Args:
        model: the network; it is left as found.
        masks: what is left of it.
        batch: what its forward is called with, inputs alone or with targets.

    Returns:
        Rates by the names of the dropout modules, between 0 and D_o.

    Source: Han, Pool, Tran & Dally, arXiv 1506.02626, §3.2, eqs. 1 and 2.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    >>> quarter = Masks({"3.weight": torch.tensor([[True, False, False, False]] * 2)})
    >>> dropout_rates(net, quarter, torch.ones(1, 4))
    {'2': 0.25}
    """
    require_model(model, "dropout_rates(model, masks, batch)")
    network = unwrap(model)
    catch_up(network)
    masks = masks if isinstance(masks, Masks) else Masks(dict(masks))
    masks.check(network)
    rates = {}
    for name, fed in _fed(network, masks, batch).items():
        left, all_ = (sum(count(masks[weight]) for weight in fed) for count in (_kept, Tensor.numel))
        rates[name] = network.get_submodule(name).p * math.sqrt(left / all_)  # pyright: ignore[reportOperatorIssue]
    return rates


@contextmanager
def rescaled_dropout(model: nn.Module, masks: Mapping[str, Tensor], batch: Batch) -> Iterator[dict[str, float]]:
    """Retrain inside with the rates of `dropout_rates`; outside, each dropout has its own again.

    So D_o is the rate that the network was made with, however often it is pruned.

    Args:
        model: the network.
        masks: what is left of it.
        batch: what its forward is called with, inputs alone or with targets.

    Yields:
        The rates, by the names of the dropout modules.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    >>> quarter = Masks({"3.weight": torch.tensor([[True, False, False, False]] * 2)})
    >>> with rescaled_dropout(net, quarter, torch.ones(1, 4)):
    ...     print(net[2].p)
    0.25
    >>> net[2].p
    0.5
    """
    rates = dropout_rates(model, masks, batch)
    network: Any = unwrap(model)
    dropouts = {network.get_submodule(name): rate for name, rate in rates.items()}
    before = {dropout: dropout.p for dropout in dropouts}
    try:
        for dropout, rate in dropouts.items():
            dropout.p = rate
        yield rates
    finally:
        for dropout, rate in before.items():
            dropout.p = rate


def _kept(mask: Tensor) -> int:
    return int(mask.count_nonzero())


class _Mark(torch.autograd.Function):
    """The identity, which leaves a node in autograd's graph by which a tensor is known again."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, anchor: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _fed(network: nn.Module, masks: Masks, batch: Batch) -> dict[str, list[str]]:
    """The masked weights that each dropout feeds, by its name: no other masked layer lies between them."""
    watch = _Watch(network, masks)
    params = dict(network.named_parameters())
    try:
        with preserved(network, params, train=False), torch.enable_grad():
            inputs = tree_map_only(Tensor, _followed, inputs_of(batch))
            call(network, inputs)
    finally:
        watch.remove()
    return {name: sorted(weights, key=list(masks).index) for name, weights in watch.fed.items()}


def _followed(value: Tensor) -> Tensor:
    """An input that autograd follows, if it can be."""
    return value.detach().requires_grad_(True) if value.is_floating_point() else value


class _Watch:
    """Hooks that mark what dropouts and masked layers return, and look back from what masked layers get."""

    def __init__(self, network: nn.Module, masks: Masks) -> None:
        self.fed: dict[str, set[str]] = {}
        self.dropouts: dict[Any, str] = {}
        self.layers: set[Any] = set()
        self.anchor = torch.zeros((), requires_grad=True)
        self.handles: list[Any] = []
        known = {parameter: name for name, parameter in masks.parameters(network).items()}  # tied ones have one name
        for path, module in network.named_modules():
            masked = [known[each] for each in module._parameters.values() if each is not None and each in known]
            if isinstance(module, _DROPOUTS):
                self.handles.append(module.register_forward_hook(self._dropout(path)))
            elif masked:
                self.handles.append(module.register_forward_pre_hook(self._enter(masked), with_kwargs=True))
                self.handles.append(module.register_forward_hook(self._leave))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _mark(self, value: Tensor) -> Tensor:
        return _Mark.apply(value, self.anchor) if value.is_floating_point() else value  # type: ignore[no-any-return]

    def _dropout(self, path: str) -> Any:
        def marked(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            output = self._mark(output)
            self.dropouts[output.grad_fn] = path
            return output

        return marked

    def _leave(self, module: nn.Module, inputs: object, output: Any) -> Any:
        def marked(value: Tensor) -> Tensor:
            value = self._mark(value)
            self.layers.add(value.grad_fn)
            return value

        return tree_map_only(Tensor, marked, output)

    def _enter(self, weights: list[str]) -> Any:
        def look_back(module: nn.Module, args: object, kwargs: object) -> None:
            for name in self._behind([v.grad_fn for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]):
                self.fed.setdefault(name, set()).update(weights)

        return look_back

    def _behind(self, nodes: list[Any]) -> set[str]:
        """The dropouts that lie behind these nodes, with no masked layer in between."""
        found, seen, waiting = set(), set(), [node for node in nodes if node is not None]
        while waiting:
            node = waiting.pop()
            if node in seen or node in self.layers:
                continue
            seen.add(node)
            if node in self.dropouts:
                found.add(self.dropouts[node])
            waiting += [behind for behind, _ in node.next_functions if behind is not None]
        return found
