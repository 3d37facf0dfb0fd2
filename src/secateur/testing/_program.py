"""What a program promises: masks of the right size, zeros in the weights, and the caller's training respected."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import UnfitModelError
from secateur.masks import Masks, prunable
from secateur.testing._cases import STEPS, calm, case, counts
from secateur.tickets import Stage

Program = Callable[..., Masks]


def check_program(program: Program, *, density: float, model: str) -> None:
    """The program ends in masks of the density asked for, the weights obey them, and names and hooks are as before."""
    given = case(model)
    inputs, targets = given.batch
    called = []

    def train(network: nn.Module, stage: Stage | None = None) -> dict[str, Tensor]:
        named, optimizer = dict(network.named_parameters()), torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
        for name, value in ({} if stage is None or stage.state is None else stage.state).items():
            optimizer.state[named[name]]["momentum_buffer"] = value.clone()
        among = slice(None) if stage is None or stage.among is None else stage.among
        for _ in range(3 if stage is None else stage.stop - stage.start):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs[among]), targets[among]).backward()
            optimizer.step()
        called.append(stage)
        return {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in named.items() if p.grad is not None}

    before = copy.deepcopy(given.model.state_dict())
    hooks = _hooks(given.model)

    @torch.no_grad()
    def evaluate(network: nn.Module) -> float:
        return float((network(inputs).argmax(1) == targets).double().mean())

    takes = inspect.signature(program).parameters
    able: dict[str, Any] = {"density": density, "steps": STEPS, "epoch": 2, "examples": given.batch}
    able |= {"batches": [given.batch], "evaluate": evaluate, "rounds": 3}
    options = {name: value for name, value in able.items() if name in takes}
    with calm(), torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            masks = program(given.model, **({"train": train} if "train" in takes else {}), **options)
        except UnfitModelError:  # a model that lacks what the program is about
            assert _same(before, given.model.state_dict()), f"{model}: was changed before it was refused"
            return
    assert called or "train" not in takes, f"{model}: the program never trained"
    assert list(given.model.state_dict()) == list(before), f"{model}: names changed"
    assert _hooks(given.model) == hooks, f"{model}: hooks changed"
    _check_masks(given.model, masks, density if "density" in takes else None, model)


def _check_masks(network: nn.Module, masks: Masks, density: float | None, model: str) -> None:
    """The masks are of the network and keep what was asked for, and the weights obey them."""
    assert masks.keys() == prunable(network).keys(), f"{model}: the masks cover {sorted(masks)}"
    if density is not None:
        assert masks.kept in counts(density, prunable(network).values()), (
            f"{model}: {masks.kept} of {masks.numel} weights kept"
        )
    for name, mask in masks.items():
        assert bool((network.get_parameter(name)[~mask] == 0).all()), f"{model}: a pruned weight of {name} lives"


def _same(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(before[name], value) for name, value in after.items())


def _hooks(model: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
