"""Trained quantisation: gradients summed over clusters, zeros to the bit, few values, in whatever loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from gate_cases import gates
from online_cases import MakeOptimizer, adam, batch, mlp, sgd, weights
from online_cases import step as train
from secateur import Masks, Pruner, hold, methods, prune
from secateur._base.errors import SecateurError
from secateur.coding import density, shared_values


def _pruned(share: float = 0.4) -> tuple[nn.Sequential, Masks]:
    model = mlp()
    return model, prune(model, methods.magnitude(share))


def test_the_gradient_of_a_value_is_the_sum_over_its_weights() -> None:
    model, _ = _pruned()
    dense = {name: value.requires_grad_() for name, value in weights(model).items()}
    pruner = Pruner(model, methods.trained_quantisation(steps=5, bits=2))
    shared = {}
    for name, gate in gates(model).items():
        book, codes = gate.codebook.detach(), gate.codes
        found = shared_values(dense[name], dense[name] != 0, 2)
        assert torch.equal(book, found.codebook) and len(book) <= 4
        shared[name] = found.weight(dense[name].detach() != 0).requires_grad_()
        assert torch.equal((codes != 0), dense[name].detach() != 0)
    inputs, targets = batch(0)
    loss = F.cross_entropy(functional_call(mlp(), dense | shared, inputs), targets)
    grads = dict(zip(shared, torch.autograd.grad(loss, list(shared.values())), strict=True))
    mine = F.cross_entropy(model(inputs), targets)
    torch.testing.assert_close(mine, loss)
    mine.backward()
    for name, gate in gates(model).items():
        expected = [float(grads[name][gate.codes == k + 1].sum()) for k in range(len(gate.codebook))]
        assert gate.codebook.grad.tolist() == pytest.approx(expected, rel=1e-9)
    pruner.release()


@pytest.mark.parametrize("make", [sgd, adam])
def test_zeros_stay_to_the_bit_and_few_values_are_left(make: MakeOptimizer) -> None:
    model, masks = _pruned()
    before, start = weights(model), {}
    pruner = Pruner(model, methods.trained_quantisation(steps=12, bits=3, rate=0.01))
    optimizer = make(model)
    pruner.adopt(optimizer)
    for name, gate in gates(model).items():
        start[name] = gate.codebook.detach().clone()
    for number in range(12):
        train(model, optimizer, number)
        for name, gate in gates(model).items():
            used = gate(model.get_parameter(name)).detach()
            assert bool((used[~masks[name]] == 0).all())
    codes = {name: gate.codes.clone() for name, gate in gates(model).items()}
    books = {name: gate.codebook.detach().clone() for name, gate in gates(model).items()}
    outputs = model(batch(0)[0])
    assert pruner.finish() == masks
    assert torch.equal(model(batch(0)[0]), outputs)
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        assert not torch.equal(start[name], books[name])  # they were trained
        assert bool((weight[~mask] == 0).all()) and len(weight[mask].unique()) <= 8
        assert torch.equal(weight[mask], books[name][codes[name][mask].long() - 1])
        again = shared_values(weight, weight != 0, 3)  # what an archive finds: without loss
        assert torch.equal(again.weight(mask), weight)
    assert not torch.equal(model.get_parameter("0.bias"), before["0.bias"])
    with hold(model, masks):  # nothing of the gates is left that would be in the way
        pass


def test_bits_by_layer_leave_others_alone() -> None:
    model, _ = _pruned()
    before = weights(model)
    pruner = Pruner(model, methods.trained_quantisation(steps=3, bits={"0.*": 1}, rate=0.1))
    optimizer = sgd(model)
    for number in range(3):
        train(model, optimizer, number)
    pruner.finish()
    weight = model.get_parameter("0.weight").detach()
    assert len(weight[weight != 0].unique()) == 2
    other = model.get_parameter("2.weight").detach()
    assert len(other[other != 0].unique()) > 8 and not torch.equal(other, before["2.weight"])


def test_a_loss_falls_by_training_the_values_alone() -> None:
    model, _ = _pruned()
    inputs, targets = batch(0)
    pruner = Pruner(model, methods.trained_quantisation(steps=60, bits=2, rate=0.02, init=density))
    first = F.cross_entropy(model(inputs), targets).item()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # the values have a rate of their own
    for _ in range(60):
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert F.cross_entropy(model(inputs), targets).item() < 0.9 * first
    pruner.finish()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"bits": 0}, "bits"), ({"bits": {"fc*": 17}}, "bits"), ({"rate": -1.0}, "rate"), ({"momentum": 1.0}, "momentum")],
)
def test_settings_out_of_range_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(SecateurError, match=said):
        methods.trained_quantisation(steps=3, **options)  # type: ignore[arg-type]


def test_bits_of_no_layer_are_refused_and_nothing_is_left_on_the_model() -> None:
    model = mlp()
    keys = list(model.state_dict())
    with pytest.raises(SecateurError, match="conv"):
        Pruner(model, methods.trained_quantisation(steps=3, bits={"conv*": 4}))
    assert list(model.state_dict()) == keys
