"""Large batches go through the kernels in parts: the same numbers, whatever their number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur import Masks, sparsify
from secateur.sparse import Machine
from secateur.sparse.calls import _chain as chain


@pytest.mark.parametrize("count", [1, 16, 128, 191, 192, 193, 255, 300, 1000, 2049])
def test_parts_are_whole_vectors_of_about_the_same_size_and_cover_the_batch(count: int) -> None:
    rows = torch.arange(2 * count).view(count, 2)
    parts = chain._parts(rows)
    assert torch.equal(torch.cat(parts), rows)
    sizes = [len(part) for part in parts]
    assert (len(sizes) == 1) == (count < 192)
    if len(sizes) > 1:
        assert all(size % 16 == 0 for size in sizes[:-1]) and max(sizes) <= 192 and min(sizes[:-1]) >= 64


@pytest.mark.parametrize("shape", [(200, 24), (3, 130, 24), (512, 24)])
def test_outputs_and_gradients_are_those_of_the_dense_layers(shape: tuple[int, ...], sparse_machine: Machine) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 7))
    masks = Masks({n: torch.rand(p.shape) < 0.3 for n, p in model.named_parameters() if p.dim() > 1})
    fast = sparsify(model, masks, machine=sparse_machine)
    masks.apply_(model)
    exact = model.double()
    x, dy = torch.randn(shape), torch.randn(*shape[:-1], 7)
    inside, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = fast(inside), exact(wide)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    y.backward(dy)
    expected.backward(dy.double())
    torch.testing.assert_close(inside.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)
    for index in (0, 2):
        layer, grad = fast[index], exact[index].weight.grad
        torch.testing.assert_close(layer.values.grad.double(), layer.plan.gather(grad), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.bias.grad.double(), exact[index].bias.grad, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), y)
