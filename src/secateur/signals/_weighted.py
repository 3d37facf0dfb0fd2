"""A model run on other weights than its own, with a graph to them; and evidence worked out from all batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.measures import Evidence, Params, Probe, Running, logits_of

Found = TypeVar("Found")


class _Around(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, take: Callable[[nn.Module], Any]) -> Any:
        return take(self.model)


def with_weights(model: nn.Module, values: Mapping[str, Tensor], take: Callable[[nn.Module], Found]) -> Found:
    """Return `take(model)` while the parameters named in `values` are those tensors, graph and all."""
    named = {f"model.{name}": tensor for name, tensor in values.items()}
    return functional_call(_Around(model), named, (take,))


def trained_with(model: nn.Module, params: Params) -> dict[str, Tensor]:
    """Copies of all parameters that training would move: the prunable ones, and what else requires a gradient."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    ids = {id(p) for p in params.values()}
    others = {name: p for name, p in named.items() if id(p) not in ids}
    return {name: p.detach().clone() for name, p in {**params, **others}.items()}


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """The fused attention and cuDNN recurrent kernels cannot be differentiated twice; the plain ones can."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False), torch.enable_grad():
        yield


def outputs_of(output: Any) -> Tensor:
    """The tensor that a model's output is about."""
    return output if isinstance(output, Tensor) else logits_of(output)


def alive_in(probe: Probe) -> Evidence:
    """What has not been pruned yet, as ones and zeros: a weight that is 0 in the model and not in the dense one has."""
    dense = probe.weights
    return {n: ((p.detach() != 0) | (dense[n] == 0)).to(p.dtype) for n, p in probe.params.items()}


class Gathering(Running):
    """Base of collectors that keep the batches, and work when asked: what needs several at once, or in turns."""

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.probes: list[Probe] = []

    def update(self, probe: Probe) -> None:
        """Keep one batch."""
        self.probes.append(probe)
        self.updates += 1

    def reset(self) -> None:
        """Forget the batches."""
        super().reset()
        self.probes = []
