"""The gradients that growth asks for, of a compiled step: also of units from which nothing leads on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from changing_cases import chain
from secateur import Masks, Pruner, methods
from secateur._base import door
from secateur.sparse import compile_step

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")


def masks_of(idle: bool) -> Masks:
    generator = torch.Generator().manual_seed(3)
    shapes = {f"{2 * i}.weight": shape for i, shape in enumerate([(30, 40), (20, 30), (5, 20)])}
    bits = {name: torch.rand(shape, generator=generator) < 0.4 for name, shape in shapes.items()}
    if idle:
        bits["2.weight"][:, [2, 7]] = False  # units 2 and 7 are read by nobody, and 7 reads nothing
        bits["0.weight"][7] = False
        bits["4.weight"][:, 11] = False
    return Masks(bits)


@pytest.mark.parametrize("idle", [False, True])
def test_they_are_those_of_autograd_in_float64(idle: bool) -> None:
    torch.manual_seed(0)
    model, masks = chain(), masks_of(idle)
    masks.apply_(model)
    x, y = torch.randn(50, 40), torch.randint(0, 5, (50,))
    exact: Any = copy.deepcopy(model).double()
    cross_entropy(exact(x.double()), y).backward()
    optimizer = SGD(model.parameters(), lr=0.1)
    step: Any = compile_step(model, masks, cross_entropy, optimizer)
    wanted = {id(parameter) for parameter in model.parameters()}
    found = step._dense_gradients(x, y, wanted)
    for parameter, twin in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(found[id(parameter)].double(), twin.grad, rtol=1e-5, atol=1e-7)


def test_a_change_with_idle_units_is_the_ordinary_one_and_the_engine_takes_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trained(compiled: bool) -> tuple[Masks, nn.Module]:
        torch.manual_seed(0)
        model: Any = chain()
        plan = methods.rigl(density=0.1, until=9, every=3)
        pruner = Pruner(model, plan, generator=torch.Generator().manual_seed(1))
        assert not pruner.masks["2.weight"].any(0).all()  # so few weights leave some units unread
        optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        step: Any = compile_step(model, pruner.masks, cross_entropy, optimizer) if compiled else None
        if compiled:
            monkeypatch.setattr(type(step), "_step_by_torch", None)
        generator = torch.Generator().manual_seed(2)
        for _ in range(8):
            x, y = torch.randn(33, 40, generator=generator), torch.randint(0, 5, (33,), generator=generator)
            if compiled:
                step(x, y)
                continue
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
        return pruner.finish(), model

    (one, ours), (two, theirs) = trained(True), trained(False)
    assert one == two
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-4, atol=1e-6)
