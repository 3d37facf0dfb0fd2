"""What a model's file holds, and the words in which its header says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        reader: what reads a value by its name, into memory that it is given or its own, where `tensors` are stand-ins
            on meta.
    """

    kind: str
    model: str
    tensors: Mapping[str, Tensor]
    tied: Mapping[str, str]
    masks: Masks | None
    manifest: Manifest | None
    reader: Callable[[str, Tensor | None], Tensor] | None = None

    def first(self, name: str) -> str:
        """The name under which a tensor is stored."""
        return self.tied.get(name, name)

    def value(self, name: str) -> Tensor:
        """The value of a tensor, in memory."""
        one = self.first(name)
        return self.tensors[one] if self.reader is None else self.reader(one, None)

    def write(self, name: str, into: Tensor) -> None:
        """Write the value of a tensor into memory of another, of its shape."""
        if self.reader is None:
            into.copy_(self.value(name))
        else:
            self.reader(self.first(name), into)

    @property
    def state(self) -> dict[str, Tensor]:
        """All names with their values: what `load_state_dict` takes."""
        return {**self.tensors, **{name: self.tensors[first] for name, first in self.tied.items()}}
