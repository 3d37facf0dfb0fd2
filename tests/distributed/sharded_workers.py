"""What each process of the tests of sharded pruning does: prune a model that is cut up, and say what each sees."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distributed.workers import leave
from secateur import Masks, SecateurError, methods, prune, scope
from secateur.axes import Method
from secateur.axes.structure import weights
from secateur.measures import grad_magnitude
from secateur.selection import topk_mask

PLANS: dict[str, Method] = {
    "magnitude": methods.magnitude(0.3),
    "magnitude by layer": methods.magnitude(0.3, scope=scope.layerwise()),
    "magnitude, one layer whole": methods.magnitude(0.3, scope=scope.given({"0.weight": 0.25})),
    "snip": methods.snip(0.2),
    "snip by layer": methods.snip(0.2, scope=scope.layerwise()),
    "snip with biases": methods.snip(0.2, structure=weights(biases=True)),
    "random": methods.random(0.4),
    "random by layer": methods.random(0.4, scope=scope.layerwise()),
    "erk": methods.erk(0.3),
}
REFUSED: dict[str, Method] = {
    "per_row": methods.magnitude(0.5, scope=scope.per_row()),
    "n_of_m": methods.magnitude(0.5, scope=scope.n_of_m(1, 2)),
    "budget": methods.magnitude(0.5, scope=scope.everywhere(cost=lambda name, shape: 1.0)),
    "threshold": methods.magnitude(0.5, scope=scope.threshold(0.1)),
    "rounds": methods.iter_snip(0.2, rounds=2),
    "measure": methods.snip(0.2, evidence=grad_magnitude()),
    "wanda": methods.wanda(0.5),
    "units": methods.l1_filters(0.5),
    "rank": methods.lamp(0.5),
    "repair": methods.sparsegpt(0.5),
}


class Conv1D(nn.Module):
    """GPT-2's linear layer, which stores its weight inputs first; known by its name."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def make_model(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Layers of sizes that no number of processes divides, and one that is stored the other way round."""
    model = nn.Sequential(
        nn.Linear(12, 21), nn.ReLU(), Conv1D(21, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3), nn.Dropout(0.0)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            # Eighths: many weights of one magnitude, on either side of every cut.
            parameter.copy_((torch.randn(parameter.shape, generator=generator) * 4).round() / 8)
    return model.to(dtype)


def make_batch() -> tuple[Tensor, Tensor]:
    """One batch: every process sees the same, so that the mean over them is that of one process to the bit."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 12, dtype=torch.float64, generator=generator), torch.arange(8) % 3


def make_scores() -> dict[str, Tensor]:
    """Scores with ties by the thousand, an empty tensor, more dimensions than two."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"many": (301, 7), "none": (0, 4), "kernel": (5, 3, 2, 2), "flat": (130,)}
    return {name: torch.randint(-3, 4, shape, generator=generator).float() for name, shape in shapes.items()}


def _split(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model[0])  # pyright: ignore[reportIndexIssue]
    fully_shard(model[2], reshard_after_forward=False)  # pyright: ignore[reportIndexIssue]
    return fully_shard(model)


def _said(work: Callable[[], Any]) -> str:
    try:
        work()
    except SecateurError as problem:
        return str(problem)
    return ""


def _selected(ranks: int) -> dict[str, dict[str, Tensor]]:
    """Selection over one and two dimensions of processes, in rows, columns and both."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    found = {}
    one = init_device_mesh("cpu", (ranks,))
    layouts: dict[str, tuple[Any, Any]] = {"rows": (one, [Shard(0)])}
    if ranks == 4:
        two = init_device_mesh("cpu", (2, 2))
        layouts |= {"replicated": (two, [Replicate(), Shard(0)]), "rows twice": (two, [Shard(0), Shard(0)])}
    for name, (mesh, placements) in layouts.items():
        scores = {n: distribute_tensor(tensor, mesh, placements) for n, tensor in make_scores().items()}
        total = sum(tensor.numel() for tensor in scores.values())
        for keep in (0, 1, 300, 1000, total - 1, total):
            masks = topk_mask(scores, keep)
            found[f"{name} {keep}"] = {n: mask.byte().full_tensor().bool() for n, mask in masks.items()}  # type: ignore[attr-defined]
    matrix = make_scores()["many"]
    columns = {"many": distribute_tensor(matrix, one, [Shard(1)])}
    mask = topk_mask(columns, 700)["many"]
    found["columns 700"] = {"many": mask.byte().full_tensor().bool()}  # type: ignore[attr-defined]
    return found


def shard(rank: int, folder: str, ranks: int = 2) -> None:
    """Prune by every plan, and be refused; save masks, weights and sentences."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {"masks": {}, "weights": {}, "refused": {}, "shares": {}}
    for name, plan in PLANS.items():
        model = _split(make_model())
        generator = torch.Generator().manual_seed(7 + 100 * rank)  # that of the first process counts
        masks: Masks = prune(model, plan, [make_batch()], generator=generator)
        found["masks"][name] = dict(masks)
        found["weights"][name] = {n: p.full_tensor().detach() for n, p in model.named_parameters()}  # type: ignore[attr-defined]
        found["shares"][name] = [p.to_local().numel() for _, p in model.named_parameters()]  # type: ignore[attr-defined]
        found["clean"] = all(p.grad is None for p in model.parameters()) and model.training
        found["buffers"] = {n: buffer.clone() for n, buffer in model.named_buffers()}
    for name, plan in REFUSED.items():
        model = _split(make_model())
        found["refused"][name] = _said(lambda m=model, p=plan: prune(m, p, [make_batch()]))
        whole = {n: p.full_tensor().detach() for n, p in model.named_parameters()}  # type: ignore[attr-defined]
        found["refused"][f"{name} untouched"] = all(
            torch.equal(whole[n], p) for n, p in make_model().named_parameters()
        )
    model = _split(make_model())
    found["refused"]["masks"] = _said(lambda: prune(model, PLANS["magnitude"], masks=masks))
    with torch.no_grad():
        if rank == ranks - 1:
            model.get_parameter("0.weight").to_local()[0, 0] = float("nan")  # type: ignore[attr-defined]
    found["refused"]["nan"] = _said(lambda: prune(model, PLANS["magnitude"]))
    half = _split(make_model(torch.bfloat16))
    found["refused"]["half"] = _said(lambda: prune(half, PLANS["snip"], [make_batch()]))
    even = _split(make_model())
    with torch.no_grad():
        for parameter in even.parameters():
            parameter.zero_()
    found["refused"]["equal"] = _said(lambda: prune(even, PLANS["snip"], [make_batch()]))
    found["selected"] = _selected(ranks)
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    leave()
