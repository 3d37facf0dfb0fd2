"""What each process of the evidence tests does: measure its own half of the data, and save what all agree on."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distributed.workers import leave
from secateur import Measure, curvature, gather, prunable
from secateur.measures import KNOWN, input_variance
from secateur.propagation import importance

RANKS = 2
#: Everything that does not draw random numbers and adds up exactly over batches.
NAMES = ("grad", "grad_magnitude", "fisher", "movement", "hessian_grad", "input_norm", "gram", "activity")


#: Curvature, sample by sample; what is drawn at random is left out.
CURVATURE: tuple[Measure, ...] = (
    curvature.empirical_fisher(),
    curvature.ggn_diag(),
    curvature.lecun_diag(),
    curvature.input_factor(),
    curvature.snapshots(),
    curvature.gate_magnitude(),
    curvature.gate_fisher(),
    curvature.kernel_variance(),
    curvature.sparse_regression(keep=0.5),
    input_variance(),
)


class Branches(nn.Module):
    """The second branch is used by the batch of rank 1 only."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.other = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) + self.other(x).tanh() if x.sum() > 0 else self.used(x)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return Branches().double()


def make_chain() -> nn.Module:
    """A network without branches, through which importance propagates."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def make_batches() -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(RANKS, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return [(x[0] - 2, torch.arange(8) % 3), (x[1] + 2, torch.arange(8) % 3)]


def measure(rank: int, folder: str) -> None:
    """Gather every measure on this rank's batch alone."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    model, batch = make_model(), make_batches()[rank]
    wanted = [KNOWN[name]() for name in NAMES]
    chain, found = make_chain(), gather(model, [batch], wanted, params=prunable(model))
    found |= gather(chain, [batch], [importance(), *CURVATURE], params=prunable(chain))
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    leave()
