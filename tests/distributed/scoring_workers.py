"""What each process of the scoring tests does: prune one model on its own half of the data."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distributed.workers import leave
from secateur import Masks, methods, prune
from secateur.axes import Method

RANKS = 2
PLANS: dict[str, Method] = {
    "snip": methods.snip(density=0.2),
    "grasp": methods.grasp(density=0.2),
    "iter_snip": methods.iter_snip(density=0.2, rounds=3),
    "synflow": methods.synflow(density=0.2, rounds=5),
    "random": methods.random(density=0.2),
    "erk": methods.erk(density=0.2),
}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3)).double()


def make_batches() -> list[tuple[Tensor, Tensor]]:
    """One batch per rank; a single process that sees all of them is the reference."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 12, dtype=torch.float64, generator=generator), torch.randint(3, (8,), generator=generator))
        for _ in range(RANKS)
    ]


def score(rank: int, folder: str) -> None:
    """Prune by every plan on this rank's batch, half of the time inside DistributedDataParallel; save the masks."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, Tensor]] = {}
    for name, plan in PLANS.items():
        for wrapped in (False, True):
            model = make_model()
            network = nn.parallel.DistributedDataParallel(model) if wrapped else model
            # Ranks bring generators in different states: drawn evidence must still be the same everywhere.
            masks: Masks = prune(
                network, plan, [make_batches()[rank]], generator=torch.Generator().manual_seed(100 + rank)
            )
            found[f"{name} {'ddp' if wrapped else 'plain'}"] = dict(masks)
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    leave()
