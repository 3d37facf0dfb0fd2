"""sparsify and densify: same function, fewer parameters, ordinary torch in every other respect."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, hold
from secateur.holding import held
from secateur.sparse import Choice, Machine, SparseLinear, densify, report_of, sparsify
from secateur.sparse.layers import OneDnnLinear, onednn_available
from secateur.sparse.measured import BreakEven


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5)
    )


class Branching(nn.Module):
    """Not a Sequential: two linear layers on the same input, views in between."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(12, 8), nn.Linear(12, 8, bias=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.tanh(self.left(x)) * self.right(x)
        return self.head(both.view(-1, 2, 4).flatten(1))


def masks_of(model: nn.Module, density: float = 0.3) -> Masks:
    generator = torch.Generator().manual_seed(3)
    shapes = {n: p.shape for n, p in model.named_parameters() if n.endswith("weight")}
    return Masks({n: torch.rand(shape, generator=generator) < density for n, shape in shapes.items()})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, features: int) -> None:
    generator = torch.Generator().manual_seed(4)
    for _ in range(steps):
        x = torch.randn(24, features, generator=generator)
        y = torch.randint(0, 3, (24,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize(("build", "shape"), [(mlp, (7, 4, 5)), (Branching, (7, 12))])
def test_same_outputs_and_gradients_as_the_masked_model(
    build: Callable[[], nn.Module], shape: tuple[int, ...], sparse_machine: Machine, generator: torch.Generator
) -> None:
    model = build().eval()
    masks = masks_of(model)
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    x = torch.randn(shape, generator=generator)
    torch.testing.assert_close(fast(x), model(x))
    model(x).square().sum().backward()
    fast(x).square().sum().backward()
    plain = dict(model.named_parameters())
    for name, module in fast.named_modules():
        if isinstance(module, SparseLinear):
            torch.testing.assert_close(module.values.grad, module.plan.gather(plain[f"{name}.weight"].grad))  # type: ignore[arg-type]


def test_parameters_and_optimizer_state_shrink(sparse_machine: Machine) -> None:
    model = mlp()
    masks = masks_of(model, 0.05)
    fast = sparsify(model, masks, machine=sparse_machine)
    biases = 30 + 16 + 5
    assert sum(p.numel() for p in fast.parameters()) == masks.kept + biases
    optimizer = torch.optim.Adam(fast.parameters())
    train(fast, optimizer, 1, 20)
    moments = sum(s[k].numel() for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq"))
    assert moments == 2 * (masks.kept + biases)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-3),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "asgd": lambda p: torch.optim.ASGD(p, lr=1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_trains_as_the_held_model_does_under_every_elementwise_optimizer(name: str, sparse_machine: Machine) -> None:
    model = Branching()
    masks = masks_of(model, 0.5)
    fast = sparsify(model, masks, machine=sparse_machine)
    hold(model, masks)
    train(model, OPTIMIZERS[name](model.parameters()), 20, 12)
    train(fast, OPTIMIZERS[name](fast.parameters()), 20, 12)
    for key, value in densify(fast).state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-3, atol=1e-4)


def test_state_dict_is_that_of_the_dense_model(sparse_machine: Machine) -> None:
    model = mlp()
    masks = masks_of(model)
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    assert list(fast.state_dict()) == list(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(fast.state_dict()[key], value)
    other = mlp()
    masks.apply_(other)
    fast.load_state_dict(other.state_dict())
    assert all(torch.equal(v, fast.state_dict()[k]) for k, v in other.state_dict().items())
    model.load_state_dict(fast.state_dict())


def test_loading_refuses_weights_that_have_no_place(sparse_machine: Machine) -> None:
    model = mlp()
    fast = sparsify(model, masks_of(model), machine=sparse_machine)
    before = copy.deepcopy(fast.state_dict())
    with pytest.raises(RuntimeError, match=r"1\.weight has \d+ non-zero weights where the mask of this layer has none"):
        fast.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        fast.load_state_dict({k: v for k, v in before.items() if k != "1.weight"})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        fast.load_state_dict(before | {"1.values": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        fast.load_state_dict(before | {"1.weight": torch.zeros(2, 2)})


def test_densify_is_the_inverse_bit_for_bit(sparse_machine: Machine) -> None:
    model = mlp()
    model[3].bias.requires_grad_(False)  # type: ignore[union-attr]
    masks = masks_of(model)
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    back = densify(fast)
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    assert [(n, p.requires_grad) for n, p in back.named_parameters()] == [
        (n, p.requires_grad) for n, p in model.named_parameters()
    ]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, back.get_parameter(name))


def test_a_bare_linear_layer(sparse_machine: Machine, generator: torch.Generator) -> None:
    layer = nn.Linear(6, 4)
    masks = masks_of(layer)
    masks.apply_(layer)
    fast = sparsify(layer, masks, machine=sparse_machine)
    x = torch.randn(3, 2, 6, generator=generator)
    torch.testing.assert_close(fast(x), layer(x))
    assert torch.equal(densify(fast).weight, layer.weight)  # type: ignore[arg-type]


def test_the_model_passed_in_is_left_alone(sparse_machine: Machine) -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    fast = sparsify(model, masks_of(model), machine=sparse_machine)
    train(fast.train(), torch.optim.SGD(fast.parameters(), lr=1.0), 3, 20)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert type(model) is nn.Sequential


def test_deepcopy_and_pickle(sparse_machine: Machine, generator: torch.Generator) -> None:
    fast = sparsify(mlp(), masks_of(mlp()), machine=sparse_machine).eval()
    x = torch.randn(5, 20, generator=generator)
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(twin(x), fast(x))
        assert str(report_of(twin)) == str(report_of(fast))
        train(twin.train(), torch.optim.SGD(twin.parameters(), lr=0.1), 2, 20)
        assert not torch.equal(twin.eval()(x), fast(x))


def test_dropout_in_a_chain_follows_train_and_eval(sparse_machine: Machine, generator: torch.Generator) -> None:
    model = mlp()
    fast = sparsify(model, masks_of(model, 0.9), machine=Machine("", False, (BreakEven(64, 128, 1.0),)))
    x = torch.randn(50, 20, generator=generator)
    assert torch.equal(fast.eval()(x), fast(x))
    fast.train()
    assert not torch.equal(fast(x), fast(x))


def test_hooks_on_inner_layers_are_called(sparse_machine: Machine, generator: torch.Generator) -> None:
    fast = sparsify(mlp(), masks_of(mlp()), machine=sparse_machine).eval()
    x = torch.randn(5, 20, generator=generator)
    want = fast(x)
    seen: list[torch.Size] = []
    fast[2].register_forward_hook(lambda _m, _i, y: seen.append(y.shape))  # type: ignore[operator,index]
    torch.testing.assert_close(fast(x), want)
    assert seen == [(5, 30)]


def test_threads_share_a_model(sparse_machine: Machine, generator: torch.Generator) -> None:
    fast = sparsify(mlp(), masks_of(mlp()), machine=sparse_machine).eval()
    inputs = [torch.randn(n, 20, generator=generator) for n in (3, 40, 129, 17)]
    with torch.no_grad():
        want = [fast(x) for x in inputs]
    found: dict[tuple[int, int], Tensor] = {}

    def work(thread: int) -> None:
        torch.set_num_threads(1)
        with torch.no_grad():
            for repeat in range(20):
                for i, x in enumerate(inputs):
                    found[thread * 20 + repeat, i] = fast(x)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 320
    for (_, i), y in found.items():
        torch.testing.assert_close(y, want[i])


def test_report_says_what_was_chosen_and_why() -> None:
    model = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100))
    generator = torch.Generator().manual_seed(0)
    mask = {f"{i}.weight": torch.rand(100, 100, generator=generator).argsort(1) < n for i, n in ((0, 31), (2, 5))}
    fast = sparsify(model, Masks(mask), machine=Machine("", False, (BreakEven(64, 128, 0.27),)))
    assert str(report_of(fast)).splitlines() == [
        "0.weight [100 × 100]: dense kept: density 31 % is above break-even 27 %",
        "2.weight [100 × 100]: sparse: density 5 % is below break-even 27 %",
        "4.weight [100 × 100]: untouched: it has no mask",
        "NOTE surviving values are vectors: weight decay for `ndim >= 2` skips them; see secateur.sparse.dense_shapes",
    ]
    # Above the break-even as well only the surviving weights are stored, and so held.
    assert [layer.held for layer in report_of(fast).layers] == [True, True, False]
    assert fast[0].values.numel() == 3100  # type: ignore[index,union-attr]
    x = torch.randn(6, 100, generator=generator)
    torch.testing.assert_close(fast(x), densify(fast)(x))
    with pytest.raises(ValueError, match="was not made by"):
        report_of(densify(fast))


@pytest.mark.skipif(not onednn_available(), reason="torch without oneDNN")
def test_dense_layers_go_through_onednn_where_it_is_faster(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(80, 70), nn.ReLU(), nn.Linear(70, 64))
    masks = Masks({"0.weight": torch.rand(70, 80, generator=generator) < 0.5})
    masks.apply_(model)
    fast = sparsify(model, masks, machine=Machine("", True, (BreakEven(64, 128, 0.1),)))
    assert [layer.choice for layer in report_of(fast).layers] == [Choice.DENSE, Choice.DENSE]
    assert type(fast[2]) is OneDnnLinear  # type: ignore[index]
    x = torch.randn(9, 80, generator=generator)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    model(x).square().sum().backward()
    fast(x).square().sum().backward()
    torch.testing.assert_close(fast[2].weight.grad, model[2].weight.grad, rtol=1e-4, atol=1e-4)  # type: ignore[index,union-attr]
    assert [type(m) for m in densify(fast)] == [nn.Linear, nn.ReLU, nn.Linear]  # type: ignore[arg-type]


def test_a_held_model_can_be_sparsified(sparse_machine: Machine) -> None:
    model = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    masks = masks_of(model, 0.5)
    original = hold(model, masks)
    fast = sparsify(model, masks, machine=sparse_machine)
    # The norm's weight has no sparse form: it stays dense, and stays held.
    (kept,) = held(fast)
    assert list(kept.masks) == ["3.weight"]
    train(fast, torch.optim.SGD(fast.parameters(), lr=0.1, momentum=0.9), 3, 12)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 3, 12)
    original.check()
    kept.check()
    for key, value in fast.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compile_breaks_its_graph_at_the_kernels(sparse_machine: Machine, generator: torch.Generator) -> None:
    fast = sparsify(mlp(), masks_of(mlp()), machine=sparse_machine).eval()
    x = torch.randn(6, 20, generator=generator)
    compiled = torch.compile(fast, backend="eager")
    torch.testing.assert_close(compiled(x), fast(x))
    compiled(x).sum().backward()
    assert fast[1].values.grad is not None  # type: ignore[index,union-attr]
