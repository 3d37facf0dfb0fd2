"""What a measurement leaves behind: nothing, whatever the model's forward does to its buffers and to random states."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur import methods, prune, scores
from secateur.measures._preserve import preserved


class Restless(nn.Module):
    """Puts other tensors in the place of buffers, adds one, drops one, resizes one, and draws from all that draws."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        for name in ("count", "grown", "gone", "none"):
            self.register_buffer(name, torch.zeros(2), persistent=name != "grown")
        self.none = None
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        self.grown.resize_(5).fill_(7)
        self.gone = None
        self.none = torch.ones(1)
        if "fresh" not in self._buffers:
            self.register_buffer("fresh", torch.ones(1))
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        if self.fails:
            raise ArithmeticError("in the middle of a forward")
        return self.layer(x) * (1 + noise)


def states() -> tuple[object, str, list[int]]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("measured", [prune, scores])
def test_buffers_and_random_states_are_as_found(measured: Callable[..., object], fails: bool) -> None:
    batches = [(torch.randn(5, 4), torch.randint(0, 3, (5,))) for _ in range(2)]
    model = Restless()
    model.fails = fails
    found = dict(model._buffers)
    values = {name: tensor.clone() for name, tensor in model.named_buffers()}
    before = states()
    if fails:
        with pytest.raises(ArithmeticError):
            measured(model, methods.snip(0.5), batches)
    else:
        measured(model, methods.snip(0.5), batches)
    assert states()[1:] == before[1:]  # annotations are checked with draws from `random`: see below
    assert list(model._buffers) == list(found)
    assert all(model._buffers[name] is tensor for name, tensor in found.items())
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.named_buffers())
    assert list(model.state_dict()) == ["count", "gone", "layer.weight", "layer.bias"]


def test_the_state_of_random_is_as_found() -> None:
    model = Restless()
    with preserved(model, dict(model.named_parameters())):
        before = states()
        model(torch.ones(2, 4))
        assert all(one != two for one, two in zip(states(), before, strict=True))
    assert states() == before
