"""sparsify on convolutional networks: an ordinary loop, evaluation with folded normalisation, and the way back."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW

from secateur import Masks, hold
from secateur._base import door
from secateur.sparse import SparseConv1d, SparseConv2d, SparseLinear, densify, report_of, sparsify
from secateur.sparse.measured import BreakEven, Machine

needs_kernels = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")
SHAPE = (3, 8, 8)


def network(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, bias=bias), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(8, 20, bias=bias), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.0), nn.Linear(20, 10),
    )  # fmt: skip


def masks_of(model: nn.Module, density: float = 0.3) -> Masks:
    generator = torch.Generator().manual_seed(2)
    weights = {n: p for n, p in model.named_parameters() if p.dim() >= 2}
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in weights.items()})


def inputs(batch: int, *shape: int, seed: int = 3) -> Tensor:
    return torch.randn(batch, *(shape or SHAPE), generator=torch.Generator().manual_seed(seed))


def labels(batch: int) -> Tensor:
    return torch.randint(0, 10, (batch,), generator=torch.Generator().manual_seed(4))


def settle(model: nn.Module) -> None:
    """Give running statistics and γ, β values that are not the first ones."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.uniform_(-1, 1)
        for seed in range(3):
            model.train()(inputs(32, seed=seed))


@needs_kernels
@pytest.mark.parametrize("bias", [False, True])
def test_an_ordinary_loop_trains_as_the_held_model_does(sparse_machine: Machine, bias: bool) -> None:
    """Weights, γ, β, running statistics and the count of batches, after steps of AdamW with odd batches."""
    model = network(bias)
    masks = masks_of(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    masks.apply_(model)
    ours, theirs = SGD(fast.parameters(), lr=0.02, momentum=0.9), SGD(model.parameters(), lr=0.02, momentum=0.9)
    with hold(model, masks):
        for i, batch in enumerate((17, 32, 5) * 5):
            x, targets = inputs(batch, seed=i), labels(batch)
            for net, optimizer in ((fast, ours), (model, theirs)):
                optimizer.zero_grad()
                cross_entropy(net(x), targets).backward()
                optimizer.step()
    for (name, a), b in zip(fast.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@needs_kernels
@pytest.mark.parametrize("batch", [1, 7, 40])
def test_evaluation_folds_normalisation_and_gives_the_dense_output(sparse_machine: Machine, batch: int) -> None:
    """Folded anew when a weight or a statistic changes; with gradients nothing is folded."""
    model = network()
    masks = masks_of(model)
    masks.apply_(model)
    settle(model)
    fast = sparsify(model.eval(), masks, machine=sparse_machine)
    x = inputs(batch)
    for change in range(3):
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
            for net in (model, fast):
                first = net.get_submodule("0").get_parameter("bias")
                first.add_(0.1 * change)
                net.get_submodule("1").get_buffer("running_mean").sub_(0.2)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


@needs_kernels
def test_a_gradient_of_the_input_comes_back() -> None:
    """Through the whole run, in training and in evaluation mode."""
    model = network()
    masks = masks_of(model)
    masks.apply_(model)
    settle(model)
    machine = Machine("always", False, (BreakEven(64, 128, 1.1),), convolution=1.1)
    fast = sparsify(model, masks, machine=machine)
    for net in (model, fast):
        net.train()
    for training in (True, False):
        found = []
        for net in (model.train(training), fast.train(training)):
            x = inputs(9).requires_grad_()
            net(x).square().sum().backward()
            assert x.grad is not None
            found.append(x.grad)
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


def test_the_report_says_what_was_chosen_and_why(sparse_machine: Machine) -> None:
    """A line for each layer; biases that are masked keep their layer dense."""
    model = network()
    masks = Masks(
        {**masks_of(model), "3.weight": torch.arange(576).view(8, 8, 3, 3) < 500, "6.bias": torch.ones(8) > 0}
    )
    fast = sparsify(model, masks, machine=sparse_machine)
    lines = str(report_of(fast)).split("\n")
    assert lines[0] == "0.weight [8 × 3 × 3 × 3]: sparse: density 31 % is below break-even 35 % of convolutions"
    assert lines[1] == (
        "3.weight [8 × 8 × 3 × 3]: sparse: density 87 % is above break-even 35 % of convolutions, "
        "but its neighbours are sparse and stay in the kernels' layout"
    )
    assert lines[2] == "6.weight [8 × 4 × 3 × 3]: untouched: its bias is masked too"
    assert report_of(fast).not_held == ("6.weight",)
    alone = sparsify(nn.Conv1d(2, 2, 3), Masks({"weight": torch.arange(12).view(2, 2, 3) > 2}), machine=sparse_machine)
    want = "weight [2 × 2 × 3]: dense kept: density 75 % is above break-even 35 % of convolutions"
    assert str(report_of(alone).layers[0]) == want


def functions(y: Tensor) -> list[str]:
    """Name the autograd functions between an output and the parameters."""
    found, todo = [], [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and "AccumulateGrad" not in node.name():
            found.append(node.name())
            todo += [before for before, _ in node.next_functions if before not in todo]
    return found


@needs_kernels
def test_one_call_runs_the_whole_network(sparse_machine: Machine) -> None:
    """From the first convolution to the last layer; a hook or a dense layer parts the run."""
    model = network()
    masks = masks_of(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    y = fast(inputs(4))
    assert y.shape == (4, 10) and len(functions(y)) == 1
    seen: list[Tensor] = []
    dense = densify(fast).eval()
    with fast[5].register_forward_hook(lambda _, __, output: seen.append(output)):
        y = fast.eval()(inputs(4))
    torch.testing.assert_close(y, dense(inputs(4)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen, [dense[:6](inputs(4))], rtol=1e-4, atol=1e-4)
    pool, *runs = sorted(functions(y), key=lambda name: "Pool" not in name)
    assert "Pool" in pool and len(runs) == 2


@needs_kernels
def test_evaluation_multiplies_by_the_folded_weights() -> None:
    """Observed where it matters: w · x overflows, and the weight scaled by the normalisation does not."""
    machine = Machine("always", False, (BreakEven(64, 128, 1.1),), convolution=1.1)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)).eval()
    fast = sparsify(model, Masks({"0.weight": torch.tensor([True, False]).view(2, 1, 1, 1)}), machine=machine)
    fast.load_state_dict(
        fast.state_dict()
        | {"0.weight": torch.tensor([1e30, 0.0]).view(2, 1, 1, 1), "1.running_var": torch.full((2,), 1e38)}
    )
    x = torch.full((3, 1, 4, 4), 1e20)
    assert not densify(fast)(x).isfinite().all() and not fast(x).isfinite().all()
    with torch.no_grad():
        assert fast(x).isfinite().all()


def test_dense_layers_come_back_bit_for_bit(sparse_machine: Machine) -> None:
    """Also from a model that has folded its normalisation in the meantime."""
    model = network().eval()
    masks = masks_of(model)
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    with torch.no_grad():
        fast(inputs(3))
    back = densify(fast)
    assert repr(back) == repr(model) and type(back) is nn.Sequential
    for (name, a), b in zip(back.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(back(inputs(3)), model(inputs(3)))


def test_copies_pickles_and_dense_states(sparse_machine: Machine) -> None:
    """A copy computes the same and shares nothing; a dense state_dict goes in."""
    model = network()
    masks = masks_of(model)
    fast = sparsify(model, masks, machine=sparse_machine).eval()
    with torch.no_grad():
        y = fast(inputs(3))
        for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            torch.testing.assert_close(other(inputs(3)), y)
    file = io.BytesIO()
    torch.save(fast.state_dict(), file)
    file.seek(0)
    second = sparsify(network(), masks, machine=sparse_machine).eval()
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(second(inputs(3)), y)
    masks.apply_(model)
    model.load_state_dict(fast.state_dict())


@needs_kernels
def test_threads_may_share_a_model(sparse_machine: Machine) -> None:
    """Workspaces are not shared between calls under way."""
    model = network()
    fast = sparsify(model, masks_of(model), machine=sparse_machine).eval()
    with torch.no_grad():
        expected = [fast(inputs(8, seed=i)) for i in range(4)]
        wrong: list[int] = []

        def work(i: int) -> None:
            with torch.no_grad():
                for _ in range(30):
                    if not torch.equal(fast(inputs(8, seed=i)), expected[i]):
                        wrong.append(i)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@needs_kernels
def test_two_forwards_before_their_backwards(sparse_machine: Machine) -> None:
    """Each keeps its own activations."""
    model = network().eval()
    masks = masks_of(model)
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    for net in (model, fast):
        first, second = net(inputs(4, seed=1)), net(inputs(4, seed=2))
        first.square().sum().backward()
        second.square().sum().backward()
    back = {n: p.grad for n, p in model.named_parameters()}
    for name, module in fast.named_modules():
        if isinstance(module, SparseConv2d | SparseLinear):
            dense = back[f"{name}.weight"]
            assert dense is not None
            torch.testing.assert_close(module.values.grad, module.plan.gather(dense), rtol=1e-4, atol=1e-4)


def test_sequences_and_other_kinds_of_network(sparse_machine: Machine) -> None:
    """One-dimensional convolutions; and layers that are not in a Sequential."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(3, 6, 5, padding=2), nn.Conv1d(6, 6, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.second(torch.relu(self.first(x))))

    torch.manual_seed(0)
    for model in (nn.Sequential(nn.Conv1d(3, 6, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 6, 3)), Own()):
        masks = masks_of(model)
        masks.apply_(model)
        fast = sparsify(model, masks, machine=sparse_machine)
        assert sum(isinstance(m, SparseConv1d) for m in fast.modules()) == 2
        torch.testing.assert_close(fast(inputs(5, 3, 20)), model(inputs(5, 3, 20)), rtol=1e-4, atol=1e-5)


@needs_kernels
def test_what_torch_refuses_is_refused_by_torch(sparse_machine: Machine) -> None:
    """Layers that do not fit the image run one by one until one of them says so."""
    model = network()
    fast = sparsify(model, masks_of(model), machine=sparse_machine)
    with pytest.raises((RuntimeError, ValueError)):
        fast(inputs(2, 3, 20, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert copy.deepcopy(fast).double()(inputs(2).double()).dtype is torch.float64
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        fast(inputs(1))
    AdamW(fast.parameters())
