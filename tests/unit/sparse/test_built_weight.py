"""The dense weight of a sparse layer is for reading, and the shapes that rules of an optimizer go by."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, SecateurError
from secateur.sparse import Machine, dense_shapes, densify, sparsify


@pytest.fixture
def fast(sparse_machine: Machine) -> Any:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    return sparsify(model, Masks({"0.weight": torch.arange(24).view(4, 6) % 3 == 0}), machine=sparse_machine)


def add_to(weight: Tensor) -> None:
    weight += 1


def set_first(weight: Tensor) -> None:
    weight[0] = 0.0


WRITES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda w: w.mul_(2),
    "augmented": add_to,
    "item": set_first,
    "view": lambda w: w.t()[0].zero_(),
    "one of several views": lambda w: w.unbind()[1].zero_(),
    "data": lambda w: w.data.zero_(),
    "detached": lambda w: w.detach().fill_(1.0),
    "new data": lambda w: setattr(w, "data", torch.zeros(4, 6)),
    "out": lambda w: torch.add(w, 1, out=w),
    "foreach": lambda w: torch._foreach_mul_([w], 2.0),
    "init": lambda w: nn.init.xavier_uniform_(w),
    "init by keyword": lambda w: nn.init.kaiming_uniform_(w),
}


@pytest.mark.parametrize("how", WRITES)
def test_a_write_into_the_weight_is_refused_and_not_lost(how: str, fast: Any) -> None:
    before = fast[0].values.detach().clone()
    for weight in (fast[0].weight, fast.state_dict()["0.weight"], fast.state_dict(keep_vars=True)["0.weight"]):
        with torch.no_grad(), pytest.raises(SecateurError, match=r"SparseLinear\.weight is built .* would be lost"):
            WRITES[how](weight)
    assert torch.equal(fast[0].values, before)


def test_freezing_the_weight_is_refused(fast: Any) -> None:
    with pytest.raises(SecateurError, match="would be lost"):
        fast[0].weight.requires_grad_(False)
    fast[0].values.requires_grad_(False)  # this is how
    assert not fast[0].weight.requires_grad


def test_an_average_by_state_dicts_is_refused(sparse_machine: Machine) -> None:
    """`for e, m in zip(ema.state_dict().values(), model.state_dict().values()): e.copy_(…)`, of all kinds of layers."""
    cases = {"conv": (nn.Conv1d(2, 3, 2), "weight"), "lstm": (nn.LSTM(3, 2), "weight_hh_l0")}
    for model, name in cases.values():
        fast = sparsify(model, Masks({name: torch.rand(model.get_parameter(name).shape) < 0.2}), machine=sparse_machine)
        average = copy.deepcopy(fast)
        with pytest.raises(SecateurError, match=rf"{name} is built"):
            average.state_dict()[name].copy_(fast.state_dict()[name])
        fast.state_dict()[name].clone().mul_(2)  # a copy is a tensor of its own


def test_reading_is_as_of_any_tensor(fast: Any) -> None:
    weight = fast[0].weight
    assert torch.equal(weight, fast[0].plan.scatter(fast[0].values))
    for made in (weight + 1, weight.clone(), weight.abs(), weight.sum(), weight.half(), weight.contiguous().clone()):
        assert type(made) is Tensor
    weight.square().sum().backward()
    torch.testing.assert_close(fast[0].values.grad, 2 * fast[0].values)
    assert weight.detach().numpy().shape == (4, 6) and "Built" in repr(weight)


def by_torch_save(state: dict[str, Tensor]) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("through", [copy.deepcopy, by_torch_save, lambda state: pickle.loads(pickle.dumps(state))])
def test_a_state_dict_comes_back_as_ordinary_tensors(through: Callable[[Any], Any], fast: Any) -> None:
    state = fast.state_dict()
    back = through(state)
    assert {type(tensor) for tensor in back.values()} == {Tensor}
    assert all(torch.equal(back[name], state[name]) for name in state)
    back["0.weight"].zero_()  # free to be written


@pytest.mark.parametrize("assign", [False, True])
def test_a_dense_model_loads_it_and_trains(assign: bool, fast: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    model.load_state_dict(fast.state_dict(), assign=assign)
    torch.testing.assert_close(model(torch.ones(3, 6)), fast(torch.ones(3, 6)))
    before = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(3, 6)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin[0].weight) is nn.Parameter and torch.equal(twin[0].weight, model[0].weight)
        nn.init.zeros_(twin[0].weight)
    assert torch.equal(fast[0].weight, before)


def test_weights_written_through_data_are_folded_anew_by_eval(sparse_machine: Machine) -> None:
    """As averages are kept: `average.data.mul_(decay).add_(…)`. No version tells of it."""
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU())
    masks = Masks({"0.weight": torch.arange(24).view(3, 2, 2, 2) % 3 == 0})
    fast = sparsify(model, masks, machine=sparse_machine).eval()
    x = torch.randn(4, 2, 5, 5)
    with torch.no_grad():
        before = fast(x)
        for parameter in fast.parameters():
            parameter.data.mul_(1.5)
        after = fast.eval()(x)
        torch.testing.assert_close(after, densify(fast)(x))
    assert not torch.allclose(after, before, rtol=1e-2)


def test_dense_shapes_of_every_layer(sparse_machine: Machine) -> None:
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(6, 4),
            "conv": nn.Conv2d(2, 3, 2),
            "cell": nn.LSTM(3, 2, bidirectional=True),
            "plain": nn.Linear(4, 2),
            "norm": nn.BatchNorm1d(4),
        }
    )
    names = [name for name, p in model.named_parameters() if p.dim() > 1 and "plain" not in name]
    masks = Masks({name: torch.rand(model.get_parameter(name).shape) < 0.3 for name in names})
    fast = sparsify(model, masks, machine=sparse_machine)
    shapes = dense_shapes(fast)
    assert list(shapes) == [name for name, _ in fast.named_parameters()]
    for name, shape in shapes.items():
        assert shape == model.get_parameter(name.replace("values", "weight")).shape, name
    assert dense_shapes(model) == {name: p.shape for name, p in model.named_parameters()}


def test_weight_decay_by_dense_shape_trains_as_the_dense_model_does(sparse_machine: Machine) -> None:
    """By `ndim` the survivors would not decay at all."""
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    masks = Masks({"0.weight": torch.rand(4, 6) < 0.4, "2.weight": torch.rand(2, 4) < 0.5})
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)

    def decayed(net: nn.Module) -> torch.optim.Optimizer:
        shapes = dense_shapes(net)
        groups = [
            {
                "params": [p for n, p in net.named_parameters() if (len(shapes[n]) >= 2) is decays],
                "weight_decay": amount,
            }
            for decays, amount in ((True, 0.5), (False, 0.0))
        ]
        return torch.optim.SGD(groups, lr=0.1)

    for net in (model, fast):
        optimizer = decayed(net)
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)  # what remains is the decay
        optimizer.step()
    for name, tensor in fast.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name] * masks.get(name, torch.ones(())))
    assert fast.state_dict()["0.bias"].equal(model[0].bias)
