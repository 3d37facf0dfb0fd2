"""What gates cost, and who trains them: the price's gradient joins the loss's before the step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate_cases import Free, Scale, gated, gates
from online_cases import batch, mlp, weights
from secateur import Gate, Pruner, SecateurError, methods


def _expected_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Of loss + penalty, in one backward of a copy."""
    twin = copy.deepcopy(model)
    loss = F.cross_entropy(twin(batch(0)[0]), batch(0)[1])
    for name, gate in gates(twin).items():
        loss = loss + gate.penalty(twin.get_parameter(name))
    names = dict(twin.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))


def _moved(model: nn.Module, before: dict[str, Tensor], lr: float) -> dict[str, Tensor]:
    return {name: (before[name] - p.detach()) / lr for name, p in model.named_parameters()}


@pytest.mark.parametrize("gate", [Scale, Free])
@pytest.mark.parametrize("made", ["before", "after", "adopted"])
def test_one_step_descends_the_loss_and_the_price_together(gate: type[Gate], made: str) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, gated(gate))
    if made == "after":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if made == "adopted":
        pruner.adopt(optimizer)
    before, wanted = weights(model), _expected_gradients(model)
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    optimizer.step()
    for name, moved in _moved(model, before, 0.1).items():
        torch.testing.assert_close(moved, wanted[name], msg=name)


@pytest.mark.parametrize("gates_first", [False, True])
def test_gates_with_an_optimizer_of_their_own_pay_their_part_at_its_step(gates_first: bool) -> None:
    """Weights and gates each descend loss and price; the second to step sees the price that the first one left."""
    model = mlp()
    early = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, gated(Scale))
    late = torch.optim.SGD(pruner.parameters(), lr=0.1)
    before = weights(model)
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    of_loss = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for optimizer in [late, early] if gates_first else [early, late]:
        price = torch.stack([gate.penalty(model.get_parameter(name)) for name, gate in gates(model).items()]).sum()
        names = {n: p for n, p in model.named_parameters() if ("gate" in n) == (optimizer is late)}
        grads = torch.autograd.grad(price, list(names.values()), allow_unused=True)
        optimizer.step()
        for (name, parameter), grad in zip(names.items(), grads, strict=True):
            wanted = of_loss[name] + (0 if grad is None else grad)
            torch.testing.assert_close((before[name] - parameter.detach()) / 0.1, wanted, msg=name)
    assert pruner.step == 1


def test_gates_of_layers_with_optimizers_of_their_own() -> None:
    model = mlp()
    pruner = Pruner(model, gated(Scale))
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]  # gates are among them
    before, wanted = weights(model), _expected_gradients(model)
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    for optimizer in optimizers:
        optimizer.step()
    for name, moved in _moved(model, before, 0.1).items():
        torch.testing.assert_close(moved, wanted[name], msg=name)
    assert pruner.step == 1


@pytest.mark.parametrize("fused", [False, True])
def test_the_price_is_not_scaled_with_the_loss(fused: bool) -> None:
    model = mlp()
    Pruner(model, gated(Scale))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    before, wanted = weights(model), _expected_gradients(model)
    scaler.scale(F.cross_entropy(model(batch(0)[0]), batch(0)[1])).backward()
    scaler.step(optimizer)
    for name, moved in _moved(model, before, 0.1).items():
        torch.testing.assert_close(moved, wanted[name], msg=name)


def test_a_closure_would_lose_the_penalty_and_is_refused() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    inputs, targets = torch.randn(8, 6), torch.randint(3, (8,))
    with Pruner(model, methods.l0()):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            return loss

        with pytest.raises(SecateurError, match=r"HardConcrete acts between backward and the optimizer's step"):
            optimizer.step(closure)
