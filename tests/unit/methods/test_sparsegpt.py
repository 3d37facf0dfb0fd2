"""SparseGPT against a plain rendering of the published algorithm, mask for mask and weight for weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Masks, SecateurError, methods, prune
from secateur.axes import Method
from secateur.repairs import error_of, least_squares_on, reconstruct, sweep
from transformer_cases import Conv1D


def _published(
    weight: Tensor, x: Tensor, density: float, block: int, pattern: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 by the authors' own steps: U from the inverse, blocks, losses; but with exact counts.

    weight: [out, in]; x: [in, samples].
    """
    w, h = weight.clone(), x @ x.T
    inputs, outputs = len(h), len(w)
    dead = h.diagonal() == 0
    h += 0.01 * h.diagonal().mean() * torch.eye(inputs, dtype=h.dtype)
    h[dead], h[:, dead] = 0, 0
    h[dead, dead] = 1
    w[:, dead] = 0
    upper = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    keep = torch.ones_like(w, dtype=torch.bool)
    for first in range(0, inputs, block):
        last = min(first + block, inputs)
        if pattern is None:
            worth = (w[:, first:last] / upper.diagonal()[first:last]).square().flatten().tolist()
            count = int(density * outputs * last + 0.5) - int(density * outputs * first + 0.5)
            chosen = sorted(range(len(worth)), key=lambda n: -worth[n])[:count]
            bits = torch.zeros(len(worth), dtype=torch.bool)
            bits[chosen] = True
            keep[:, first:last] = bits.reshape(outputs, -1)
        errors = torch.zeros_like(w[:, first:last])
        for j in range(first, last):
            if pattern is not None and j % pattern[1] == 0:
                part = slice(j, j + pattern[1])
                worth = (w[:, part] / upper.diagonal()[part]).square()
                best = worth.argsort(dim=1, descending=True, stable=True)[:, : pattern[0]]
                keep[:, part] = torch.zeros_like(keep[:, part]).scatter_(1, best, True)
            quantised = w[:, j] * keep[:, j]
            error = (w[:, j] - quantised) / upper[j, j]
            w[:, j:last] -= error[:, None] * upper[j, j:last]
            w[:, j] = quantised
            errors[:, j - first] = error
        w[:, last:] -= errors @ upper[first:last, last:]
    return w, keep


def _pruned(layer: nn.Module, method: Method, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights before and after, and the mask."""
    before = layer.get_parameter("weight").detach().clone()
    masks = prune(layer, method, [x])
    return before, layer.get_parameter("weight").detach(), masks["weight"]


def _drawn(inputs: int, samples: int = 60, seed: int = 0, own: float = 0.0) -> Tensor:
    """Correlated inputs, (samples, inputs), each with `own` times a part that is its own."""
    drawn = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=drawn, dtype=torch.float64)
    mix += own * torch.eye(inputs, dtype=torch.float64)
    return torch.randn(samples, inputs, generator=drawn, dtype=torch.float64) @ mix


@pytest.mark.parametrize(("density", "block"), [(0.5, 8), (0.3, 128), (0.75, 5)])
def test_masks_and_weights_are_the_published_ones(density: float, block: int) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(20, 7).double(), _drawn(20)
    before, after, mask = _pruned(layer, methods.sparsegpt(density, block=block), x)
    wanted, keep = _published(before, x.T, density, block)
    assert torch.equal(mask, keep) and int(mask.sum()) == int(density * 140 + 0.5)
    torch.testing.assert_close(after, wanted)


@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (4, 8)])
def test_n_of_m_is_chosen_on_the_way_as_published(pattern: tuple[int, int]) -> None:
    torch.manual_seed(1)
    layer, x, density = nn.Linear(24, 5).double(), _drawn(24), pattern[0] / pattern[1]
    before, after, mask = _pruned(layer, methods.sparsegpt(density, pattern=pattern, block=8), x)
    wanted, keep = _published(before, x.T, density, 8, pattern)
    assert torch.equal(mask, keep) and bool((mask.reshape(5, -1, pattern[1]).sum(2) == pattern[0]).all())
    torch.testing.assert_close(after, wanted)


def test_of_equal_weights_the_first_stay() -> None:
    layer, x = nn.Linear(8, 2, bias=False).double(), torch.eye(8, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1, -1, 1, 2, 1, 1, 1], [1, 1, 1, 1, 1, -1, 1, 3]]))
    before, after, mask = _pruned(layer, methods.sparsegpt(0.5, block=4), x)
    assert torch.equal(mask, _published(before, x, 0.5, 4)[1])
    assert mask.int().tolist() == [[1, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 1]]
    assert torch.equal(after, before * mask)  # nothing is correlated: nothing makes up for anything


def test_transposed_and_plain_layers_are_one() -> None:
    torch.manual_seed(2)
    plain, turned, x = nn.Linear(9, 9).double(), Conv1D(9, 9).double(), _drawn(9)
    with torch.no_grad():
        turned.weight.copy_(plain.weight.T)
    _, wanted, keep = _pruned(plain, methods.sparsegpt(0.5), x)
    _, found, mask = _pruned(turned, methods.sparsegpt(0.5), x)
    assert torch.equal(mask, keep.T)
    torch.testing.assert_close(found, wanted.T)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_solved_on_its_patches(groups: int) -> None:
    torch.manual_seed(3)
    layer, x = nn.Conv2d(4, 6, 3, padding=1, groups=groups).double(), torch.randn(3, 4, 6, 6).double()
    before, after, mask = _pruned(layer, methods.sparsegpt(0.5), x)
    patches = F.unfold(x, 3, padding=1).movedim(1, 0).flatten(1).reshape(groups, 36 // groups, -1)
    rows = before.flatten(1).reshape(groups, 6 // groups, -1)
    for number in range(groups):
        part = slice(number * 6 // groups, (number + 1) * 6 // groups)
        wanted, keep = _published(rows[number], patches[number], 0.5, 128)
        assert torch.equal(mask[part].flatten(1), keep)
        torch.testing.assert_close(after[part].flatten(1), wanted)


def test_a_convolution_of_n_of_m_counts_channels() -> None:
    torch.manual_seed(4)
    layer, x = nn.Conv2d(8, 4, 3).double(), torch.randn(3, 8, 6, 6).double()
    before, after, mask = _pruned(layer, methods.sparsegpt(0.5, pattern=(2, 4)), x)
    assert bool((mask.unflatten(1, (2, 4)).sum(2) == 2).all())
    patches = F.unfold(x, 3).movedim(1, 0).flatten(1)  # (channel, position) × samples
    last = torch.arange(72).reshape(8, 9).T.flatten()
    wanted, keep = _published(before.flatten(1)[:, last], patches[last], 0.5, 128, (2, 4))
    assert torch.equal(mask.flatten(1)[:, last], keep)
    torch.testing.assert_close(after.flatten(1)[:, last], wanted)


def test_weights_of_dead_inputs_go_first_and_the_rest_is_as_published() -> None:
    torch.manual_seed(5)
    layer, x = nn.Linear(12, 6).double(), _drawn(12)
    x[:, [2, 7]] = 0
    before, after, mask = _pruned(layer, methods.sparsegpt(0.5), x)
    wanted, keep = _published(before, x.T, 0.5, 128)
    assert torch.equal(mask, keep) and not bool(mask[:, [2, 7]].any())
    torch.testing.assert_close(after, wanted)


@pytest.mark.parametrize("seed", range(4))
def test_the_error_is_below_that_of_magnitude_and_of_the_mask_alone(seed: int) -> None:
    torch.manual_seed(seed)
    layer, x = nn.Linear(30, 10).double(), _drawn(30, seed=seed, own=8.0)
    before, after, mask = _pruned(layer, methods.sparsegpt(0.5, damping=1e-6), x)
    gram = x.T @ x
    largest = before.abs() >= before.abs().flatten().kthvalue(151).values
    errors = [float(error_of(found - before, gram).sum()) for found in (after, before * mask, before * largest)]
    assert errors[0] < errors[1] and errors[0] < errors[2]


def test_masks_of_others_are_made_up_for() -> None:
    torch.manual_seed(6)
    layer, x = nn.Linear(10, 4).double(), _drawn(10)
    before = layer.weight.detach().clone()
    masks = Masks({"weight": torch.rand(4, 10, generator=torch.Generator().manual_seed(1)) < 0.5})
    errors = []
    for repair in (sweep(damping=0.0), least_squares_on(damping=0.0)):
        with torch.no_grad():
            layer.weight.copy_(before)
        reconstruct(layer, masks, repair, [x])
        assert bool((layer.weight[~masks["weight"]] == 0).all())
        errors.append(float(error_of(layer.weight.detach() - before, x.T @ x).sum()))
    assert errors[1] <= errors[0] < float(error_of(before * masks["weight"] - before, x.T @ x).sum())


def test_what_cannot_be_is_refused_by_the_layers_name_and_nothing_changes() -> None:
    torch.manual_seed(7)
    net, x = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).double(), _drawn(6, 3)
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(SecateurError, match=r"'0.weight': the second moments.*not positive definite.*raise `damping`"):
        prune(net, methods.sparsegpt(0.5, damping=0.0), [torch.ones(4, 6, dtype=torch.float64)])
    x[1, 2] = float("nan")
    with pytest.raises(SecateurError, match=r"'0.weight': .* not finite: look for NaN among its activations"):
        prune(net, methods.sparsegpt(0.5), [x])
    with pytest.raises(SecateurError, match="needs `batches`"):
        prune(net, methods.sparsegpt(0.5))
    with pytest.raises(SecateurError, match="`batches` is empty"):
        prune(net, methods.sparsegpt(0.5), [])
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
