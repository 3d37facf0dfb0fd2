"""What a model's file holds, and the words in which its header says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from secateur.masks import Masks
from secateur.shrinking.manifests import Manifest

__all__ = ["BITS", "FORMAT", "KINDS", "VERSION", "Content"]

FORMAT = "secateur.model"
VERSION = "1"
#: What stands behind a tensor's name for its packed mask.
BITS = "#bits"
#: How the model was when it was saved.
KINDS = ("dense", "masked", "held", "sparse")


@dataclass(frozen=True, eq=False)
class Content:
    """A model's file, read and checked.

    Attributes:
        kind: "dense", "masked", "held" or "sparse": how the model was when it was saved.
        model: the class of the model, for messages alone.
        tensors: values by name, of a tied tensor under its first name.
        tied: other names of tied tensors, each with the first.
        masks: which weights stay, if it has masks.
        manifest: of the cut, if the model was shrunk.
    """

    kind: str
    model: str
    tensors: Mapping[str, Tensor]
    tied: Mapping[str, str]
    masks: Masks | None
    manifest: Manifest | None

    @property
    def state(self) -> dict[str, Tensor]:
        """All names with their values: what `load_state_dict` takes."""
        return {**self.tensors, **{name: self.tensors[first] for name, first in self.tied.items()}}
