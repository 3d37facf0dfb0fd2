"""Small models with a batch each, on which methods are checked, and methods made from their factories."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import OF_THE_OUTCOME, EarlyFinishWarning
from secateur.axes import Method
from secateur.axes.structure import Channels, ResidualBlocks
from secateur.coupling import residual_blocks, trace
from secateur.masks import Masks
from secateur.selection import kept_count

Factory = Callable[..., Method]

#: Training steps of a checked Pruner, and what a factory is given where it asks for a clock.
STEPS = 8
_CLOCK = {"until": STEPS, "end": STEPS, "steps": STEPS, "every": 2}
#: Rounds of pruning in all checks but that of the count, where a factory's own default is more.
ROUNDS = 6


def made(factory: Factory, density: float, *, full: bool = False) -> Method:
    """Make a method of this density, on the short clock of the checks, giving a factory what it has room for.

    Args:
        factory: the method's.
        density: given where it takes one.
        full: as many `rounds` as its own default says, where that is more than `ROUNDS`.
    """
    takes = inspect.signature(factory).parameters
    given: dict[str, Any] = {name: value for name, value in {"density": density, **_CLOCK}.items() if name in takes}
    rounds = takes["rounds"].default if "rounds" in takes else 0
    if not full and isinstance(rounds, int) and rounds > ROUNDS:
        given["rounds"] = ROUNDS
    return factory(**given)


@dataclass(frozen=True)
class Case:
    """A small model with one batch for it."""

    model: nn.Module
    batch: tuple[Tensor, Tensor]


def tied(method: Method, given: Case) -> Method:
    """Return the method with what goes together in the model, if its structure wants to know: as `shrink` does it."""
    structure = method.structure
    if isinstance(structure, ResidualBlocks) and structure.blocks is None:
        return replace(method, structure=replace(structure, blocks=residual_blocks(given.model, given.batch[0])))
    if not isinstance(structure, Channels) or structure.coupling is not None:
        return method
    return replace(method, structure=replace(structure, coupling=trace(given.model, given.batch[0])))


class _LastStep(nn.Module):
    """An LSTM that classifies by its last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 12, num_layers=2, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class _MeanToken(nn.Module):
    """A transformer encoder that classifies by the mean of its tokens; with dropout, so that it draws randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


class _Around(nn.Module):
    """A residual block: x and a perceptron of it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(10, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x).relu())


def _residual() -> nn.Module:
    return nn.Sequential(*(_Around() for _ in range(5)), nn.Linear(10, 4))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 4),
    )


_SHAPES = {"residual": (10,), "mlp": (10,), "conv_bn": (3, 8, 8), "lstm": (5, 6), "transformer": (5, 6)}
_BUILDERS: Mapping[str, Callable[[], nn.Module]] = {
    "mlp": _mlp,
    "conv_bn": _conv,
    "lstm": _LastStep,
    "transformer": _MeanToken,
}
#: Names of the models a method is checked on.
MODELS = tuple(_BUILDERS)


def models_of(factory: Factory, *, density: float = 0.3) -> tuple[str, ...]:
    """Names of the models for a method: those of all, and where it cuts whole residual blocks one that has some."""
    return (*MODELS, "residual") if isinstance(made(factory, density).structure, ResidualBlocks) else MODELS


def case(name: str, *, seed: int = 0) -> Case:
    """Build one of the `MODELS` with a batch of 12, the same for the same seed. Global random state is untouched."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = {**_BUILDERS, "residual": _residual}[name]()
        batch = (torch.randn(12, *_SHAPES[name]), torch.arange(12) % 4)
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()  # gradients that must survive scoring
    return Case(model, batch)


def counts(density: float, parameters: Iterable[Tensor]) -> set[int]:
    """How many weights a density leaves: κ = ⌊density·N + ½⌋ of all together, or of each tensor by itself."""
    sizes = [parameter.numel() for parameter in parameters]
    return {kept_count(density, sum(sizes)), sum(kept_count(density, size) for size in sizes)}


def check_count(masks: Masks, method: Method, density: float, model: str) -> None:
    """As many units as asked for, of all tensors, of each, each row or each kernel; of what is not spared."""
    units = {name: method.structure.split(mask).any(1) for name, mask in masks.items()}
    units = dict(method.structure.pool_alive(units))
    if method.scope.spares:
        units = {name: bits for name, bits in units.items() if not bits.all()} or units
    kept, expected = sum(int(bits.sum()) for bits in units.values()), counts(density, units.values())
    if method.structure.name == "weights":  # of each row: the same number of every output's inputs
        rows = {name: mask.flatten(1) for name, mask in masks.items() if name in units}
        expected |= {sum(len(bits) * max(1, kept_count(density, bits.shape[1])) for bits in rows.values())}
        kernels = [masks[name].flatten(0, 1).flatten(1) for name in rows if masks[name].dim() > 2]
        expected |= {sum(len(bits) * max(1, kept_count(density, bits.shape[1])) for bits in kernels)}
    if kept in expected:
        return
    what = "weights" if method.structure.name.startswith("weights") else "units"
    raise AssertionError(f"{model}: {kept} {what} kept, expected exactly {expected}")


@contextmanager
def calm() -> Iterator[None]:
    """Small models may lose a layer, and a check may end early: neither is a matter of conformance."""
    with warnings.catch_warnings():
        for kind in (*OF_THE_OUTCOME, EarlyFinishWarning):
            warnings.simplefilter("ignore", kind)
        yield
