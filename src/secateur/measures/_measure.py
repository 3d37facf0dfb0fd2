"""Where evidence comes from: what a measure is, and what it asks of whom.

A `Measure` is a frozen description; `begin` starts a `Collector` that is updated once per batch and computes one tensor
per prunable parameter. The same collectors serve offline (`gather`, which runs the batches itself) and online (an
`Observer`, which shows them the gradients of training).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import Protocol, runtime_checkable

from torch import Tensor

from secateur.measures._probe import Evidence, Params, Probe
from secateur.measures._reduction import Reduction, all_sum


class Needs(IntEnum):
    """What a user must bring for a measurement, from the least to the most."""

    NOTHING = 0
    SHAPES = 1
    """Inputs, of which only the shape is used."""
    INPUTS = 2
    """Inputs; labels, if there are any, are ignored."""
    LABELS = 3
    """Inputs and labels: what the loss is made of."""

    def __str__(self) -> str:
        return ("nothing", "input shapes", "inputs", "labels")[self]


class Level(Enum):
    """What one number of the evidence belongs to, and so which shape it has."""

    ENTRY = auto()
    """An entry of the parameter: the evidence broadcasts to the parameter's shape."""
    UNIT = auto()
    """An output unit of the parameter's layer: the evidence has shape (units,)."""
    LAYER = auto()
    """The layer as a whole (a matrix between its inputs): for repairs; no score by itself."""


class Memory(Enum):
    """What the evidence of a training run remembers at a milestone."""

    STEP = auto()
    """Nothing but the present step."""
    INTERVAL = auto()
    """The steps since the last milestone."""
    RUN = auto()
    """All steps since training began."""


#: What a collector needs in order to go on: tensors and numbers by name.
State = dict[str, Tensor | int | float]


@runtime_checkable
class Collector(Protocol):
    """Evidence in the making. `passes` says how often it wants to see the batches. `Running` is a base for yours."""

    passes: int

    def update(self, probe: Probe) -> None:
        """Take in one batch, or one training step."""
        ...

    def compute(self) -> Evidence:
        """Return one tensor per parameter of which anything is known.

        It may be called again and again, with updates between. The tensors are never written by the collector again,
        nor by who asked for them: several scores read the same ones. What nobody but the last reader holds may be
        written over.
        """
        ...

    def reset(self) -> None:
        """Forget everything seen so far."""
        ...

    def state_dict(self) -> State:
        """Return what `load_state_dict` needs to go on in the same bits."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor | int | float]) -> None:
        """Go on from a `state_dict`."""
        ...


@dataclass(frozen=True)
class Measure:
    """A kind of evidence: what it is called in a score's signature, how it is collected, and what it needs.

    Attributes:
        name: the argument name by which a score asks for it.
        begin: parameters → a fresh `Collector`.
        needs: what a user must bring.
        level: what one number belongs to: an entry, an output unit, or the layer.
        train: mode of the model while measuring: True (batch statistics in BN), False (running statistics), or
            None (as found).
        reduction: how evidence is combined over ranks, in place; None where all ranks hold the same.
        online: what it remembers of a training run whose gradients it is shown; None: it needs batches of its own.
        differentiates: whether it takes gradients although it needs no labels; what needs them always does.
        offline: whether batches can serve it; False: only the steps of training.
    """

    name: str
    begin: Callable[[Params], Collector] = field(repr=False)
    needs: Needs = Needs.LABELS
    level: Level = Level.ENTRY
    train: bool | None = None
    reduction: Reduction | None = field(default=all_sum, repr=False)
    online: Memory | None = None
    differentiates: bool = False
    offline: bool = True
