"""Which residual blocks masks, or a method, leave no branch of; and the two models that a proof compares."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from secateur._base.errors import EmptyLayerWarning, SecateurError, UnfitModelError
from secateur.axes import Method
from secateur.axes.structure import ResidualBlocks
from secateur.costing import Call
from secateur.coupling import ResidualBlock, dead_blocks, lies_in, remove_, residual_blocks
from secateur.masks import Masks, Only
from secateur.measures import Batch, Loss
from secateur.pruning import prune

__all__ = ["Gone", "blocks_by", "gone_blocks"]


@dataclass(frozen=True, eq=False)
class Gone:
    """Residual blocks that go.

    Attributes:
        blocks: which, each with the reason.
        besides: how many entries of parameters were set to zero for that, which the masks had left.
        masks: all masks that were given; None where none were.
    """

    blocks: tuple[ResidualBlock, ...] = ()
    besides: int = 0
    masks: Masks | None = None

    def without(self, model: nn.Module) -> nn.Module:
        """Return the model, or where blocks go a copy without them."""
        if not self.blocks:
            return model
        slim = copy.deepcopy(model)
        remove_(slim, self.blocks)
        if not any(True for _ in slim.parameters()):
            raise SecateurError("`what` leaves no weight at all: every block goes, and there is nothing besides.")
        return slim

    def rest(self, slim: nn.Module) -> Masks | None:
        """Return the masks of what is in no block that goes; where there are none, some that cut nothing."""
        if self.masks is None or not self.blocks:
            return self.masks
        found = {name: mask for name, mask in self.masks.items() if lies_in(name, self.blocks) is None}
        name, first = next(iter(slim.named_parameters()))
        return Masks(found or {name: torch.ones_like(first, dtype=torch.bool)}, copy=False)

    def full(self, model: nn.Module, masked: nn.Module) -> nn.Module:
        """Return the model of full size that the smaller one has to equal: the blocks zero, all else as masked.

        Args:
            model: of full size.
            masked: without the blocks, what goes of it is zero.
        """
        if not self.blocks:
            return masked
        twin, values = copy.deepcopy(model), dict(masked.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, parameter in twin.named_parameters(remove_duplicate=False):
                parameter.copy_(values[name]) if name in values else parameter.zero_()
        return twin


def gone_blocks(
    model: nn.Module, masks: Masks, call: Call, *, close: bool, why: Mapping[str, str] | None = None
) -> Gone:
    """Find the residual blocks that masks leave no branch of, with no look at a model whose masks empty no tensor.

    Args:
        model: of full size; it stays as it is.
        masks: which weights stay.
        call: example inputs.
        close: whether shifts and biases that are left of a branch go with it.
        why: reasons by the path of the block; None says that the masks did it.
    """
    emptied = [name for name, mask in masks.items() if not bool(mask.any())]
    if not emptied:
        return Gone(masks=masks)
    try:
        known = residual_blocks(model, *call.inputs, kwargs=call.kwargs)
    except (SecateurError, UnfitModelError):  # none; or it does not run, which the trace says
        return Gone(masks=masks)
    hit = [block for block in known if any(lies_in(name, [block]) for name in emptied)]
    if not hit:
        return Gone(masks=masks)
    masked = copy.deepcopy(model)
    masks.apply_(masked)
    dead = dead_blocks(masked, hit, call.inputs, call.kwargs, close=close)
    own = dict(masked.named_parameters())
    besides = sum(int((own[name] != 0).sum()) for names in dead.values() for name in names if name in own)
    said = {} if why is None else why
    blocks = (replace(block, why=said.get(block.path, "the masks left nothing of its branch")) for block in dead)
    return Gone(tuple(blocks), besides, masks)


def blocks_by(
    model: nn.Module,
    method: Method,
    call: Call,
    batches: Iterable[Batch] | None,
    loss: Loss | None,
    only: Only,
) -> Gone:
    """Let a method choose among residual blocks, on a copy of the model.

    Raises:
        SecateurError: the model has no residual blocks, the method lacks its batches, or a block that it chose would
            still change what runs through it.
    """
    structure = method.structure
    assert isinstance(structure, ResidualBlocks)
    blocks = structure.blocks
    if blocks is None:
        blocks = residual_blocks(model, *call.inputs, kwargs=call.kwargs)
    plain = {each.name: getattr(structure, each.name) for each in fields(structure)}
    watched = _Watched(**{**plain, "blocks": blocks})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyLayerWarning)  # that is what was asked for
        masks = prune(copy.deepcopy(model), replace(method, structure=watched), batches, loss=loss, only=only)
    why = {path: f"{method.name}: {text}" for path, text in watched.ranks().items()}
    found = gone_blocks(model, masks, call, close=True, why=why)
    for block in blocks:
        own = [mask for name, mask in masks.items() if lies_in(name, [block])]
        emptied = bool(own) and not any(bool(mask.any()) for mask in own)
        if emptied and lies_in(block.path, found.blocks) is None:
            raise SecateurError(
                f"`what`: {method.name} left nothing of {block.path}, which still changes what runs through it: in its "
                "branch are weights that were not to go (embeddings, what `only` leaves out). Nothing was changed."
            )
    return found


@dataclass(frozen=True)
class _Watched(ResidualBlocks):
    """Residual blocks that remember what each was scored."""

    seen: dict[str, float] = field(default_factory=dict, compare=False)

    def pool(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pool scores, and remember them."""
        found = super().pool(scores)
        (values,) = found.values()
        paths = [block.path for block in self.blocks or () if any(lies_in(name, [block]) for name in scores)]
        self.seen.update(zip(paths, values.tolist(), strict=True))
        return found

    def pool_alive(self, alive: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What is alive is no score."""
        return {name: bits > 0 for name, bits in super().pool(alive).items()}

    def ranks(self) -> dict[str, str]:
        """The score and rank of each block, in words."""
        order = sorted(self.seen, key=lambda path: -self.seen[path] if math.isfinite(self.seen[path]) else 0.0)
        return {
            path: f"score {self.seen[path]:.4g}, rank {place} of {len(order)} residual blocks"
            for place, path in enumerate(order, 1)
        }
