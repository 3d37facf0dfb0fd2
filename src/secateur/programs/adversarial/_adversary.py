"""What tells a student's logits from its teacher's, and what the soft masks that it trained leave."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import mse_loss

from secateur._base.errors import EmptyLayerWarning, SecateurError
from secateur._base.warn import warn
from secateur.masks import Masks
from secateur.programs.adversarial._soft_masks import SoftMasks


def inputs_in(batches: Iterable[Tensor | Sequence[object]]) -> list[Tensor]:
    """The inputs of each batch: the tensor itself, or the first of a tuple."""
    given = [batch if isinstance(batch, Tensor) else next(iter(batch), None) for batch in batches]
    found = [each for each in given if isinstance(each, Tensor)]
    if not found or len(found) < len(given):
        raise SecateurError("`batches` must have inputs to look at: tensors, or tuples that begin with one.")
    return found


@dataclass(frozen=True)
class Pace:
    """How a student is trained: `steps`, λ (`strength`), μ (`mse`), and the rates of weights and masks."""

    steps: int
    strength: float
    mse: float
    rate: float
    mask_rate: float


@torch.enable_grad()
def train_student(network: nn.Module, soft: SoftMasks, seen: Sequence[Tensor], pace: Pace) -> None:
    """Train weights and masks so that an adversary cannot tell the network from a copy of what it was.

    At each step the adversary learns that the teacher's logits are the teacher's and the student's the student's; the
    student minimises μ·MSE(logits) and the adversary's cross-entropy for calling it the teacher. The masks' λ acts in
    their proximal step alone.
    """
    teacher = copy.deepcopy(network).eval()
    judge = _adversary(teacher, seen[0])
    weights = torch.optim.SGD(network.parameters(), lr=pace.rate, momentum=0.9, weight_decay=2e-4)
    judges = torch.optim.Adam(judge.parameters(), lr=1e-3)
    modes = {module: module.training for module in network.modules()}
    soft.attach()
    try:
        network.train()
        for x in islice(cycle(seen), pace.steps):
            with torch.no_grad():
                real = teacher(x)
            logits = network(x)
            fooled, told = judge(logits), judge(torch.cat([real, logits.detach()]))
            answers = torch.cat([torch.ones_like(fooled), torch.zeros_like(fooled)])
            weights.zero_grad()
            (pace.mse * mse_loss(logits, real) + cross_entropy(fooled, torch.ones_like(fooled))).backward()
            judges.zero_grad()  # what the student's loss left there
            cross_entropy(told, answers).backward()
            weights.step()
            judges.step()
            soft.step(pace.mask_rate, pace.strength)
    finally:
        soft.detach()
        weights.zero_grad()
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def _adversary(teacher: nn.Module, x: Tensor) -> nn.Sequential:
    """A discriminator for the teacher's logits: classes-128-256-128-1, which ends in a logit."""
    logits = teacher(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or not bool(torch.isfinite(logits).all()):
        raise SecateurError("gal needs a network whose output is finite logits [batch, classes].")
    sizes = (logits.shape[1], 128, 256, 128, 1)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(logits)


def masks_from(soft: SoftMasks, network: nn.Module, masks: Masks) -> Masks:
    """Cut the units whose mask is zero, weights and all; warn of layers that have none left."""
    bits = {name: mask.clone() for name, mask in masks.items()}
    for place, m in zip(soft.places, soft.values, strict=True):
        if not bool(torch.isfinite(m).all()):
            raise SecateurError(f"the soft masks of {place.weight!r} are not finite: lower the rates.")
        bits[place.weight] &= (m > 0).reshape(-1, *[1] * (bits[place.weight].dim() - 1))
    found = Masks(bits)
    found.apply_(network)
    if found.empty:
        warn(f"all units of {', '.join(found.empty)} are gone: lower `strength`, or `steps`.", EmptyLayerWarning)
    return found
