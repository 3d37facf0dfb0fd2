"""A whole model in one call: what it computes, and when the model's own forward runs instead."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, densify, sparsify
from secateur._base import door
from secateur.sparse.layers import in_one_call
from secateur.sparse.measured import BreakEven, Machine

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

ALWAYS = Machine("always sparse", False, (BreakEven(64, 128, 2.0),), convolution=2.0)


class Block(nn.Module):
    """A residual block whose shortcut is a convolution, or the input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 1), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        changes = stride > 1 or inputs != outputs
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        self.shortcut = self.shortcut if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


class Net(nn.Module):
    """Residual blocks, sums in both orders, both poolings, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn, self.pool = nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1))
        self.last, self.mean = nn.Conv2d(16, 16, (1, 3), padding=(0, 1), groups=2), nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Linear(16, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.pool(torch.relu(self.bn(self.stem(x)))))
        z = self.last(y)
        y = z + y + z
        return self.fc2(torch.relu(self.fc1(self.mean(y).flatten(1))))


def made(density: float = 0.4, model: nn.Module | None = None) -> tuple[nn.Module, nn.Module]:
    """A trained model with zeros, and its sparse form in one call."""
    torch.manual_seed(int(100 * density))
    dense = Net() if model is None else model
    masks = Masks({n: torch.rand(p.shape) < density for n, p in dense.named_parameters() if p.dim() > 1})
    masks.apply_(dense)
    dense(torch.randn(9, 3, 29, 34))  # running statistics
    dense.eval()
    fast = in_one_call(sparsify(dense, masks, machine=ALWAYS), dense, torch.zeros(1, 3, 29, 34))
    assert fast is not None
    return dense, fast


def runs(model: nn.Module) -> int:
    """How many networks were compiled, one for each shape and batch."""
    forward: Any = model.__dict__["forward"]
    return len(forward._runs)


def check(fast: nn.Module, dense: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        want = copy.deepcopy(dense).double()(x.double())
        torch.testing.assert_close(fast(x).double(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_it_computes_what_the_model_computes(density: float, threads: int) -> None:
    dense, fast = made(density)
    torch.set_num_threads(threads)
    try:
        for batch, height, width in ((1, 29, 34), (2, 29, 34), (7, 16, 17), (1, 65, 80), (15, 9, 9)):
            check(fast, dense, torch.randn(batch, 3, height, width))
            check(fast, dense, torch.randn(batch, width, height, 3).permute(0, 3, 2, 1))
    finally:
        torch.set_num_threads(1)
    assert runs(fast) == 5


def test_a_sum_is_not_joined_where_somebody_still_needs_what_is_added_to() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            b = self.b(a)
            s = a + b  # a is read again below
            c = self.c(s)
            return self.relu(s + c) + a

    dense, fast = made(0.5, Sums())
    check(fast, dense, torch.randn(2, 3, 29, 34))


def test_its_own_forward_runs_where_one_call_is_not_for() -> None:
    dense, fast = made()
    few, many = torch.randn(2, 3, 29, 34), torch.randn(17, 3, 29, 34)
    check(fast, dense, many)
    with torch.no_grad():
        assert torch.allclose(fast(x=few), fast(few), rtol=1e-4, atol=1e-5)
    known = runs(fast)
    fast(few).sum().backward()
    assert all(p.grad is not None for p in fast.parameters())
    seen: list[int] = []
    handle = fast.get_submodule("blocks.1").register_forward_hook(lambda *_: seen.append(1))
    check(fast, dense, few)
    assert seen == [1] and runs(fast) == known
    handle.remove()
    assert torch.equal(fast.train()(few), fast(few))  # the batch's own statistics
    assert not torch.allclose(fast.eval()(few), dense(few))  # which have moved the running ones


def test_weights_that_change_and_layers_that_are_replaced_are_seen() -> None:
    dense, fast = made()
    x = torch.randn(1, 3, 29, 34)
    check(fast, dense, x)
    with torch.no_grad():
        for model in (dense, fast):
            model.get_parameter("bn.bias").add_(1.0)
            model.get_buffer("blocks.1.bn2.running_mean").mul_(3.0)
    check(fast, dense, x)
    changed = Block(16, 16, 1).eval()
    for model in (dense, fast):
        model.get_submodule("blocks")._modules["2"] = changed
    check(fast, dense, x)
    assert runs(fast) == 1  # the program is that of other modules: the model's own forward runs


def test_an_option_of_a_normalisation_is_seen() -> None:
    dense, fast = made()
    x = torch.randn(1, 3, 29, 34)
    check(fast, dense, x)
    for model in (dense, fast):
        bn: Any = model.get_submodule("bn")
        bn.eps = 0.5
    check(fast, dense, x)


def test_copies_pickles_and_the_way_back() -> None:
    dense, fast = made()
    x = torch.randn(1, 3, 29, 34)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        check(other, dense, x)
        forward: Any = other.__dict__["forward"]
        assert forward.model is other and runs(other) == 1
        assert other.state_dict().keys() == dense.state_dict().keys()
    back = densify(fast)
    assert "forward" not in back.__dict__ and "forward" in fast.__dict__
    with torch.no_grad():
        assert torch.equal(back(x), dense(x))


def test_sparsify_offers_it_to_residual_networks_only_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(1, 3, 29, 34)
    masks = Masks({n: torch.rand(p.shape) < 0.3 for n, p in model.named_parameters() if p.dim() > 1})
    masks.apply_(model)
    told = [str(sparsify(model.train(mode), masks, example_inputs=x).sparse_report) for mode in (False, True)]
    assert ["in one call" in text for text in told] == [True, False]
