"""For tests of what `sparsify` chooses by timing: small models, verdicts, and a clock that says which is faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur import Masks
from secateur.sparse.calls import _half_chosen as blocks
from secateur.sparse.convert import _timed as layers_timed
from secateur.sparse.convert import _whole as whole
from secateur.sparse.layers import _choosing as choosing
from secateur.sparse.timing import Verdict

DAY = "2026-01-01"
SPARSE, DENSE, OPEN = (
    Verdict(2.0, 1.0, 0.5, 0.1, DAY),
    Verdict(1.0, 2.0, 2.0, 0.1, DAY),
    Verdict(1.0, 0.99, 0.99, 0.1, DAY),
)


def masks_of(model: nn.Module, density: float = 0.3) -> Masks:
    generator = torch.Generator().manual_seed(3)
    weights = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in weights.items()})


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4 * 16, 3))


class Clock:
    """Instead of time: says of each pair of calls which verdict it gets, and runs both once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        monkeypatch.setenv("SECATEUR_CACHE", str(cache))
        self.asked: list[str] = []
        self.asked_kernels: list[str] = []
        self.layers: Callable[[str], Verdict] = lambda kind: SPARSE
        self.kernels: Callable[[str], Verdict] = lambda kind: DENSE  # for blocks: the second are for single weights
        self.models: list[Verdict] = []
        self.first_calls: list[Verdict] = []
        monkeypatch.setattr(layers_timed, "remembered_verdict", self._layer)
        monkeypatch.setattr(blocks, "remembered_verdict", self._blocks)
        monkeypatch.setattr(blocks, "decide", self._pair)
        monkeypatch.setattr(whole, "decide", self._model)
        monkeypatch.setattr(choosing, "decide", self._call)

    def _layer(self, kind: str, measure: Callable[[], Any]) -> tuple[Verdict, str]:
        self.asked.append(kind)
        return self.layers(kind), "torch"

    def _blocks(self, kind: str, measure: Callable[[], Any]) -> tuple[Verdict, str]:
        self.asked_kernels.append(kind)
        measure()
        return self.kernels(kind), "blocks"

    def _pair(self, first: Callable[[], object], second: Callable[[], object], *, seconds: float) -> Verdict:
        first(), second()
        return OPEN

    def _model(self, first: Callable[[], object], second: Callable[[], object], *, seconds: float) -> Verdict:
        first(), second()
        return self.models.pop(0)

    def _call(self, first: Callable[[], object], second: Callable[[], object], *, seconds: float) -> Verdict:
        first(), second()
        return self.first_calls.pop(0)
