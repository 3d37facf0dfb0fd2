"""Prune each part of a model alone, at several densities, and measure what that does to the model's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError, nearest
from secateur.allocating._share import shared_out
from secateur.axes import Method
from secateur.coupling import tensors_of
from secateur.masks import prunable, unwrap
from secateur.measures import Batch, Probe, moved
from secateur.pruning import prune
from secateur.pruning.blocks import evaluating
from secateur.selection import check_density

#: From the model as it stands to a number, at least 0, that is 0 for the dense one.
Error = Callable[[nn.Module], float]

_SHARES = (1.6, 1.3, 1.0, 0.75, 0.5)


@dataclass(frozen=True)
class Allocation:
    """Densities for the parts of a model.

    Attributes:
        densities: of each part.
        errors: of each part the (density, error) pairs that were measured with the others dense.
    """

    densities: dict[str, float]
    errors: dict[str, list[tuple[float, float]]] = field(repr=False)


@torch.inference_mode(mode=False)
def allocate(
    model: nn.Module,
    make: Callable[[float], Method],
    batches: Iterable[Batch],
    *,
    density: float,
    parts: Sequence[str] | str,
    levels: Sequence[float] | None = None,
    error: Error | None = None,
) -> Allocation:
    """Say how much each part of a model may keep, by what pruning it alone does to the model's outputs.

    Each part is pruned at each level with all others dense, as `prune(model, make(level), batches, blocks=[part])` does
    it; the error is measured and the part gets its weights back. Densities are then shared out so that the sum of
    errors is least (`shared_out`), with `density` of all weights of the parts kept. Afterwards:
    `prune(model, make(density), batches, blocks={name: make(own) for name, own in found.densities.items()})`.

    Args:
        model: the model; it is left as found.
        make: density → method, `methods.sparsegpt` say.
        batches: inputs; a part of those that the model will be pruned on will do.
        density: ρ of all parts together.
        parts: modules that are called one after the other, whole blocks or single layers: names or globs, as `blocks`.
        levels: densities to try; by default half to 1.6 times `density`.
        error: of the model as it stands; by default Σ‖f′(x) − f(x)‖²/Σ‖f(x)‖² over the batches, f the dense model.

    Raises:
        SecateurError: levels that do not reach down to `density`, an error that is no number, parts without weights.

    Source: per-layer densities from measured errors as in Frantar & Alistarh, "SPDY", arXiv 2201.13096, §3, with errors
    of the model's outputs in the place of layer-wise ones, and a convex line through them in the place of its search.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(*[nn.Linear(8, 8, bias=False) for _ in range(2)])
    >>> _ = net[1].weight.data.copy_(torch.eye(8) + torch.randn(8, 8) / 1000)  # of which most say next to nothing
    >>> from secateur import methods
    >>> found = allocate(net, methods.magnitude, [torch.randn(32, 8)], density=0.5, parts=["0", "1"])
    >>> found.densities["1"] < 0.5 < found.densities["0"]
    True
    """
    check_density(density)
    network, seen = unwrap(model), list(batches)
    names = _found(network, parts)
    sizes = {name: _size(network, name) for name in names}
    tried = sorted({min(1.0, density * share) for share in _SHARES} if levels is None else set(levels), reverse=True)
    for level in tried:
        check_density(level, name="levels")
    if not tried or min(tried) > density:
        raise SecateurError(f"`levels` must reach down to `density`={density:g} or below it, got {list(tried)}.")
    with torch.no_grad(), evaluating(network):
        told = _Difference(network, seen) if error is None else error
        errors = {
            name: [(level, _measured(network, make(level), seen, name, told)) for level in tried if level < 1]
            for name in names
        }
    return Allocation(shared_out(sizes, errors, density), errors)


def _measured(network: nn.Module, method: Method, batches: list[Batch], name: str, error: Error) -> float:
    with _given_back(network.get_submodule(name)):
        prune(network, method, batches, blocks=[name])
        found = float(error(network))
    if not 0 <= found < math.inf:
        raise SecateurError(f"`error` must return a number of at least 0, got {found} with {name!r} pruned.")
    return found


class _Difference:
    """How far a model's outputs are from the dense one's."""

    def __init__(self, network: nn.Module, batches: list[Batch]) -> None:
        self._batches = batches
        self._dense = [self._outputs(network, batch) for batch in moved(network, batches)]
        self._norm = sum(float(t.double().square().sum()) for outputs in self._dense for t in outputs)
        if not 0 < self._norm < math.inf:
            raise SecateurError(
                f"the squared outputs of the dense model on `batches` add up to {self._norm:g}: there is nothing to "
                "compare with. Give other batches, or an `error` of your own."
            )

    def __call__(self, network: nn.Module) -> float:
        total = 0.0
        for batch, dense in zip(moved(network, self._batches), self._dense, strict=True):
            for own, other in zip(self._outputs(network, batch), dense, strict=True):
                total += float((own.double() - other.double()).square().sum())
        return total / self._norm

    @staticmethod
    def _outputs(network: nn.Module, batch: Batch) -> list[Tensor]:
        found = tensors_of(Probe(network, {}, batch, None).run())
        return [tensor.detach().clone() for tensor in found if tensor.is_floating_point()]


def _found(network: nn.Module, parts: Sequence[str] | str) -> list[str]:
    """The names of the parts, in the model's order."""
    patterns = [parts] if isinstance(parts, str) else list(parts)
    known = [name for name, _ in network.named_modules() if name]
    found = set()
    for pattern in patterns:
        hits = {name for name in known if name == pattern or _fits(name, pattern)}
        if not hits:
            raise SecateurError(f"`parts`: no module is called {pattern!r}.{nearest(pattern, known)}")
        found |= hits
    return [name for name in known if name in found]


def _fits(name: str, pattern: str) -> bool:
    own, wanted = name.split("."), pattern.split(".")
    return len(own) == len(wanted) and all(map(fnmatchcase, own, wanted))


def _size(network: nn.Module, name: str) -> int:
    found = sum(p.numel() for own, p in prunable(network).items() if own.startswith(f"{name}."))
    if not found:
        raise SecateurError(f"`parts`: {name!r} has no prunable weights.")
    return found


@contextmanager
def _given_back(part: nn.Module) -> Iterator[None]:
    tensors = [*part.parameters(), *part.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
