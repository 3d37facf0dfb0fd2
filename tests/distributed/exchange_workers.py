"""What each process of the exchange tests does: train by the methods that move weights, each rank on its own data."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distributed.scoring_workers import RANKS, make_model
from distributed.workers import leave
from secateur import Pruner, methods
from secateur.axes import Method

STEPS = 9
METHODS: dict[str, Callable[[], Method]] = {
    "set": lambda: methods.set_(0.3, until=8, every=2),
    "rigl": lambda: methods.rigl(0.3, until=8, every=2),
    "granet": lambda: methods.granet(0.3, end=6, until=8, every=2, initial=0.5),
    "snfs": lambda: methods.snfs(0.3, until=8, every=2),
    "dsr": lambda: methods.dsr(0.3, until=8, every=2, threshold=0.1),
    "deep_r": lambda: methods.deep_r(0.3, until=8, noise=0.5),
}


def exchange(rank: int, folder: str) -> None:
    """Train by every method inside DistributedDataParallel, and save masks and weights after every step."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, Tensor]] = {}
    for name, make in METHODS.items():
        model = make_model()
        network = nn.parallel.DistributedDataParallel(model)
        # Ranks bring generators, and global states, that differ: what is drawn must be the same everywhere.
        torch.manual_seed(200 + rank)
        pruner = Pruner(network, make(), generator=torch.Generator().manual_seed(100 + rank))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(STEPS):
            data = torch.Generator().manual_seed(1000 * rank + step)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                network(torch.randn(8, 12, dtype=torch.float64, generator=data)), torch.arange(8) % 3
            )
            loss.backward()
            optimizer.step()
            found |= {f"{name} {step} mask {layer}": {"": mask.clone()} for layer, mask in pruner.masks.items()}
        found |= {f"{name} weight {layer}": {"": p.detach().clone()} for layer, p in model.named_parameters()}
        pruner.release()
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    leave()
