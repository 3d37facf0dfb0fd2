"""What the processes of the distributed tests run, and the same training in one process to compare with.

A module of its own, because a spawned process must be able to import it. Each worker runs all its scenarios and
saves what it found: starting processes costs more than training in them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from secateur._base.errors import LeakError
from secateur.holding import hold
from secateur.masks import Masks

RANKS = 2
STEPS = 6
CLIP = 0.05

Make = Callable[[Iterable[nn.Parameter]], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
}
# torch's own Adafactor cannot step sharded parameters.
SHARDED: dict[str, Make] = {name: make for name, make in OPTIMIZERS.items() if name != "adafactor"}


def make_model() -> nn.Module:
    # 7 and 5 rows do not divide by two processes: shards of different sizes.
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return model


def make_masks(seed: int = 1) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: p.shape for n, p in make_model().named_parameters() if n.endswith("weight")}
    return Masks({n: torch.rand(shape, generator=generator) < 0.5 for n, shape in shapes.items()})


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    draw: Callable[..., Tensor] = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return [(draw(8, 6), draw(8, 2)) for _ in range(STEPS)]


def train(
    forward: Callable[[Tensor], Tensor],
    parameters: list[nn.Parameter],
    make: Make,
    *,
    clip: bool = True,
    part: slice = slice(None),
) -> None:
    """Train on this process's part of each batch, clipping hard: pruned gradients in the norm would show."""
    optimizer = make(parameters)
    for inputs, target in batches():
        optimizer.zero_grad()
        mse_loss(forward(inputs[part]), target[part]).backward()
        if clip:
            nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()


def reference(make: Make, masks: Masks, *, clip: bool = True) -> dict[str, Tensor]:
    """Train w ⊙ m in one process on whole batches, and return the survivors (zero elsewhere)."""
    model = make_model()
    masks.apply_(model)
    weights = dict(model.named_parameters())

    def forward(inputs: Tensor) -> Tensor:
        masked = {n: p * masks[n] if n in masks else p for n, p in weights.items()}
        return functional_call(model, masked, (inputs,))

    train(forward, list(weights.values()), make, clip=clip)
    masks.apply_(model)
    return {name: parameter.detach() for name, parameter in weights.items()}


def part_of(rank: int) -> slice:
    return slice(4 * rank, 4 * rank + 4)


def whole(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, value in model.named_parameters():
        full = getattr(value, "full_tensor", None)
        found[name.removeprefix("module.")] = (full() if full else value).detach().clone()
    return found


def _leak(check: Callable[[], None]) -> str:
    try:
        check()
    except LeakError as error:
        return str(error)
    return ""


def _start(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)


def leave() -> None:
    """Leave the group of processes.

    Torch 2.13 frees a group with the interpreter's lock held, and waits there for gloo's threads; one that is about to
    drop the last work waits for that lock, for ever. So they get the time to do so first.
    """
    dist.barrier()
    time.sleep(0.2)  # other threads run
    dist.destroy_process_group()


def _finish(rank: int, folder: str, results: dict[str, Any]) -> None:
    torch.save(results, Path(folder) / f"rank{rank}.pt")
    leave()


def ddp(rank: int, folder: str) -> None:
    """Hold before and after wrapping in DDP, with buckets as gradients and not."""
    _start(rank, folder)
    results: dict[str, Any] = {}
    for name, make in OPTIMIZERS.items():
        inner = make_model()
        handle = hold(inner, make_masks())
        model = DistributedDataParallel(inner, gradient_as_bucket_view=True)
        train(model, list(model.parameters()), make, part=part_of(rank))
        handle.check()
        results[f"before {name}"] = whole(model)

        model = DistributedDataParallel(make_model())
        handle = hold(model, make_masks())
        train(model, list(model.parameters()), make, part=part_of(rank))
        handle.check()
        results[f"after {name}"] = whole(model)
    twin = copy.deepcopy(inner)
    results["copy"] = whole(twin)
    _finish(rank, folder, results)


def fsdp2(rank: int, folder: str) -> None:
    """Hold before and after `fully_shard`, replace masks, find a leak, read masks back."""
    from torch.distributed.fsdp import fully_shard

    def shard(model: nn.Module) -> nn.Module:
        fully_shard(model[0])
        fully_shard(model[2], reshard_after_forward=False)
        return fully_shard(model)

    _start(rank, folder)
    results: dict[str, Any] = {}
    for name, make in SHARDED.items():
        model = shard(make_model())
        handle = hold(model, make_masks())
        train(model, list(model.parameters()), make, part=part_of(rank))
        handle.check()
        results[f"after {name}"] = whole(model)

        model = make_model()
        handle = hold(model, make_masks())
        shard(model)
        # Its first gradients are masked at the step only, behind the clipping.
        train(model, list(model.parameters()), make, part=part_of(rank), clip=False)
        handle.check()
        results[f"before {name}"] = whole(model)
    results["zeros"] = {name: mask for name, mask in Masks.from_zeros(model).items()}
    handle.replace(make_masks(seed=9))
    results["replaced"] = whole(model)
    leaky = model.get_parameter("0.weight")
    with torch.no_grad():
        leaky.fill_(0.25)
    results["leak"] = _leak(handle.check)
    hooks = [len(model[4]._forward_pre_hooks)]
    handle.release()
    results["hooks"] = [*hooks, len(model[4]._forward_pre_hooks)]
    _finish(rank, folder, results)
