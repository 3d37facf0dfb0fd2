"""Soft weight-sharing against torch's own mixture distribution, weight decay, and what is left when it goes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, Normal

from gate_cases import gates
from online_cases import batch, mlp, weights
from online_cases import step as train
from secateur import Pruner, SecateurError, methods
from secateur.gates import Mixture


def _prior(components: int = 5, zero_share: float = 0.9) -> Mixture:
    prior = Mixture(components=components, zero_share=zero_share, span=0.5).double()
    with torch.no_grad():
        prior.log_precisions.copy_(torch.linspace(3, 5, components))
        prior.logits.copy_(torch.linspace(-1, 1, components - 1))
    return prior


def _reference(prior: Mixture, zero_share: float = 0.9) -> MixtureSameFamily:
    others = (1 - zero_share) * torch.softmax(prior.logits.detach(), 0)
    mixing = Categorical(torch.cat([torch.tensor([zero_share]).double(), others]))
    centres = torch.cat([torch.zeros(1).double(), prior.means.detach()])
    return MixtureSameFamily(mixing, Normal(centres, torch.exp(-0.5 * prior.log_precisions.detach())))


def test_the_surprise_is_that_of_a_mixture_distribution() -> None:
    prior, values = _prior(), torch.linspace(-2, 2, 60, dtype=torch.float64).reshape(6, 10)
    torch.testing.assert_close(prior.surprise(values).detach(), -_reference(prior).log_prob(values).sum())


def test_its_slopes_are_those_of_the_mixture_distribution_over_many_parts() -> None:
    values = torch.linspace(-2, 2, 20_001, dtype=torch.float64, requires_grad=True)
    prior, twin = _prior(), _prior()
    ours = torch.autograd.grad(3 * prior.surprise(values), [values, *prior.parameters()])
    by_torch = -3 * torch.logsumexp(twin.joint(values), 0).sum()
    for mine, slope in zip(ours, torch.autograd.grad(by_torch, [values, *twin.parameters()]), strict=True):
        torch.testing.assert_close(mine, slope, rtol=1e-9, atol=1e-9)
    few = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(prior.surprise, (few,))


def test_one_component_is_weight_decay() -> None:
    prior, values = _prior(1), torch.linspace(-2, 2, 12, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(prior.surprise(values), values)
    torch.testing.assert_close(slope, values.detach() * math.exp(3.0))


def test_the_hyperprior_is_largest_at_the_mode_of_its_gamma_distributions() -> None:
    prior = _prior(3)
    with torch.no_grad():
        prior.log_precisions.copy_(torch.tensor([4999 / 2, 249 / 0.1, 249 / 0.1]).log())
    (slope,) = torch.autograd.grad(prior.hyperprior(), prior.log_precisions)
    torch.testing.assert_close(slope, torch.zeros(3).double(), atol=1e-3, rtol=0)
    gammas = [torch.distributions.Gamma(*torch.tensor(pair).double()) for pair in ((5000, 2), (250, 0.1), (250, 0.1))]

    def by_hand(precisions: Tensor) -> float:
        # a density of λ: no factor for the change to log λ, in which it is trained
        return -sum(float(gamma.log_prob(one)) for gamma, one in zip(gammas, precisions, strict=True))

    with torch.no_grad():
        first = prior.hyperprior().item()
        before = by_hand(prior.log_precisions.exp())
        prior.log_precisions.add_(torch.tensor([0.1, -0.2, 0.3]))
        torch.testing.assert_close(prior.hyperprior().item() - first, by_hand(prior.log_precisions.exp()) - before)


def test_one_prior_for_all_with_learning_rates_of_its_own() -> None:
    model = mlp()
    options = {"steps": 3, "examples": 10, "strength": 0.5, "components": 4}
    pruner = Pruner(
        model, methods.soft_weight_sharing(**options, mean_rate=0.01, precision_rate=0.02, mixing_rate=0.03)
    )
    one, two = gates(model).values()
    assert one.prior is two.prior and pruner.parameters() == []
    other = mlp()
    Pruner(other, methods.soft_weight_sharing(**options))
    assert all(gate.prior is not one.prior for gate in gates(other).values())
    optimizer, prior = torch.optim.SGD(model.parameters(), lr=0.1), one.prior
    before = {name: p.detach().clone() for name, p in prior.named_parameters()}
    values = [model.get_parameter(name).detach().clone().requires_grad_() for name in gates(model)]
    price = 0.5 / 10 * (sum(prior.surprise(value) for value in values) + prior.hyperprior())
    slopes = torch.autograd.grad(price, [*values, *prior.parameters()])
    optimizer.zero_grad()
    (model(batch(0)[0]) * 0).sum().backward()
    optimizer.step()
    for value, slope, name in zip(values, slopes, gates(model), strict=False):
        torch.testing.assert_close(model.get_parameter(name).detach(), value.detach() - 0.1 * slope)
    for (name, start), slope in zip(before.items(), slopes[2:], strict=True):  # Adam's first step: rate × sign
        rate = {"means": 0.01, "log_precisions": 0.02, "logits": 0.03}[name]
        torch.testing.assert_close(prior.get_parameter(name).detach(), start - rate * slope.sign(), atol=1e-6, rtol=0)


def test_it_ends_in_shared_values_which_is_what_was_evaluated() -> None:
    model = mlp()
    pruner = Pruner(model, methods.soft_weight_sharing(steps=20, components=6, strength=0.5, zero_share=0.6))
    with torch.no_grad():
        next(iter(gates(model).values())).prior.log_precisions.fill_(6.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner.adopt(optimizer)
    for number in range(20):
        train(model, optimizer, number)
    prior, values = next(iter(gates(model).values())).prior, weights(model)
    reference = _reference(prior, 0.6)
    centres = reference.component_distribution.mean
    before = model.eval()(batch(0)[0])
    masks = pruner.finish()
    torch.testing.assert_close(model(batch(0)[0]), before)
    ends = torch.cat([model.get_parameter(name).detach().flatten() for name in masks])
    assert len(ends.unique()) <= 6 and 0 < masks.kept < masks.numel
    for name, mask in masks.items():
        per = reference.component_distribution.log_prob(values[name].unsqueeze(-1))
        best = (per + reference.mixture_distribution.logits).argmax(-1)
        assert torch.equal(mask, best != 0)
        torch.testing.assert_close(model.get_parameter(name).detach(), centres[best])


def test_zero_and_its_share_are_not_learned() -> None:
    prior = _prior()
    assert {name: p.numel() for name, p in prior.named_parameters()} == {"means": 4, "log_precisions": 5, "logits": 4}
    with torch.no_grad():
        prior.logits.mul_(7).add_(3)
    joint = prior.joint(torch.zeros(1, dtype=torch.float64))[0, 0].item()
    torch.testing.assert_close(joint, math.log(0.9) + 0.5 * (3 - math.log(2 * math.pi)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"zero_share": 1.0}, r"`zero_share` must be in \(0, 1\), got 1"),
        ({"components": 0}, "components >= 1"),
        ({"examples": 0}, "examples >= 1"),
        ({"strength": -1.0}, "strength >= 0"),
        ({"span": 0.0}, "span > 0"),
        ({"mean_rate": -1.0}, "learning rates of a mixture"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(SecateurError, match=said):
        methods.soft_weight_sharing(steps=10, **options)


def test_a_copy_of_the_network_shares_its_own_prior() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    Pruner(model, methods.soft_weight_sharing(steps=10))
    one, two = gates(copy.deepcopy(model)).values()
    assert one.prior is two.prior
