"""What a shrink hands back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur._base.errors import SecateurError
from secateur.costing import Cost
from secateur.masks import Masks
from secateur.shrinking._close import Closing
from secateur.shrinking._timing import Timing
from secateur.shrinking.cuts import resize_
from secateur.shrinking.files import save
from secateur.shrinking.manifests import Manifest
from secateur.shrinking.proof import Comparison

__all__ = ["Certificate", "Shrunk"]

_SAID = {"macs": "MACs", "bytes": "bytes", "memory": "bytes alive at most in a forward"}


@dataclass(frozen=True)
class Certificate:
    """What was proved, and what it brought.

    Attributes:
        comparisons: the smaller model beside the masked one, one for each mode and input.
        before: what the model cost.
        after: what it costs now.
        closing: what closing the masks to whole units did; None where whole units were chosen.
        folded: constants that went into biases: exact in eval mode only.
        refused: what could not be cut, found by running the smaller model, each with its reason.
        unknown: operations without a rule, whatever they touch stays.
        inexact: what was cut although it changes the function, as asked for: `comparisons` say by how much.
        not_claimed: modes in which the two are not proved equal, each with the reason.
        timing: how long a forward takes before and after, in turns, where `timed` asked for it; else None.
        blocks: residual blocks that went as a whole, each with the reason.
    """

    comparisons: tuple[Comparison, ...]
    before: Cost
    after: Cost
    closing: Closing | None
    folded: int
    refused: tuple[str, ...]
    unknown: tuple[str, ...]
    inexact: tuple[str, ...]
    not_claimed: tuple[str, ...]
    timing: Timing | None = None
    blocks: tuple[str, ...] = ()

    @property
    def worst(self) -> float:
        """The largest relative difference of outputs."""
        return max((each.outputs for each in self.comparisons), default=0.0)

    def __str__(self) -> str:
        kept = self.after.params / max(1, self.before.params)
        lines = [f"{self.before.params:,} -> {self.after.params:,} parameters ({kept:.1%})"]
        for kind in ("macs", "bytes", "memory"):
            one, other = (int(each.of(kind)) for each in (self.before, self.after))
            lines.append(f"{one:,} -> {other:,} {_SAID[kind]} ({other / max(1, one):.1%})")
        lines += [] if self.timing is None else [str(self.timing)]
        lines += [] if self.closing is None else [str(self.closing)]
        said = f"changed by {', '.join(self.inexact)}" if self.inexact else "equal"
        lines += [f"{said}: {each}" for each in self.comparisons]
        lines += [f"not claimed: {each}" for each in self.not_claimed]
        lines += [f"without {each}" for each in self.blocks]
        lines += [f"{self.folded} constants folded into biases"] if self.folded else []
        lines += [f"stays: {each}" for each in self.refused]
        lines += [f"no rule for {each}" for each in self.unknown]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A smaller model, the proof, and what went.

    Unpacks: `small, certificate, manifest = shrink(...)`.

    Attributes:
        model: the smaller model.
        certificate: what was proved.
        manifest: old and new index of everything.
        masks: of the smaller model, where the masks that were given have zeros among what stayed; else None.
    """

    model: nn.Module
    certificate: Certificate
    manifest: Manifest
    masks: Masks | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.certificate, self.manifest))

    def like(self, model: nn.Module) -> nn.Module:
        """Return a copy of another full-size model that is cut in the same way: an average of weights, say.

        Nothing is proved of it: it is what that model would be without the units that went from this one. Of torch's
        `AveragedModel` that is what `averaged.module` becomes.

        Args:
            model: as the one that was shrunk was made; it stays as it is.

        Raises:
            SecateurError: another model; or constants were folded into biases, which that one has other values of.
        """
        if self.certificate.folded:
            raise SecateurError(
                f"`like`: {self.certificate.folded} constants of the model that was shrunk stand in biases, and "
                "another model has other ones. Shrink with fold=False."
            )
        small = copy.deepcopy(model)
        resize_(small, self.manifest, {})
        with torch.no_grad():
            for name, (factor, plus_one) in self.manifest.rescaled.items():
                weight = small.get_parameter(name)
                weight.add_(1).mul_(factor).sub_(1) if plus_one else weight.mul_(factor)
        return small

    def save(self, path: str | Path) -> None:
        """Save the model with its manifest and masks as one safe file; `load(path, fresh)` opens it again.

        Args:
            path: of the file.
        """
        save(self, None, path)
