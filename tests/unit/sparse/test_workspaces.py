"""Memory that calls keep for the next one: bounded by the largest need, counted, and given back."""

from __future__ import annotations

import gc
import pickle
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from secateur import Masks
from secateur._base import door
from secateur.sparse import Machine, SparseConv2d, compile_step, release_workspaces, sparsify, workspace_bytes
from secateur.sparse.calls import SHAPES, sparse_chain
from secateur.sparse.layers import NetworkSequential, SparseLinear
from secateur.sparse.plans import plan_layer

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    gc.collect()
    release_workspaces()
    assert workspace_bytes() == 0
    yield
    release_workspaces()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


def masks_of(model: nn.Module) -> Masks:
    return Masks({n: torch.rand(p.shape) < 0.2 for n, p in model.named_parameters() if p.dim() > 1})


def sizes(count: int) -> list[tuple[int, int]]:
    return [(4 + i % 10, 4 + i // 10) for i in range(count)]


def kept_by_one_call(fast: nn.Module, x: torch.Tensor) -> int:
    release_workspaces()
    fast(x)
    return workspace_bytes()


@pytest.mark.parametrize("what", ["sizes", "batches"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_a_hundred_shapes_need_no_more_than_the_largest(
    what: str, gradients: bool, alone: bool, sparse_machine: Machine
) -> None:
    """A single convolution, and a whole Sequential; two workspaces, since an old graph may still be alive."""
    model = nn.Conv2d(3, 8, 3, padding=1) if alone else network()
    fast = sparsify(model, masks_of(model), machine=sparse_machine).eval()
    assert isinstance(fast, SparseConv2d | NetworkSequential)
    shapes = [(2, *size) for size in sizes(100)] if what == "sizes" else [(1 + i, 5, 5) for i in range(100)]
    with torch.set_grad_enabled(gradients):
        largest = max(kept_by_one_call(fast, torch.randn(n, 3, h, w)) for n, h, w in (shapes[0], shapes[-1]))
        for n, h, w in shapes:
            fast(torch.randn(n, 3, h, w))
    assert 0 < workspace_bytes() <= 2 * largest
    caches = [v for k, v in vars(fast).items() if k in ("_networks", "_runs")]
    assert caches and all(len(cache) <= SHAPES for cache in caches)


@pytest.mark.parametrize("again", [False, True])
def test_shapes_in_turn_give_what_they_give_alone(again: bool, sparse_machine: Machine) -> None:
    """Borders of zeros must be zero, whatever another shape has left there: both passes."""
    model = network()
    masks = masks_of(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    masks.apply_(model)
    fast.eval(), model.eval()
    shapes = [(20, 9, 7), (3, 4, 12), (33, 5, 5), (1, 8, 8), (17, 12, 3)]
    for n, h, w in shapes * (2 if again else 1):
        x = torch.randn(n, 3, h, w)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
        mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        fast(mine).square().sum().backward()
        model(theirs).square().sum().backward()
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3)


def test_memory_goes_with_the_model_at_once(sparse_machine: Machine) -> None:
    """Without the garbage collector: nothing that is kept refers back to the layer."""
    gc.disable()
    try:
        for model in (network(), nn.Conv2d(3, 8, 3)):
            fast = sparsify(model, masks_of(model), machine=sparse_machine)
            fast(torch.randn(5, 3, 8, 8)).sum().backward()
            release_scratch()
            assert workspace_bytes() > 0
            del fast
            assert workspace_bytes() == 0
    finally:
        gc.enable()


def release_scratch() -> None:
    """Give back what belongs to this thread, so that only what belongs to models is counted."""
    assert door.native is not None
    door.native.release_scratch(torch.get_num_threads())


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0][:, -1])


@pytest.mark.parametrize("kind", ["convolutional", "recurrent"])
def test_a_step_keeps_its_largest_need_until_it_is_released(kind: str) -> None:
    model, shape = (network(), (3, 6, 6)) if kind == "convolutional" else (Last(), (9, 6))
    step = compile_step(model, masks_of(model), cross_entropy, SGD(model.parameters(), lr=0.0))

    def take(samples: int) -> float:
        return step(torch.ones(samples, *shape), torch.zeros(samples, dtype=torch.long))

    first = take(40)
    largest = workspace_bytes()
    assert largest > 0
    for samples in range(2, 40):
        take(samples)
    assert workspace_bytes() == largest
    assert release_workspaces() == largest and workspace_bytes() == 0
    assert take(40) == first and workspace_bytes() == largest
    for samples in range(2, 40):
        step.predict(torch.ones(samples, *shape))
    assert workspace_bytes() <= 3 * largest  # two workspaces of `predict` beside that of the step


@pytest.mark.parametrize("kind", ["convolutional", "recurrent"])
def test_the_memory_of_a_step_goes_with_it(kind: str) -> None:
    model, shape = (network(), (3, 6, 6)) if kind == "convolutional" else (Last(), (9, 6))
    step = compile_step(model, masks_of(model), cross_entropy, SGD(model.parameters(), lr=0.0))
    step(torch.ones(8, *shape), torch.zeros(8, dtype=torch.long))
    release_scratch()
    assert workspace_bytes() > 0
    del step
    assert workspace_bytes() == 0


def test_a_step_keeps_networks_for_the_last_shapes_only() -> None:
    model = network()
    step = compile_step(model, masks_of(model), cross_entropy, SGD(model.parameters(), lr=0.0))
    y = torch.zeros(2, dtype=torch.long)
    found = {}
    for turn in range(2):
        for h, w in sizes(SHAPES + 4):
            loss = step(torch.ones(2, 3, h, w), y)
            assert found.setdefault((h, w), loss) == loss, turn
    assert len(step._networks) == SHAPES


def test_a_layer_that_changes_neighbours_keeps_few_chains() -> None:
    first = plan_layer(torch.ones(3, 4, dtype=torch.bool))
    x = torch.ones(2, 4)
    for rows in range(1, 30):
        second = plan_layer(torch.ones(rows, 3, dtype=torch.bool))
        y = sparse_chain(x, (first, second), (torch.ones(12), torch.ones(3 * rows)), (None, None))
        assert torch.equal(y, torch.full((2, rows), 12.0))
    assert len(first._chains) <= 8


def test_scratch_memory_of_linear_layers_belongs_to_the_thread(sparse_machine: Machine) -> None:
    layer = nn.Linear(64, 64)
    fast = sparsify(layer, Masks({"weight": torch.eye(64) > 0}), machine=sparse_machine)
    assert isinstance(fast, SparseLinear)
    seen = []

    def elsewhere() -> None:
        with torch.no_grad():
            fast(torch.ones(100, 64))
        seen.append(workspace_bytes())
        seen.append(release_workspaces())
        seen.append(workspace_bytes())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen[0] > 0 and seen[1:] == [seen[0], 0] and workspace_bytes() == 0


def test_workspaces_are_neither_copied_nor_pickled(sparse_machine: Machine) -> None:
    model = network()
    fast = sparsify(model, masks_of(model), machine=sparse_machine).eval()
    x = torch.randn(2, 3, 8, 8)
    want = fast(x)
    before = workspace_bytes()
    other = pickle.loads(pickle.dumps(fast))
    assert workspace_bytes() == before
    assert torch.equal(other(x), want)
