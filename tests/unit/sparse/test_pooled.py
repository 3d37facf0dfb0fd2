"""Convolutions that are pooled as they are computed, against dense ones in double precision."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from secateur import Masks, hold
from secateur._base import door
from secateur.sparse import compile_step, sparsify
from secateur.sparse.measured import BreakEven, Machine

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

ISAS = [] if door.native is None else door.native.supported_isas()


@st.composite
def pooled_networks(draw: st.DrawFn) -> tuple[nn.Sequential, Masks, Tensor, Tensor]:
    """Two pooled convolutions and a linear layer, masks and a batch; most windows cover their images."""
    torch.manual_seed(draw(st.integers(0, 99)))
    channels = [draw(st.integers(1, 3)), draw(st.sampled_from([2, 5, 8, 20])), draw(st.integers(1, 9))]
    layers: list[nn.Module] = []
    x = torch.randn(
        draw(st.sampled_from([1, 5, 16, 19, 40])), channels[0], *draw(st.sampled_from([(28, 20), (30, 16)]))
    )
    for before, after in pairwise(channels):
        layers.append(nn.Conv2d(before, after, draw(st.sampled_from([1, 3, 5])), padding=draw(st.integers(0, 1))))
        if draw(st.booleans()):
            layers.append(nn.ReLU())
        window = draw(st.sampled_from([(2, 2), (1, 2), (3, 2), (2, 1)]))
        layers.append(nn.MaxPool2d(window, draw(st.sampled_from([window, window, (2, 2)]))))
    with torch.no_grad():
        features = nn.Sequential(*layers)(x).flatten(1).shape[1]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 4))
    density = draw(st.sampled_from([0.1, 0.5, 1.0]))
    masks = Masks({n: torch.rand(p.shape) < density for n, p in model.named_parameters() if p.dim() > 1})
    return model, masks, x, torch.randint(0, 4, (len(x),))


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40)
@given(drawn=pooled_networks())
def test_a_step_and_the_gradient_of_the_input(isa: str, drawn: tuple[nn.Sequential, Masks, Tensor, Tensor]) -> None:
    """Whether the gradient of the input is wanted decides which of two ways the weights' gradients go."""
    model, masks, x, targets = drawn
    assert door.native is not None
    before = door.isa()
    door.native.use_isa(isa)
    try:
        exact = copy.deepcopy(model).double()
        masks.apply_(model)
        masks.apply_(exact)
        machine = Machine("always", False, (BreakEven(64, 128, 1.1),), convolution=1.1)
        ours, wide = x.clone().requires_grad_(), x.double().requires_grad_()
        cross_entropy(sparsify(model, masks, machine=machine)(ours), targets).backward()
        step = compile_step(model, masks, cross_entropy, SGD(model.parameters(), lr=1.0))
        found = step(x, targets)
        with hold(exact, masks):
            reference = SGD(exact.parameters(), lr=1.0)
            loss = cross_entropy(exact(wide), targets)
            loss.backward()
            reference.step()
        step.write_back()
    finally:
        door.native.use_isa(before)
    assert found == pytest.approx(loss.item(), abs=1e-5)
    assert ours.grad is not None and wide.grad is not None
    torch.testing.assert_close(ours.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)
    for key, value in exact.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key].double(), value, rtol=1e-4, atol=1e-4)


def test_more_threads_give_the_same_bits() -> None:
    """Strips of rows and channels are shared out; every number is summed by one thread."""
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 10, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(160, 10),
        )  # fmt: skip
        masks = Masks({n: torch.rand(p.shape) < 0.5 for n, p in model.named_parameters() if p.dim() > 1})
        step = compile_step(model, masks, cross_entropy, SGD(model.parameters(), lr=0.1))
        x = torch.randn(70, 1, 28, 28)
        for _ in range(3):
            step(x, torch.arange(70) % 10)
        step.write_back()
        results.append([p.detach() for p in model.parameters()])
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
