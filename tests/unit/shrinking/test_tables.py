"""A model that keeps a table by the shape of what it sees, as detectors keep anchors, shrinks after it has run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur import shrink


class Detector(nn.Module):
    """Places are counted once, with numbers of Python's; they depend on rows and columns alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.shape: torch.Size | None = None
        self.places = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x).relu()
        if self.shape != maps.shape:
            last = torch.full((), float(maps.shape[-1] - 1), device=x.device).item()
            self.places, self.shape = torch.linspace(0, last, maps.shape[-1]).to(x), maps.shape
        return self.head(maps) + self.places


def test_a_table_that_is_made_anew_for_a_new_width_is_passed_over() -> None:
    torch.manual_seed(0)
    net, x = Detector().eval(), torch.randn(1, 3, 6, 6)
    net(x)
    small, certificate, _ = shrink(net, 0.5, x)
    assert small.body.out_channels == 4 and certificate.worst < 1e-10 and not certificate.refused
    fresh = shrink(Detector().eval(), 0.5, x).model
    assert fresh.body.out_channels == 4
