"""Masks: which weights stay. Everything a pruning method does ends in this one immutable value."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import log10
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur._base import shards
from secateur._base.arguments import if_sparsified, require_model
from secateur._base.errors import MaskError, nearest
from secateur._base.zeros import count_true, zero_
from secateur.masks import _file
from secateur.masks._prunable import Only, prunable
from secateur.masks._table import table

__all__ = ["LayerDensity", "Masks", "density_text"]

# Names that wrappers put in front of, or between, the names the user knows.
_WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


@dataclass(frozen=True)
class LayerDensity:
    """How much of one parameter stays: `kept` of `numel` weights."""

    name: str
    shape: tuple[int, ...]
    kept: int
    numel: int

    @property
    def density(self) -> float:
        """The fraction kept, in [0, 1]; 1 for a parameter without entries (nothing of it was cut)."""
        return self.kept / self.numel if self.numel else 1.0


class Masks(Mapping[str, Tensor]):
    """Which weights stay (True) and which are pruned (False), one boolean tensor per parameter name.

    A mapping keyed by the names of `model.named_parameters()`, in the order given. It is immutable:
    `masks[name]` hands out the stored tensor without a copy, for reading; writing into it in place is found
    out at the next look and raises. Two are equal when names, shapes and bits are, wherever they lie.

    Args:
        tensors: name → boolean tensor, shaped like the parameter.
        copy: False adopts the tensors instead of cloning them, for a caller who made them and forgets them.

    Raises:
        MaskError: no tensors, a name that is not text, or a tensor that is not boolean.

    >>> import torch
    >>> Masks({"weight": torch.tensor([[True, False], [False, False]])})
    Masks(1 tensor, 1 of 4 weights: 25.0 % kept · 75.0 % sparse · 4×)
    """

    __slots__ = ("_hash", "_layers", "_tensors", "_versions")

    def __init__(self, tensors: Mapping[str, Tensor], *, copy: bool = True) -> None:
        if not tensors:
            raise MaskError("`tensors` must hold at least one mask, got none")
        for name, mask in tensors.items():
            _require_bool(name, mask)
        with torch.inference_mode(False), torch.no_grad():
            # An inference tensor has no version counter, so it is cloned even where the caller offers it.
            self._tensors = {n: m.clone() if copy or m.is_inference() else m for n, m in tensors.items()}
        self._versions = {name: mask._version for name, mask in self._tensors.items()}
        self._layers: tuple[LayerDensity, ...] | None = None
        self._hash: int | None = None

    @staticmethod
    def from_zeros(model: nn.Module, only: Only = None) -> Masks:
        """Read the masks off a model that is pruned already: a weight that is exactly zero is pruned.

        Args:
            model: the pruned model.
            only: which parameters to look at, as in `prunable`; None takes all prunable weights.
        """
        parameters = prunable(model, only, frozen=True)
        with torch.no_grad():
            return Masks({name: shards.full(p) != 0 for name, p in parameters.items()}, copy=False)

    @staticmethod
    def load(path: str | Path) -> Masks:
        """Read masks written by `save`. A damaged or foreign file is a `MaskError`, never code that runs."""
        return Masks(_file.read(Path(path)), copy=False)

    def save(self, path: str | Path) -> None:
        """Write the masks to `path`: a safetensors file, one bit per weight, replaced in one step."""
        _file.write(Path(path), dict(self.items()))

    def __getitem__(self, name: str) -> Tensor:
        mask = self._tensors[name]
        if mask._version != self._versions[name]:
            raise MaskError(
                f"the mask of {name!r} was changed in place, and masks are immutable; "
                "build new ones: Masks({name: tensor, …})"
            )
        return mask

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def layers(self) -> list[LayerDensity]:
        """List name, shape, kept and total count of each parameter, in order."""
        if self._layers is None:
            self._layers = tuple(
                LayerDensity(name, tuple(mask.shape), count_true(mask), mask.numel()) for name, mask in self.items()
            )
        return list(self._layers)

    @property
    def kept(self) -> int:
        """How many weights stay."""
        return sum(layer.kept for layer in self.layers())

    @property
    def numel(self) -> int:
        """How many weights the masks speak of, kept and pruned."""
        return sum(mask.numel() for mask in self._tensors.values())

    @property
    def density(self) -> float:
        """The fraction kept, κ / N, in [0, 1]."""
        return self.kept / self.numel if self.numel else 1.0

    @property
    def empty(self) -> tuple[str, ...]:
        """Names of the parameters that lost every weight."""
        return tuple(layer.name for layer in self.layers() if layer.numel and not layer.kept)

    def parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Find the model's parameter for every mask, or refuse.

        Any name of a tied parameter will do. What DDP and `torch.compile` put into names is looked through:
        masks of the bare model fit the wrapped one, and the reverse.

        Raises:
            MaskError: an unknown name, a wrong shape, an uninitialised parameter, or two different masks for
                the same tied parameter.
        """
        require_model(model, "masks.apply_(model)")
        known = dict(model.named_parameters(remove_duplicate=False))
        found: dict[str, nn.Parameter] = {}
        first: dict[int, str] = {}
        for name, mask in self.items():
            found[name] = _require_fit(name, mask, known[_find(name, known, model)])
            twin = first.setdefault(id(found[name]), name)
            if twin != name and not torch.equal(mask, self[twin].to(mask.device)):
                raise MaskError(
                    f"{twin!r} and {name!r} are one tied parameter, but their masks differ; keep one of them"
                )
        return found

    def check(self, model: nn.Module) -> None:
        """Raise a `MaskError` naming the first unknown name or wrong shape; return if the masks fit."""
        self.parameters(model)

    def apply_(self, model: nn.Module) -> None:
        """Write a zero over every pruned weight of `model`, in place, after checking names and shapes."""
        parameters = self.parameters(model)
        with torch.no_grad():
            for name, parameter in parameters.items():
                # Filling, not multiplying: 0 · inf and 0 · NaN would be NaN.
                zero_(shards.local(parameter), shards.local_mask(self[name], parameter), when=False)

    def to(self, device: torch.device | str) -> Masks:
        """Return the same masks on another device (these, if they are there already)."""
        target = torch.empty(0, device=device).device
        if all(mask.device == target for mask in self._tensors.values()):
            return self
        return Masks({name: mask.to(target) for name, mask in self.items()}, copy=False)

    def overlap(self, other: Masks) -> float:
        """Measure how alike two masks are: intersection over union (Jaccard) of the weights kept.

        J(A, B) = |A ∩ B| / |A ∪ B| over all parameters together, where A and B are the sets of weights that
        `self` and `other` keep; in [0, 1], and 1 if both keep nothing.

        Two independent random masks of density d overlap by about d / (2 − d).

        >>> import torch
        >>> one, two = torch.tensor([True, True, False]), torch.tensor([True, False, True])
        >>> round(Masks({"w": one}).overlap(Masks({"w": two})), 3)
        0.333
        """
        both = (self & other).kept
        either = self.kept + other.kept - both
        return both / either if either else 1.0

    def __and__(self, other: Masks) -> Masks:
        return self._pairwise(other, torch.logical_and)

    def __or__(self, other: Masks) -> Masks:
        return self._pairwise(other, torch.logical_or)

    def __invert__(self) -> Masks:
        return Masks({name: ~mask for name, mask in self.items()}, copy=False)

    def _pairwise(self, other: Masks, combine: Callable[[Tensor, Tensor], Tensor]) -> Masks:
        for name in [*self, *other]:
            if name not in self or name not in other:
                raise MaskError(f"both masks must speak of the same parameters, but only one has {name!r}")
            one, two = tuple(self[name].shape), tuple(other[name].shape)
            if one != two:
                raise MaskError(f"the masks of {name!r} have the shapes {one} and {two}")
        return Masks({n: combine(m, other[n].to(m.device)) for n, m in self.items()}, copy=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return self.keys() == other.keys() and all(
            mask.shape == other[name].shape and torch.equal(mask, other[name].to(mask.device))
            for name, mask in self.items()
        )

    def __hash__(self) -> int:
        if self._hash is None:
            digest = hashlib.blake2b(digest_size=8)
            for name in sorted(self):
                digest.update(repr((name, tuple(self[name].shape))).encode())
                digest.update(_file.pack(self[name]).tobytes())
            self._hash = int.from_bytes(digest.digest(), "big") >> 3
        return self._hash

    def __copy__(self) -> Masks:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Masks:
        return self

    def __reduce__(self) -> tuple[type[Masks], tuple[dict[str, Tensor]]]:
        return Masks, (dict(self.items()),)

    def __repr__(self) -> str:
        tensors = "1 tensor" if len(self) == 1 else f"{len(self)} tensors"
        return f"Masks({tensors}, {self.kept:,} of {self.numel:,} weights: {density_text(self.density)})"

    def __str__(self) -> str:
        return table([(each.name, each.shape, each.kept, each.density) for each in self.layers()], repr(self))


def density_text(density: float) -> str:
    """Say a density the way all reports do: percent kept, percent sparse and the ratio.

    >>> density_text(0.05)
    '5.0 % kept · 95.0 % sparse · 20×'
    >>> density_text(0.0004)
    '0.04 % kept · 99.96 % sparse · 2,500×'
    """
    small = min(density, 1 - density)
    # One decimal, or as many as the smaller of the two percentages needs to be seen.
    digits = max(1, -int(log10(small * 100) // 1)) if small > 0 else 1
    ratio = "∞" if density == 0 else f"{1 / density:,.0f}" if density <= 0.1 else f"{1 / density:.3g}"
    kept = round(100 * density, digits)
    return f"{kept:.{digits}f} % kept · {100 - kept:.{digits}f} % sparse · {ratio}×"


def _find(name: str, known: Mapping[str, nn.Parameter], model: nn.Module) -> str:
    """Return the name under which the model knows `name`: itself, or the one differing by wrappers only."""
    if name in known:
        return name
    alike = [other for other in known if _bare(other) == _bare(name)]
    if len({id(known[other]) for other in alike}) != 1:
        raise MaskError(f"the model has no parameter {name!r}.{nearest(name, known)}{if_sparsified(model)}")
    return alike[0]


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _require_bool(name: object, mask: object) -> None:
    if not isinstance(name, str):
        raise MaskError(f"a mask's name must be text, got {name!r}")
    if not isinstance(mask, Tensor):
        raise MaskError(f"the mask of {name!r} must be a boolean tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise MaskError(
            f"the mask of {name!r} must be boolean, got {mask.dtype}; write `mask != 0` or `mask > threshold`"
        )


def _require_fit(name: str, mask: Tensor, parameter: nn.Parameter) -> nn.Parameter:
    if is_lazy(parameter):
        raise MaskError(f"{name!r} has no shape yet (a lazy module); run the model once before masking it")
    if mask.shape != parameter.shape:
        raise MaskError(
            f"the mask of {name!r} must have the parameter's shape {tuple(parameter.shape)}, got {tuple(mask.shape)}"
        )
    return parameter
