"""compile_step on layers that keep most of their weights: computed as full matrices, trained as if they were not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer

from secateur import Masks, hold
from secateur._base import door
from secateur.sparse import compile_step

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

SETS = [] if door.native is None else door.native.supported_isas()

# Rows that no register block divides; fewer features than a vector has lanes; features in two blocks of columns.
WIDTHS = [(30, 17, 23, 5), (7, 6, 3), (1500, 13, 5)]


def chain(widths: tuple[int, ...]) -> nn.Sequential:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def most_of(model: nn.Module, density: float) -> Masks:
    generator = torch.Generator().manual_seed(2)
    weights = {n: p for n, p in model.named_parameters() if p.dim() == 2}
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in weights.items()})


def batch_of(model: nn.Sequential, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, last = model[0], model[-1]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    x = torch.randn(samples, first.in_features, generator=generator)
    return x, torch.randint(0, last.out_features, (samples,), generator=generator)


def train_eagerly(model: nn.Module, masks: Masks, optimizer: Optimizer, batches: list[tuple[Tensor, Tensor]]) -> None:
    hold(model, masks)
    for x, y in batches:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


@contextmanager
def computing(isa: str, threads: int) -> Iterator[None]:
    native = door.native
    assert native is not None
    before = native.isa()
    native.use_isa(isa)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(1)
        native.use_isa(before)


@pytest.mark.parametrize(("isa", "widths", "threads"), list(product(SETS, WIDTHS, [1, 2])))
def test_the_weights_of_the_eager_masked_loop(isa: str, widths: tuple[int, ...], threads: int) -> None:
    model, eager = chain(widths), chain(widths)
    masks = most_of(model, 0.8)
    batches = [batch_of(model, samples, seed) for seed, samples in enumerate((48, 7, 1, 150) * 5)]
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    train_eagerly(eager, masks, SGD(eager.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01), batches)
    with computing(isa, threads):
        step = compile_step(model, masks, cross_entropy, optimizer)
        for x, y in batches:
            step(x, y)
        with torch.no_grad():
            for x, _ in batches[:4]:  # 1 and 150 images, and what no vector divides
                torch.testing.assert_close(step.predict(x), eager(x), rtol=1e-3, atol=1e-4)
    step.write_back()
    for (name, p), q in zip(model.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    for key in masks:
        assert not model.get_parameter(key)[~masks[key]].any()


def test_full_and_sparse_layers_in_one_chain() -> None:
    model, eager = chain((40, 20, 30, 5)), chain((40, 20, 30, 5))
    full, sparse = most_of(model, 0.9), most_of(model, 0.1)
    masks = Masks({key: (sparse if key == "2.weight" else full)[key] for key in full})
    batches = [batch_of(model, 50, seed) for seed in range(20)]
    train_eagerly(eager, masks, AdamW(eager.parameters(), lr=3e-3), batches)
    step = compile_step(model, masks, cross_entropy, AdamW(model.parameters(), lr=3e-3))
    for x, y in batches:
        step(x, y)
    step.write_back()
    for p, q in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)


def test_what_no_weight_reads_may_be_anything() -> None:
    trained = []
    for unread in (0.0, float("nan")):
        model = chain((30, 17, 5))
        drawn = most_of(model, 0.9)
        read = torch.arange(30) != 4
        masks = Masks({key: drawn[key] & read if key == "0.weight" else drawn[key] for key in drawn})
        step = compile_step(model, masks, cross_entropy, SGD(model.parameters(), lr=0.05))
        for seed in range(5):
            x, y = batch_of(model, 33, seed)
            x[:, 4] = unread
            assert step(x, y) > 0
        step.write_back()
        trained.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*trained, strict=True))


def test_a_prediction_is_of_the_weights_taken_up_last_and_of_as_many_samples() -> None:
    model = chain((40, 20, 30, 5))
    step = compile_step(model, most_of(model, 0.9), cross_entropy, SGD(model.parameters(), lr=0.1))
    x, _ = batch_of(model, 33, 0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
        step.read_back()
        torch.testing.assert_close(step.predict(x), model(x))
        torch.testing.assert_close(step.predict(x.repeat(1, 2)[:, :40]), model(x))  # not contiguous
    assert step.predict(x[:0]).shape == (0, 5)


def test_the_full_matrices_are_counted() -> None:
    sizes = []
    for density in (0.3, 0.9):
        model = chain((64, 50))
        masks = most_of(model, density)
        step = compile_step(model, masks, cross_entropy, SGD(model.parameters(), lr=0.1))
        kept = int(masks["0.weight"].sum())
        sizes.append(step.training_bytes - kept * (4 + 16))  # values, and the indices, which know their places as well
    assert sizes[1] - sizes[0] == 4 * 64 * 50


@pytest.mark.parametrize("density", [0.1, 0.8])
@pytest.mark.parametrize("threads", [2, 3])
def test_several_threads_compute_this_batch_and_not_the_last(density: float, threads: int) -> None:
    """Threads that have their own samples do not wait for one another: nobody may read what another has not written."""
    model = chain((1500, 13, 5))
    step = compile_step(model, most_of(model, density), cross_entropy, SGD(model.parameters(), lr=0.0))
    for seed in range(20):
        x, y = batch_of(model, 150, seed)
        with computing(step_isa(), threads):
            found, loss = step.predict(x), step(x, y)
        torch.testing.assert_close(found, step.predict(x), rtol=1e-3, atol=1e-4)
        assert loss == pytest.approx(step(x, y), rel=1e-4)


def step_isa() -> str:
    assert door.native is not None
    return door.native.isa()
