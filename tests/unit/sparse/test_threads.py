"""One compiled step, or one sparsified model, used by two Python threads at once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from secateur import Masks
from secateur._base import door
from secateur.sparse import Machine, compile_step, release_workspaces, sparsify

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

ROUNDS = 60


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(6, 40, batch_first=True), nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 16, 10),
    )  # fmt: skip


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, (200,)),
    "convolutional": (convolutional, (3, 8, 8)),
    "recurrent": (Last, (9, 6)),
}


def model_and_masks(kind: str) -> tuple[nn.Module, Masks]:
    torch.manual_seed(0)
    model = KINDS[kind][0]()
    return model, Masks({n: torch.rand(p.shape) < 0.2 for n, p in model.named_parameters() if p.dim() > 1})


def together(*works: Callable[[], bool]) -> list[int]:
    """Run each piece of work on a thread of its own, over and over, and count how often each was wrong."""
    wrong = [0] * len(works)
    start = threading.Barrier(len(works))

    def repeat(index: int) -> None:
        start.wait()
        for _ in range(ROUNDS):
            wrong[index] += not works[index]()

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


@pytest.mark.parametrize("second", ["train", "predict", "release"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_used_by_two_threads_gives_right_results(kind: str, second: str) -> None:
    """Rate 0: every loss and output has one right value, whatever the order of the calls."""
    model, masks = model_and_masks(kind)
    norms = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    step = compile_step(model, masks, cross_entropy, SGD(model.parameters(), lr=0.0))
    xs = [torch.randn(samples, *KINDS[kind][1]) for samples in (16, 120)]
    ys = [torch.randint(10, (len(x),)) for x in xs]
    losses = [step(x, y) for x, y in zip(xs, ys, strict=True)]
    outputs = [step.predict(x) for x in xs]

    def train(i: int) -> Callable[[], bool]:
        return lambda: step(xs[i], ys[i]) == losses[i]

    def predict(i: int) -> Callable[[], bool]:
        # Running statistics move at every step; what does not depend on them is compared.
        return lambda: (
            step.predict(xs[i]).shape == outputs[i].shape if norms else torch.equal(step.predict(xs[i]), outputs[i])
        )

    def release(_: int) -> Callable[[], bool]:
        return lambda: release_workspaces() >= 0

    assert together(train(0), {"train": train, "predict": predict, "release": release}[second](1)) == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sparsified_model_serves_several_threads(kind: str, sparse_machine: Machine) -> None:
    """Inference and backward passes, with batches and shapes of their own, as servers share a model."""
    model, masks = model_and_masks(kind)
    fast = sparsify(model, masks, machine=sparse_machine).eval()
    xs = [torch.randn(samples, *KINDS[kind][1]) for samples in (1, 33, 120)]
    ahead = [copy.deepcopy(fast)(x).detach() for x in xs]

    def infer(i: int) -> Callable[[], bool]:
        def once() -> bool:
            with torch.no_grad():
                return torch.allclose(fast(xs[i]), ahead[i], rtol=1e-4, atol=1e-5)

        return once

    def gradients(i: int) -> Callable[[], bool]:
        def found() -> Tensor:
            x = xs[i].clone().requires_grad_()
            return torch.autograd.grad(fast(x).square().sum(), x)[0]

        right = found()
        return lambda: torch.equal(found(), right)

    assert together(infer(0), infer(1), gradients(2), gradients(1)) == [0, 0, 0, 0]
