"""What masks cover of a model, and why the rest was left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrize

from secateur.masks._prunable import NORMS_AND_EMBEDDINGS, is_layer, layer_weights, unwrap

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class LeftOut:
    """A parameter that no mask covers.

    Attributes:
        name: the parameter's.
        numel: how many entries it has.
        why: the reason, in words.
        weight: whether it looks like a layer's weight that a prune would be expected to reach, and does not by itself.
    """

    name: str
    numel: int
    why: str
    weight: bool = False


@dataclass(frozen=True)
class Coverage:
    """What share of a model's parameters masks cover; `print` it to see what was left out, and why.

    Attributes:
        covered: entries of parameters under masks, kept or not.
        total: entries of all parameters; a tied one counts once.
        left_out: every parameter that no mask covers, in the model's order.
    """

    covered: int
    total: int
    left_out: tuple[LeftOut, ...]

    @property
    def share(self) -> float:
        """Covered entries over all."""
        return self.covered / self.total if self.total else 0.0

    def __str__(self) -> str:
        lines = [f"{self.covered:,} of {self.total:,} parameters ({self.share:.1%}) are under masks"]
        by_reason: dict[str, list[LeftOut]] = {}
        for one in self.left_out:
            by_reason.setdefault(one.why, []).append(one)
        for why, those in by_reason.items():
            names = ", ".join(one.name for one in those[:3]) + (", …" if len(those) > 3 else "")
            lines.append(f"  left out, {sum(one.numel for one in those):,}: {why}: {names}")
        return "\n".join(lines)


def coverage(model: nn.Module, masks: Collection[str]) -> Coverage:
    """Say what share of the parameters of `model` the masks cover, and name what was left out, with the reason.

    Args:
        model: the model; wrappers (DDP, `torch.compile`) are looked through.
        masks: the masks, or the names of what is to be covered.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    >>> print(coverage(net, ["0.weight", "2.weight"]))
    18 of 29 parameters (62.1%) are under masks
      left out, 5: a bias: 0.bias, 2.bias
      left out, 6: of a normalisation: 1.weight, 1.bias
    """
    model = unwrap(model)
    named = dict(model.named_parameters())
    reasons = {name: (why, weight) for name, why, weight in _reasons(model)}
    left_out = [
        LeftOut(name, parameter.numel(), *reasons.get(name, ("not asked for", False)))
        for name, parameter in named.items()
        if name not in masks
    ]
    total = sum(parameter.numel() for parameter in named.values())
    return Coverage(total - sum(one.numel for one in left_out), total, tuple(left_out))


def _reasons(model: nn.Module) -> Iterator[tuple[str, str, bool]]:
    """Yield why each parameter outside the default set is there; of one that is tied, the strongest reason last."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = {id(parameter) for module in model.modules() for parameter in layer_weights(module)}
    embedded = {id(p) for module in model.modules() if isinstance(module, _EMBEDDINGS) for p in module.parameters()}
    for path, module in model.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            name = name_of[id(parameter)]
            if id(parameter) in embedded:
                yield name, "an embedding, or tied to one", False
            elif id(parameter) not in weights:
                yield (name, *_why(model, path, module, local, parameter))
            elif not parameter.requires_grad:
                yield name, "frozen (requires_grad=False)", False
            elif not parameter.is_floating_point():
                yield name, f"not floating point ({parameter.dtype})", False


def _why(model: nn.Module, path: str, module: nn.Module, local: str, parameter: nn.Parameter) -> tuple[str, bool]:
    if isinstance(module, NORMS_AND_EMBEDDINGS):
        return "of a normalisation", False
    if isinstance(module, parametrize.ParametrizationList):
        layer = model.get_submodule(path.rsplit(".", 2)[0] if path.count(".") > 1 else "")
        return f"reparametrised: {type(module[0]).__name__.strip('_')} of a {_original(layer)}", parameter.dim() > 1
    if "bias" in local:
        return "a bias", False
    if parameter.dim() < 2:
        return "a vector", False
    if is_layer(module):
        return f"reparametrised: {local} of a {type(module).__name__}", True
    if not parameter.requires_grad:
        return "frozen (requires_grad=False)", False
    return f"own parameter of {type(module).__name__}", True


def _original(layer: nn.Module) -> str:
    return type(layer).__name__.removeprefix("Parametrized")
