"""What goes beside a model in a run stays with the smaller one: falling rates, a scaler, an average of weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attention_nets import CASES
from coupling_nets import residual
from secateur import SecateurError, shrink
from secateur.shrinking import Shrunk


class Run:
    """A training run with everything that goes beside a model."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.optimizer = optim.SGD(net.parameters(), 0.05, momentum=0.9)
        self.falling = LambdaLR(self.optimizer, lambda step: 0.7**step)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        self.average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.8))

    def steps(self, count: int, seed: int, gone: dict[str, list[tuple[int, list[int]]]] | None = None) -> None:
        drawn = torch.Generator().manual_seed(seed)
        for _ in range(count):
            self.optimizer.zero_grad()
            loss = self.net(torch.randn(4, 3, 8, 8, generator=drawn, dtype=torch.float64)).square().sum()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.falling.step()
            for model in (self.net, self.average.module) if gone else ():
                zero(model, gone or {})
            self.average.update_parameters(self.net)


def zero(model: nn.Module, gone: dict[str, list[tuple[int, list[int]]]]) -> None:
    with torch.no_grad():
        for name, dims in gone.items():
            for dim, index in dims:
                model.get_parameter(name).index_fill_(dim, torch.tensor(index), 0.0)


def lost(net: nn.Module, shrunk: Shrunk) -> dict[str, list[tuple[int, list[int]]]]:
    return {
        name: [
            (dim, [k for k in range(parameter.shape[dim]) if k not in kept])
            for dim, kept in shrunk.manifest.kept[name].items()
        ]
        for name, parameter in net.named_parameters()
        if name in shrunk.manifest.kept
    }


def small_part(name: str, value: Tensor, shrunk: Shrunk) -> Tensor:
    for dim, index in shrunk.manifest.kept.get(name, {}).items():
        value = value.index_select(dim, torch.tensor(index))
    return value


def test_rates_scaler_and_average_go_on() -> None:
    net, (x,) = residual()
    net.double().train()
    for name in ("1.two.bias", "2.two.bias"):  # in front of batch norm: its gradient is rounding
        net.get_parameter(name).requires_grad_(False)
    run = Run(net)
    run.steps(2, seed=1)
    full = Run(copy.deepcopy(net))
    full.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    full.falling.load_state_dict(run.falling.state_dict())
    full.scaler.load_state_dict(run.scaler.state_dict())
    full.average.load_state_dict(copy.deepcopy(run.average.state_dict()))

    shrunk = shrink(net, 0.5, x.double(), optimizer=run.optimizer, draws=0, modes=("eval",))
    run.average.module = shrunk.like(run.average.module)
    gone = lost(full.net, shrunk)
    for model in (full.net, full.average.module):
        zero(model, gone)
    run.steps(3, seed=2)
    full.steps(3, seed=2, gone=gone)

    assert run.falling.get_last_lr() == full.falling.get_last_lr() == [0.05 * 0.7**5]
    assert run.scaler.get_scale() == full.scaler.get_scale() > 8
    for mine, whole in ((run.net, full.net), (run.average.module, full.average.module)):
        own = dict(mine.named_parameters())
        for name, value in whole.named_parameters():
            torch.testing.assert_close(own[name], small_part(name, value, shrunk), rtol=1e-8, atol=1e-10, msg=name)


def test_another_model_is_cut_alike() -> None:
    torch.manual_seed(0)
    net, inputs = CASES["llama"]()
    other, _ = CASES["llama"]()
    shrunk = shrink(net, 0.5, inputs, modes=("eval",))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    small = shrunk.like(other)
    full = shrunk.manifest.undo(small, other)  # zeros where something went: the masked other model
    with torch.no_grad():
        torch.testing.assert_close(small(*inputs), full(*inputs), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    with pytest.raises(SecateurError):
        shrunk.like(nn.Linear(2, 2))
