"""What decides how a layer runs, whatever its kind: the masks, who else uses its parameters, and the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from secateur.masks import Masks
from secateur.sparse.convert._inputs import Use
from secateur.sparse.convert._report import Choice
from secateur.sparse.measured import Machine, this_machine


@dataclass(frozen=True, eq=False)
class Situation:
    """A model that is to run on what its masks keep, on one machine.

    Attributes:
        model: the dense model.
        masks: by parameter name.
        names: of the masked parameters, by their id.
        uses: how many modules use a parameter, by its id.
        given: what a user says was measured of the machine; None: this machine's own measurements.
        batch: samples of a step.
        uses_by_path: how each layer is used, by its path; empty where nobody told.
        wanted: how every layer is to run that can, for comparing whole models; None: as is faster.
        as_is: whether layers that stay dense stay as they are, not in the dense way that is faster one by one.
        channels_last: whether images are to lie with their channels last.
        follows: whether the masks change while the new model trains.
    """

    model: nn.Module
    masks: Masks
    names: dict[int, str]
    uses: Counter[int]
    given: Machine | None
    batch: int
    uses_by_path: Mapping[str, Use] = field(default_factory=dict)
    wanted: Choice | None = None
    as_is: bool = False
    channels_last: bool = False
    follows: bool = False

    @staticmethod
    def of(
        model: nn.Module,
        masks: Masks,
        machine: Machine | None,
        batch: int,
        uses_by_path: Mapping[str, Use] | None = None,
        *,
        follows: bool = False,
    ) -> Situation:
        """Look at a model whose parameters the masks fit."""
        names = {id(parameter): name for name, parameter in masks.parameters(model).items()}
        uses = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
        return Situation(model, masks, names, uses, machine, batch, uses_by_path or {}, follows=follows)

    @property
    def machine(self) -> Machine:
        """What decides where layers are not timed themselves; measured when it is first asked for."""
        return this_machine() if self.given is None else self.given

    def takes_sparse(self, faster: bool) -> bool:
        """Tell whether a layer that was timed runs sparse: as is wanted, or if it is faster."""
        return faster if self.wanted is None else self.wanted is Choice.SPARSE

    def mask(self, parameter: Tensor | None) -> Tensor | None:
        """Return the parameter's mask, if it has one."""
        name = self.names.get(id(parameter))
        return None if name is None else self.masks[name]

    def name(self, path: str, attribute: str, parameter: Tensor) -> str:
        """Name a parameter of the module at `path`: as its mask is named, or by its place."""
        return self.names.get(id(parameter), f"{path}.{attribute}" if path else attribute)

    def why_not(self, module: nn.Module, *plain: type[nn.Module]) -> str | None:
        """Tell why a module cannot be swapped, whatever the kernels: it is none of the `plain` kinds, or it shares
        or has masked what the kernels keep whole."""
        if type(module) not in plain:
            names = " or ".join(f"nn.{kind.__name__}" for kind in plain)
            return f"it is a {type(module).__name__}, not a plain {names}"
        if any(self.uses[id(p)] > 1 for p in module._parameters.values()):
            return "its parameters are shared with another layer"
        return None if self.mask(module._parameters.get("bias")) is None else "its bias is masked too"


def refused_by_kernels(module: nn.Module, *others: torch.dtype) -> str | None:
    """Tell why the kernels do not take a module's tensors, which must all be float32 or all of one of the `others`."""
    tensors = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
    wanted = next((kind for kind in others if tensors and tensors[0].dtype is kind), torch.float32)
    for tensor in tensors:
        if tensor.dtype is not wanted or tensor.device.type != "cpu":
            kind, takes = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, wanted))
            return f"its weights are {kind} on {tensor.device.type}; the kernels take {takes} on cpu"
    return None


def without_gain(mask: Tensor | None) -> str | None:
    """Tell why there is nothing to gain from a mask, or return None."""
    if mask is None:
        return "it has no mask"
    return "its mask keeps every weight" if bool(mask.all()) else None


def beside(density: float, limit: float, *, what: str = "", limit_of: str = "") -> str:
    """Say on which side of the break-even a density is.

    >>> beside(0.0156, 0.3, limit_of=" of convolutions"), beside(0.4, 0.4)
    ('density 1.6 % is below break-even 30 % of convolutions', 'density 40 % is above break-even 40 %')
    """
    side = "below" if density < limit else "above"
    return f"density {_percent(density)}{what} is {side} break-even {_percent(limit)}{limit_of}"


def _percent(density: float) -> str:
    """Format a density so that neighbours of the break-even stay apart.

    >>> _percent(0.31), _percent(0.0156), _percent(0.0001)
    ('31 %', '1.6 %', '0.01 %')
    """
    return f"{density * 100:.2g} %" if density < 0.995 else "100 %"
