"""Local retraining: some layers stand still while the others are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from secateur._base.arguments import require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError, nearest
from secateur.masks import unwrap

_CONVOLUTIONS = nn.modules.conv._ConvNd
_NORMS = nn.modules.batchnorm._NormBase
#: Norms that can only stand behind a convolution; one over vectors may as well stand behind a linear layer.
_NORMS_OF_IMAGES = (nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@contextmanager
def frozen(model: nn.Module, names: str | Sequence[str]) -> Iterator[list[str]]:
    """Let parameters stand still while the others are trained, in whatever loop.

    After its fully connected layers were pruned, a network of convolutions is retrained with the convolutions frozen,
    and the other way round: gradients need not go through the whole network, and what was not cut stays adapted.

    Their gradients are dropped and no new ones come (`requires_grad=False`), so that torch's optimizers skip them:
    neither momentum nor weight decay moves them. Batch norms among them use their running statistics, and leave those
    as they are, whatever the mode of the model. On leaving, all is as it was; the gradients of before are gone.

    Args:
        model: the network (wrapped or not).
        names: parameters and buffers, by name or glob: `"conv*"`, or `convolutional(model)`.

    Yields:
        The names of the parameters that stand still.

    Raises:
        SecateurError: a name or glob that fits nothing, or nothing is left to train.

    Source: Han, Pool, Tran & Dally, arXiv 1506.02626, §3.3.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    >>> with frozen(net, convolutional(net)) as still:
    ...     print(still, net[0].weight.requires_grad, net[2].weight.requires_grad)
    ['0.weight', '0.bias'] False True
    """
    require_model(model, "frozen(model, names)")
    network = unwrap(model)
    catch_up(network)
    chosen = _matching(network, [names] if isinstance(names, str) else list(names))
    found = {name: p for name, p in network.named_parameters() if name in chosen}
    if not any(p.requires_grad for name, p in network.named_parameters() if name not in chosen):
        raise SecateurError(f"`names` must leave something to train, but {names!r} freezes all of it. Name fewer.")
    before = {name: parameter.requires_grad for name, parameter in found.items()}
    norms = [
        module
        for path, module in network.named_modules()
        if isinstance(module, _NORMS) and _state_of(path, module) & chosen
    ]
    handles = [handle for norm in norms for handle in _in_eval_mode(norm)]
    try:
        for parameter in found.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        yield list(found)
    finally:
        for handle in handles:
            handle.remove()
        for name, parameter in found.items():
            parameter.requires_grad_(before[name])


def convolutional(model: nn.Module) -> list[str]:
    """Name the parameters and buffers of convolutions, and of the norms over images behind them.

    A `BatchNorm1d` is not among them: it may stand behind a linear layer.

    >>> convolutional(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)))
    ['0.weight', '0.bias']
    """
    network = unwrap(model)
    found = set()
    for path, module in network.named_modules():
        if isinstance(module, (_CONVOLUTIONS, *_NORMS_OF_IMAGES)):
            found |= _state_of(path, module)
    return [name for name in _names(network) if name in found]


def fully_connected(model: nn.Module) -> list[str]:
    """Name all parameters and buffers that are not `convolutional`: of linear layers, and of whatever else there is.

    >>> fully_connected(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)))
    ['2.weight', '2.bias']
    """
    others = set(convolutional(model))
    return [name for name in _names(unwrap(model)) if name not in others]


def local_parts(model: nn.Module, names: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Split weights into the two parts that are cut and retrained by turns, each with what stands still meanwhile.

    Args:
        model: the network.
        names: the weights that may be cut.

    Returns:
        The fully connected ones of `names`, with all that is `convolutional`; then the other way round.

    Raises:
        SecateurError: the weights are all of one part.

    >>> local_parts(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), ["0.weight", "2.weight"])
    [(['2.weight'], ['0.weight', '0.bias']), (['0.weight'], ['2.weight', '2.bias'])]
    """
    convolutions, others = convolutional(model), fully_connected(model)
    parts = [([n for n in names if n in others], convolutions), ([n for n in names if n in convolutions], others)]
    if not all(part for part, _ in parts):
        raise SecateurError(
            "local retraining goes from the fully connected layers to the convolutions and back, and needs weights to "
            f"cut in both, but {', '.join(names)} are all of one kind. Leave `local` out."
        )
    return parts


def _names(network: nn.Module) -> list[str]:
    return [*dict(network.named_parameters()), *dict(network.named_buffers())]


def _matching(network: nn.Module, patterns: Sequence[str]) -> set[str]:
    known, found = _names(network), set()
    for pattern in patterns:
        hits = [pattern] if pattern in known else [name for name in known if fnmatchcase(name, pattern)]
        if not hits:
            raise SecateurError(
                f"`names`: {pattern!r} is no parameter of this model and fits none.{nearest(pattern, known)}"
            )
        found.update(hits)
    return found


def _state_of(path: str, module: nn.Module) -> set[str]:
    own = [*dict(module.named_parameters(recurse=False)), *dict(module.named_buffers(recurse=False))]
    return {f"{path}.{name}" if path else name for name in own}


def _in_eval_mode(norm: nn.Module) -> list[Any]:
    """Let a norm run in eval mode whatever mode it is set to; the mode that it shows stays."""
    found: list[bool] = []

    def enter(module: nn.Module, _: object) -> None:
        found.append(module.training)
        module.training = False

    def leave(module: nn.Module, *_: object) -> None:
        module.training = found.pop()

    ask: Callable[..., Any] = norm.register_forward_hook
    return [norm.register_forward_pre_hook(enter), ask(leave, always_call=True)]
