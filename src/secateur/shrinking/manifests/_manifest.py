"""Which index was which: from a smaller model back to the full one, through one cut or several."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError, nearest
from secateur.coupling import lies_in
from secateur.shrinking.manifests._joined import joined
from secateur.shrinking.manifests._record import Cut

__all__ = ["Manifest"]

_HIDDEN = "weight_hh_l0"  # a recurrent layer is asked for by its hidden units


@dataclass(frozen=True, eq=False)
class Manifest(Cut):
    """What a cut did, enough to say where everything was, to undo it, and to join it with the next."""

    def why(self, name: str, index: int, *, dim: int | None = None) -> str:
        """Say what became of a channel, and why: its score and rank in its group, what it is tied to, or what holds it.

        Args:
            name: of a module, as "layer3.conv1", or of a tensor.
            index: of the channel before the cut.
            dim: of the tensor; by default that of the module's outputs (of a recurrent layer, its hidden units).

        Raises:
            SecateurError: nothing is known of that name, or there is no such index.
        """
        if block := lies_in(name, self.removed):
            return f"{name} {index} went\n  with the residual block {block}"
        tensor, dim = self._place(name, dim)
        spans = self.places[tensor][dim]
        size = max((span.begin + span.size for span in spans), default=0)
        if not 0 <= index < size:
            raise SecateurError(f"`index` must be in [0, {size}) for {name!r}, got {index}.")
        new = self.new_index(tensor, index, dim=dim)
        head = f"{name} {index} " + ("went" if new is None else f"stays, as {new}")
        told = []
        for span in (span for span in spans if span.holds(index)):
            told.append(
                f"  {self.groups[span.group].why(span.unit_of(index))}"
                if span.group >= 0
                else f"  cannot be chosen: {self.reasons[span.reason]}"
            )
        return "\n".join([head, *dict.fromkeys(told)])

    def _place(self, name: str, dim: int | None) -> tuple[str, int]:
        """The tensor and dimension that a name stands for."""
        for tensor, usual in (
            (name, 0),
            (f"{name}.weight", 0),
            (f"{name}.{_HIDDEN}", 1),
            (f"{name}.in_proj_weight", 0),
        ):
            if tensor in self.places:
                dims = self.places[tensor]
                wanted = dim if dim is not None else self._outputs(name, usual)
                if wanted in dims:
                    return tensor, wanted
                raise SecateurError(f"`dim` of {tensor!r} must be one of {sorted(dims)}, got {wanted}.")
        known = [*self.places, *{tensor.rpartition(".")[0] for tensor in self.places}]
        raise SecateurError(f"nothing is known of {name!r}: it has no units.{nearest(name, known)}")

    def _outputs(self, name: str, usual: int) -> int:
        """The dimension of a weight that its bias has as well: the second of a transposed layer."""
        weight, bias = (self.places.get(f"{name}.{each}", {}) for each in ("weight", "bias"))
        if usual == 0 and bias and 0 in weight and 1 in weight and weight[0] != bias[0] and weight[1] == bias[0]:
            return 1
        return usual

    def then(self, second: Manifest) -> Manifest:
        """Join this cut with one that was made of what it left: from the first model to the last.

        Args:
            second: of the cut of the smaller model.

        Raises:
            SecateurError: the second is of another model: shapes do not meet.
        """
        return Manifest(**joined(self, second))

    def undo(self, small: nn.Module, model: nn.Module) -> nn.Module:
        """Return a full-size copy of `model` with the values of `small`, and zeros where something had gone.

        Args:
            small: what `shrink` returned, trained on or not.
            model: one of the original size; only its classes, attributes and shapes matter, and what `small` lacks.

        Raises:
            SecateurError: a shape that does not fit, or a bias that a fold made and the original has no place for.
        """
        if self.added:
            raise SecateurError(
                f"`undo`: constants were folded into {self.added[0]!r}, which the original model does not have. "
                "Give its layer a bias, or shrink with fold=False."
            )
        full = copy.deepcopy(model)
        theirs, own = small.state_dict(), dict(full.named_parameters(remove_duplicate=False))
        if odd := next((name for name in theirs if lies_in(name, self.removed)), None):
            raise SecateurError(f"`small` has {odd!r}, of a block that is gone: its layers were renumbered.")
        with torch.no_grad():
            for name, tensor in full.state_dict().items():
                if lies_in(name, self.removed):  # without weights a block is its shortcut
                    if name in own:
                        tensor.zero_()
                    continue
                if name not in theirs:
                    raise SecateurError(f"`small` has no {name!r}: it is not what this manifest speaks of.")
                self._write(name, tensor, theirs[name])
        return full

    def _write(self, name: str, tensor: Tensor, mine: Tensor) -> None:
        factor, plus_one = self.rescaled.get(name, (1.0, False))
        mine = ((mine + 1) / factor - 1 if plus_one else mine / factor) if factor != 1.0 else mine
        dims = self.kept.get(name, {})
        wanted = tuple(len(dims[d]) if d in dims else n for d, n in enumerate(tensor.shape))
        if wanted != tuple(mine.shape):
            raise SecateurError(f"{name!r} must have the shape {wanted} in `small`, got {tuple(mine.shape)}.")
        if dims:
            tensor.fill_(-1.0 if plus_one else 0.0)  # of a norm that adds one, the weight that counts is zero
            grid = [
                torch.tensor(dims[d] if d in dims else range(n), device=tensor.device)
                for d, n in enumerate(tensor.shape)
            ]
            tensor[torch.meshgrid(*grid, indexing="ij")] = mine.to(tensor)
        else:
            tensor.copy_(mine)
