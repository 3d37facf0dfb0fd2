"""Initialisers: the variance they promise, the distribution they draw from, and what they leave alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from secateur._base.errors import SecateurError
from secateur.lab.models import Initialiser, rn, tn, variance_scaling, vs, vs_h, vs_x

ALL = [vs, vs_x, vs_h, rn, tn]
_CUT = 0.8796256610342398  # the deviation of a standard normal distribution cut at two


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _deviation(weight: torch.Tensor) -> float:
    return weight.double().square().mean().sqrt().item()


# Layer, the inputs of one of its units, the units that one of its inputs feeds.
LAYERS = [
    (nn.Linear(300, 200), 300, 200),
    (nn.Conv2d(16, 32, 5), 16 * 25, 32 * 25),
    (nn.Conv2d(32, 64, 3, groups=4), 8 * 9, 16 * 9),
    (nn.Conv1d(64, 96, 7), 64 * 7, 96 * 7),
    (nn.LSTM(100, 150), 250, 600),
    (nn.GRU(100, 150), 250, 450),
    (nn.RNN(100, 150), 250, 150),
]


@pytest.mark.parametrize(("layer", "inputs", "outputs"), LAYERS, ids=lambda x: getattr(x, "_get_name", str)())
def test_scaled_variances(layer: nn.Module, inputs: int, outputs: int) -> None:
    expected = {
        vs: 1 / inputs,
        vs_x: 2 / (inputs + outputs),
        vs_h: 2 / inputs,
        rn: 1.0,
        tn: _CUT**2,
    }
    for initialise, variance in expected.items():
        initialise(layer, generator=_generator())
        for name, parameter in layer.named_parameters():
            if "bias" in name:
                assert not parameter.any(), name
            else:
                error = abs(_deviation(parameter) / variance**0.5 - 1)
                assert error < 5 / (2 * parameter.numel()) ** 0.5, (initialise.__name__, name)


def test_cut_distributions_are_normal_ones_without_tails() -> None:
    from scipy import stats  # here: it takes a second

    layer = nn.Linear(200, 300)
    tn(layer, generator=_generator(), std=0.5)
    values = layer.weight.detach().double().flatten().numpy()
    assert abs(values).max() <= 1
    assert stats.kstest(values, stats.truncnorm(-2, 2, scale=0.5).cdf).pvalue > 0.001
    vs_h(layer, generator=_generator())
    values = layer.weight.detach().double().flatten().numpy()
    assert stats.kstest(values, stats.truncnorm(-2, 2, scale=0.1 / _CUT).cdf).pvalue > 0.001


def test_the_plain_normal_has_its_tails() -> None:
    from scipy import stats  # here: it takes a second

    layer = nn.Linear(200, 300)
    rn(layer, generator=_generator(), std=0.1)
    assert stats.kstest(layer.weight.detach().flatten().numpy(), stats.norm(scale=0.1).cdf).pvalue > 0.001


def test_scaling_keeps_the_signal_through_many_layers() -> None:
    linear = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(10)))
    rectified = nn.Sequential(*(nn.Sequential(nn.Linear(1024, 1024), nn.ReLU()) for _ in range(10)))
    vs(linear, generator=_generator())
    vs_h(rectified, generator=_generator())
    x = torch.randn(64, 1024)
    with torch.no_grad():
        assert 0.5 < linear(x).square().mean() < 2
        assert 0.5 < rectified(x).square().mean() < 2


def test_gates_of_a_cell_have_unit_variance_for_unit_inputs_and_states() -> None:
    cell = nn.LSTM(300, 200)
    vs(cell, generator=_generator())
    with torch.no_grad():
        gates = torch.randn(500, 300) @ cell.weight_ih_l0.T + torch.randn(500, 200) @ cell.weight_hh_l0.T
    assert gates.var().item() == pytest.approx(1, rel=0.05)


def test_normalisation_layers_become_the_identity() -> None:
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.fill_(7)
    vs(nn.Sequential(norm), generator=_generator())
    x = torch.randn(2, 4, 3, 3)
    assert torch.allclose(norm.eval()(x), x / math.sqrt(1 + norm.eps))


@pytest.mark.parametrize("initialise", ALL, ids=lambda f: f.__name__)
def test_the_generator_alone_decides(initialise: Initialiser) -> None:
    models = [nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 5)) for _ in range(3)]
    before = torch.random.get_rng_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        initialise(model, generator=_generator(seed))
    assert torch.equal(torch.random.get_rng_state(), before)
    first, again, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_layers_draw_one_after_the_other() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    vs(model, generator=_generator())
    assert not torch.equal(model[0].weight, model[1].weight)
    alone, generator = nn.Linear(8, 8), _generator()
    for layer in model:
        vs(alone, generator=generator)
        assert torch.equal(alone.weight, layer.weight)


def test_a_double_model_gets_the_same_weights() -> None:
    single, double = nn.Linear(5, 5), nn.Linear(5, 5).double()
    for layer in (single, double):
        vs_x(layer, generator=_generator())
    assert torch.equal(single.weight.double(), double.weight)


def test_frozen_parameters_are_constants_and_stay() -> None:
    layer = nn.Linear(3, 3)
    before = layer.weight.clone()
    layer.weight.requires_grad_(False)
    layer.bias.requires_grad_(False)
    vs_h(layer, generator=_generator())
    assert torch.equal(layer.weight, before) and layer.bias.any()


def test_an_unknown_layer_is_refused_before_anything_is_changed() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Embedding(4, 3))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(SecateurError) as caught:
        vs_h(model, generator=_generator())
    assert str(caught.value).startswith("`model`: 1 is a Embedding with weights of its own; only Linear,")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("initialise", [rn, tn])
def test_a_deviation_that_is_none_is_refused(initialise: Initialiser) -> None:
    with pytest.raises(SecateurError, match=r"^`std` must be positive, got 0\.$"):
        initialise(nn.Linear(2, 2), generator=_generator(), std=0)  # type: ignore[call-arg]
    with pytest.raises(SecateurError, match=r"^`scale` must be positive, got -1\.$"):
        variance_scaling(nn.Linear(2, 2), generator=_generator(), scale=-1)
