"""Compiled steps on batches that go through the kernels in parts: as one batch, with one update."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, Optimizer

from secateur import Masks, SecateurError, hold
from secateur._base import door
from secateur.sparse import compile_step

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

WIDTHS = (70, 90, 40, 7)
SAMPLES = [191, 192, 200, 300, 513, 1000]


def chain(widths: tuple[int, ...] = WIDTHS, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[part for i, o in pairwise(widths) for part in (nn.Linear(i, o, bias=bias), nn.ReLU())][:-1])


def drawn(model: nn.Module, density: float, *, biases: bool = False) -> Masks:
    generator = torch.Generator().manual_seed(1)
    found = {n: p for n, p in model.named_parameters() if p.dim() > 1 or biases}
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in found.items()})


def in_blocks(model: nn.Module) -> Masks:
    generator = torch.Generator().manual_seed(1)
    weights = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    masks = {}
    for name, p in weights.items():
        few = torch.rand(-(-p.shape[0] // 4), p.shape[1], generator=generator) < 0.4
        masks[name] = few.repeat_interleave(4, 0)[: p.shape[0]]
    return Masks(masks)


def batches(samples: int, count: int, features: int = WIDTHS[0]) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(samples)
    return [
        (torch.randn(samples, features, generator=g), torch.randint(WIDTHS[-1], (samples,), generator=g))
        for _ in range(count)
    ]


def optimizer_of(model: nn.Module, adam: bool) -> Optimizer:
    return Adam(model.parameters(), lr=1e-3) if adam else SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)


def check(model: nn.Module, masks: Masks, data: list[tuple[Tensor, Tensor]], adam: bool = False) -> None:
    """Compare a step with the eager loop in double precision, over the data."""
    masks.apply_(model)
    other = copy.deepcopy(model).double()
    step = compile_step(model, masks, cross_entropy, optimizer_of(model, adam))
    reference = optimizer_of(other, adam)
    with hold(other, masks):
        for x, y in data:
            reference.zero_grad()
            loss = cross_entropy(other(x.double()), y)
            loss.backward()
            reference.step()
            assert step(x, y) == pytest.approx(loss.item(), rel=1e-5)
    step.write_back()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.double(), q, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("density", [0.05, 0.3, 0.9])
def test_it_trains_as_the_whole_batch(samples: int, density: float) -> None:
    """Of single weights, and above two fifths of full matrices."""
    model = chain()
    check(model, drawn(model, density), batches(samples, 3))


@pytest.mark.parametrize("samples", [300, 513])
def test_other_layers_and_optimizers(samples: int) -> None:
    for adam in (False, True):
        model = chain()
        check(model, in_blocks(model), batches(samples, 3), adam)
        model = chain()
        check(model, drawn(model, 0.4, biases=True), batches(samples, 3), adam)
        model = chain(bias=False)
        check(model, drawn(model, 0.7), batches(samples, 3), adam)
        model = chain((70, 7))
        check(model, drawn(model, 1.0), batches(samples, 3), adam)


@pytest.mark.parametrize("density", [0.3, 0.9])
def test_batches_of_many_sizes_in_turn(density: float) -> None:
    model = chain()
    check(model, drawn(model, density), [batches(n, 1)[0] for n in (400, 16, 1000, 400, 129, 1, 512)])


@pytest.mark.parametrize("density", [0.2, 0.9])
def test_threads_do_not_change_the_bits(density: float) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            model = chain((70, 900, 400, 7))
            step = compile_step(model, drawn(model, density), cross_entropy, SGD(model.parameters(), lr=0.05))
            losses = [step(x, y) for x, y in batches(1000, 3)]
            step.write_back()
            found.append((losses, [p.detach().clone() for p in model.parameters()]))
    finally:
        torch.set_num_threads(before)
    for losses, weights in found[1:]:
        assert losses == found[0][0]
        assert all(torch.equal(a, b) for a, b in zip(weights, found[0][1], strict=True))


def test_batch_statistics_are_of_the_whole_batch() -> None:
    """Samples that depend on one another are not taken apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(70, 90), nn.BatchNorm1d(90), nn.ReLU(), nn.Linear(90, 7))
    masks, data = drawn(model, 0.3), batches(500, 3)
    check(model, masks, data)
    assert torch.allclose(model.get_buffer("1.num_batches_tracked"), torch.tensor(3))


def test_the_workspace_is_of_one_part() -> None:
    model = chain((70, 900, 400, 7))
    step = compile_step(model, drawn(model, 0.05), cross_entropy, SGD(model.parameters(), lr=0.05))
    sizes = []
    for samples in (128, 4096):
        step(*batches(samples, 1)[0])
        sizes.append(step.room_bytes)
        step.release()
    weights = 0.05 * (70 * 900 + 900 * 400 + 400 * 7)
    assert sizes[1] - sizes[0] < 2 * 4 * (weights + 1307 + 3 * 64) + 8192  # sums of gradients, and whole pages


def test_labels_are_looked_at_before_anything_is_trained() -> None:
    model = chain()
    step = compile_step(model, drawn(model, 0.3), cross_entropy, SGD(model.parameters(), lr=0.05))
    x, y = batches(1000, 1)[0]
    y[-1] = 7  # no class, in the last part
    before = [piece.value.clone() for piece in step._trained]
    with pytest.raises(SecateurError, match="class numbers"):
        step(x, y)
    assert all(torch.equal(piece.value, b) for piece, b in zip(step._trained, before, strict=True))
