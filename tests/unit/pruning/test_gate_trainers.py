"""Gates with trainers of their own, gates that freeze their weight, and gates that choose what they stand on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate_cases import Scale, gated, gates
from online_cases import batch, mlp, same, weights
from penalty_cases import Scored, relaxed
from secateur import Gate, Pruner, schedule
from secateur.axes import Stand


class Own(Scale):
    """Factors that have an SGD of their own."""

    own_trainer: ClassVar[bool] = True

    def trainer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.7)


class Frozen(Scored):
    freezes: ClassVar[bool] = True


class Marking(Gate):
    """Stands on the layer where that is linear, on the weight elsewhere; takes away all of it in eval mode."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()

    def meet(self, layers: Sequence[nn.Module]) -> None:
        self.stands_on = Stand.LAYER if all(type(each) is nn.Linear for each in layers) else Stand.WEIGHT

    def forward(self, stood_on: Any, *inputs: Tensor) -> Tensor:
        if isinstance(stood_on, Tensor):
            return stood_on * 0
        return F.linear(inputs[0], stood_on.weight * 0, stood_on.bias)

    def keep(self, weight: Tensor) -> Tensor:
        return torch.zeros((), dtype=torch.bool)


def test_the_trainer_gets_loss_and_price_and_the_optimizer_none_of_it() -> None:
    """The same as an optimizer with two learning rates, whether or not the optimizer has the gates' parameters."""
    ends = []
    for own in (False, True):
        model = mlp()
        pruner = Pruner(model, gated(Own if own else Scale))
        others = [p for n, p in model.named_parameters() if not n.endswith(".a")]
        apart = [{"params": [gate.a for gate in gates(model).values()], "lr": 0.7}]
        groups = model.parameters() if own else [{"params": others}, *apart]
        optimizer = torch.optim.SGD(groups, lr=0.05)
        for number in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(batch(number)[0]), batch(number)[1]).backward()
            optimizer.step()
        assert (pruner.parameters() == []) == own
        ends.append(model)
    assert same(*ends)


def test_frozen_weights_keep_their_bits_under_gradients_of_zero_too() -> None:
    model, start = mlp(), weights(mlp())
    Pruner(model, relaxed(Frozen, schedule.once(None)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for number in range(3):
        optimizer.zero_grad(set_to_none=False)
        F.cross_entropy(model(batch(number)[0]), batch(number)[1]).backward()
        optimizer.step()
    assert all(torch.equal(model.get_parameter(name), start[name]) for name in gates(model))
    assert not torch.equal(model[0].bias, start["0.bias"])


def test_transformers_take_no_shortcut_past_gated_layers() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    plain = layer(torch.ones(1, 3, 8)).detach()
    Pruner(layer, gated(Marking, "linear"))
    assert {gate.stands_on for gate in gates(layer).values()} == {Stand.LAYER}
    with torch.no_grad():  # where torch would otherwise read the weights itself
        output = layer(torch.ones(1, 3, 8))
    assert not torch.allclose(output, plain)
    with torch.enable_grad():
        torch.testing.assert_close(output, layer(torch.ones(1, 3, 8)).detach())
