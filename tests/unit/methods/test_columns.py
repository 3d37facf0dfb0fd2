"""Methods that cut whole inputs of layers and repair what reads the others: ThiNet, LASSO, OSSCAR, reduce and reuse."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Masks, ScoreError, methods, prune, shrink
from secateur.axes import Method

ALL = [methods.thinet(0.5), methods.channel_lasso(0.5), methods.osscar(0.5), methods.reduce_and_reuse(0.5)]
X = torch.randn(20, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(216, 10), nn.ReLU(), nn.Linear(10, 3),
        ).double().eval()  # fmt: skip


def columns(masks: Masks, name: str) -> Tensor:
    whole = masks[name].transpose(0, 1).flatten(1)
    assert bool((whole.all(1) == whole.any(1)).all())
    return whole.any(1)


def error(method: Method, name: str, until: int) -> tuple[float, float]:
    """The squared error of one layer's outputs after the method, and after the same mask alone."""
    dense, pruned, masked = net(), net(), net()
    masks = prune(pruned, method, [X], only=[name])
    masks.apply_(masked)
    wanted = dense[: until + 1](X)
    repaired, cut = (float((wanted - model[: until + 1](X)).square().sum().detach()) for model in (pruned, masked))
    return repaired, cut


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
@pytest.mark.parametrize(("name", "until"), [("3.weight", 3), ("8.weight", 8)])
def test_half_of_the_inputs_go_and_the_repair_never_makes_it_worse(method: Method, name: str, until: int) -> None:
    pruned = net()
    masks = prune(pruned, method, [X], only=[name])
    assert int(columns(masks, name).sum()) == masks[name].shape[1] // 2
    assert bool((pruned.get_parameter(name)[~masks[name]] == 0).all())
    repaired, cut = error(method, name, until)
    if method.name == "reduce_and_reuse":  # it fits the inputs, not what the layer makes of them
        assert repaired < 1.5 * cut
    else:
        assert repaired <= cut * (1 + 1e-9)


@pytest.mark.parametrize("method", [methods.osscar(7 / 8), methods.channel_lasso(7 / 8)], ids=lambda one: one.name)
def test_a_channel_that_another_one_repeats_costs_nothing(method: Method) -> None:
    model = net()
    with torch.no_grad():  # channel 5 is channel 2 again, and the others say what they say
        for tensor in (model[0].weight, model[0].bias, model[1].weight, model[1].bias):
            tensor[5] = tensor[2]
        model[3].weight[:, 5] = model[3].weight[:, 2]
    before = model[:4](X).detach()
    masks = prune(model, method, [X], only=["3.weight"])
    assert not bool(columns(masks, "3.weight")[[2, 5]].all())
    assert float((model[:4](X) - before).detach().abs().max()) < (0.1 if method.name == "osscar" else 1e-2)


def test_reuse_is_a_1x1_convolution_in_front_of_the_layer() -> None:
    dense, pruned = net(), net()
    masks = prune(pruned, methods.reduce_and_reuse(0.5), [X], only=["3.weight"])
    kept = columns(masks, "3.weight")
    h = dense[:3](X).detach()
    assert torch.equal(
        kept, h.transpose(0, 1).flatten(1).var(1) >= h.transpose(0, 1).flatten(1).var(1).sort().values[4]
    )
    # The mixture that was folded in, found again from the weights: W′_k = W_k + Σ_d A_dk W_d, the same for each tap.
    change = (pruned[3].weight - dense[3].weight).detach()[:, kept].transpose(0, 1).flatten(1)  # (kept, out · taps)
    gone = dense[3].weight.detach()[:, ~kept].transpose(0, 1).flatten(1)
    mixture = torch.linalg.lstsq(gone.T, change.T).solution  # (gone, kept)
    torch.testing.assert_close(mixture.T @ gone, change)
    layer = nn.Conv2d(4, 8, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[kept.nonzero().flatten(), torch.arange(4)] = 1
        layer.weight[(~kept).nonzero().flatten(), :, 0, 0] = mixture
    torch.testing.assert_close(dense[3](layer(h[:, kept])), pruned[3](h))
    # And it is the best such mixture, where each place counts as often as it is read.
    read = F.unfold(h, 3, padding=1).unflatten(1, (8, 9)).transpose(0, 1).flatten(1)
    best = torch.linalg.lstsq(read[kept].T, read[~kept].T).solution
    torch.testing.assert_close(best.T, mixture, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_shrink_takes_the_filters_that_made_them(method: Method) -> None:
    model = net()
    masks = prune(model, method, [X], only=["3.weight"])
    small = shrink(model, masks, X[:2], draws=0, modes=("eval",)).model
    modules = dict(small.named_modules())
    assert modules["0"].out_channels == modules["1"].num_features == modules["3"].in_channels == 4


def test_everything_kept_changes_nothing() -> None:
    for method in (methods.thinet(1.0), methods.channel_lasso(1.0), methods.osscar(1.0), methods.reduce_and_reuse(1.0)):
        model = net()
        before = copy.deepcopy(model.state_dict())
        prune(model, method, [X])
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=1e-3, atol=1e-4, msg=f"{method.name} {name}")


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_bad_evidence_is_named_and_nothing_changes(method: Method) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    bad = X.clone()
    bad[0, 0, 0, 0] = torch.nan
    with pytest.raises(ScoreError, match=r"0\.weight|3\.weight"):
        prune(model, method, [bad])
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    if method.name == "osscar":
        with pytest.raises(ScoreError, match="grouped"):
            prune(grouped, method, [torch.randn(2, 4, 3, 3)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
