"""compile_step on the deep networks of the papers, at their full size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from secateur import Masks, hold
from secateur._base import door
from secateur.lab.models import build
from secateur.sparse import compile_step

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg-c", "vgg-d", "wrn-16-8"])
def test_they_train_as_in_the_eager_loop(name: str) -> None:
    """With wide layers nearly dense and deep ones sparse, as SNIP leaves them."""
    model = build(name, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(2)
    weights = {n: p for n, p in model.named_parameters() if p.dim() >= 2}
    masks = Masks(
        {n: torch.rand(p.shape, generator=generator) < min(0.9, 4000 / p[0].numel() ** 1.4) for n, p in weights.items()}
    )
    other = copy.deepcopy(model)
    masks.apply_(other)
    before = {n: p.detach().clone() for n, p in other.named_parameters()}
    optimizer, reference = SGD(model.parameters(), 1e-4, momentum=0.9), SGD(other.parameters(), 1e-4, momentum=0.9)
    step = compile_step(model, masks, cross_entropy, optimizer)
    with hold(other, masks):
        # The third step is the first whose weights both have moved: rounding may have turned a ReLU by then.
        for samples, near in ((7, 1e-4), (5, 1e-4), (7, 5e-3)):
            x, targets = torch.randn(samples, 3, 32, 32, generator=generator), torch.arange(samples) % 10
            reference.zero_grad()
            loss = cross_entropy(other(x), targets)
            loss.backward()
            reference.step()
            assert step(x, targets) == pytest.approx(loss.item(), abs=near)
    step.write_back()
    ours = dict(model.named_parameters())
    for key, parameter in other.named_parameters():
        # A rounding error that turns one ReLU among a hundred thousand changes the gradient by 0.3 %.
        change, error = (parameter - before[key]).detach(), (ours[key] - parameter).detach()
        assert float(error.norm()) < 0.1 * float(change.norm()) + 1e-7, key
