"""Few images at a time, in evaluation mode: the network for latency."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks
from secateur._base import door
from secateur.sparse import sparsify
from secateur.sparse.measured import BreakEven, Machine

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")


def images(batch: int, seed: int = 3, scale: int = 1) -> Tensor:
    return torch.randn(batch, 3, 13 * scale, 18 * scale, generator=torch.Generator().manual_seed(seed))


def masks_of(model: nn.Module, density: float) -> Masks:
    generator = torch.Generator().manual_seed(2)
    weights = {n: p for n, p in model.named_parameters() if p.dim() >= 2}
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in weights.items()})


GEOMETRIES: dict[str, tuple[nn.Module, nn.Module, nn.Module]] = {
    "grows": (nn.Conv2d(3, 8, 1, padding=1), nn.MaxPool2d(2, 1, 1), nn.Conv2d(8, 4, 1, padding=1, groups=2)),
    "strides": (nn.Conv2d(3, 8, (2, 4), (2, 1)), nn.AvgPool2d(2, 2, 1), nn.Conv2d(8, 4, 3, 2, padding=1)),
    "dilates": (nn.Conv2d(3, 8, (3, 2), dilation=2), nn.Identity(), nn.Conv2d(8, 4, 5, padding=2, bias=False)),
    "averages": (
        nn.Conv2d(3, 8, 3),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.Conv2d(8, 4, 3, padding=2, dilation=2),
    ),
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("geometry", list(GEOMETRIES))
def test_one_image_runs_along_its_positions(geometry: str, threads: int) -> None:
    """The network for latency, compared with the dense one; at every density of its layers."""
    scale = 1 if threads == 1 else 10  # small images are not worth a second thread
    first, pool, second = copy.deepcopy(GEOMETRIES[geometry])
    body = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), pool, second, nn.ReLU(), nn.Flatten())
    features = body(images(2, scale=scale)).shape[1]
    model = nn.Sequential(*body, nn.Linear(features, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    machine = Machine("always", False, (BreakEven(64, 128, 1.1),), convolution=1.1)
    torch.set_num_threads(threads)
    for density in (0.0, 0.1, 0.5, 0.95):
        masks = masks_of(model, density)
        trained = copy.deepcopy(model)
        masks.apply_(trained)
        trained(images(8, scale=scale))
        fast = sparsify(trained.eval(), masks, machine=machine)
        with torch.no_grad():
            for seed in range(2):
                x = images(1, seed, scale)
                torch.testing.assert_close(fast(x), trained(x), rtol=1e-4, atol=1e-5)
        assert {type(run.network.native).__name__ for run in fast._runs.values()} == {"PlaneNet"}
    torch.set_num_threads(1)
