"""SNIP's invariants (arXiv 1810.02340)."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur import Masks, measures, methods, prunable, prune, reinit, scores
from secateur.axes.structure import blocks, weights

Batch = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 20, bias=False), nn.ReLU(), nn.Linear(20, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
    ).double()


@pytest.fixture
def batch() -> Batch:
    return torch.randn(16, 12, dtype=torch.float64), torch.arange(16) % 3


def test_normalised_scores_add_up_to_one(mlp: nn.Module, batch: Batch) -> None:
    found = scores(mlp, methods.snip(0.1), [batch], normalise=True)
    assert all(bool((tensor >= 0).all()) for tensor in found.values())
    assert sum(float(tensor.sum()) for tensor in found.values()) == pytest.approx(1, abs=1e-12)


def test_scores_are_the_effect_of_removing_a_small_connection(mlp: nn.Module, batch: Batch) -> None:
    with torch.no_grad():
        mlp[4].weight.mul_(1e-4)  # small weights, no kink behind them: removing one is nearly a linear step
    found = scores(mlp, methods.snip(0.1), [batch])["4.weight"]
    whole = F.cross_entropy(mlp(batch[0]), batch[1])
    for i, j in itertools.product(range(3), range(8)):
        removed = copy.deepcopy(mlp)
        with torch.no_grad():
            removed[4].weight[i, j] = 0
        change = (whole - F.cross_entropy(removed(batch[0]), batch[1])).abs()
        torch.testing.assert_close(found[i, j], change.detach(), rtol=1e-3, atol=1e-12)


def test_signed_scores_have_the_same_sum_in_every_layer(mlp: nn.Module, batch: Batch) -> None:
    """A bias-free ReLU net is homogeneous of degree 1 in each layer: Σ w ∂L/∂w = ⟨f, ∂L/∂f⟩, whatever the layer."""
    params = prunable(mlp)
    grads = torch.autograd.grad(F.cross_entropy(mlp(batch[0]), batch[1]), list(params.values()))
    sums = [float((p.detach() * g).sum()) for p, g in zip(params.values(), grads, strict=True)]
    output = mlp(batch[0])
    (at_output,) = torch.autograd.grad(F.cross_entropy(output, batch[1]), [output])
    assert sums == pytest.approx([float((output.detach() * at_output).sum())] * 3, rel=1e-10)
    # and the scorer's magnitudes are those of the very same products
    found = scores(mlp, methods.snip(0.1), [batch])
    for (name, parameter), grad in zip(params.items(), grads, strict=True):
        torch.testing.assert_close(found[name], (parameter * grad).abs().detach())


def test_the_mask_does_not_change_with_the_scale_of_the_loss(mlp: nn.Module, batch: Batch) -> None:
    again = copy.deepcopy(mlp)
    plain = prune(mlp, methods.snip(0.13), [batch])
    scaled = prune(again, methods.snip(0.13), [batch], loss=lambda out, y: 1000 * F.cross_entropy(out, y))
    assert plain == scaled


def test_a_zero_weight_has_score_zero(mlp: nn.Module, batch: Batch) -> None:
    with torch.no_grad():
        mlp[0].weight[3].zero_()
    assert scores(mlp, methods.snip(0.1), [batch])["0.weight"][3].abs().sum() == 0


def test_permuting_hidden_units_permutes_the_mask(mlp: nn.Module, batch: Batch) -> None:
    order = torch.randperm(20)
    permuted = copy.deepcopy(mlp)
    with torch.no_grad():
        permuted[0].weight.copy_(mlp[0].weight[order])
        permuted[2].weight.copy_(mlp[2].weight[:, order])
    plain, moved = (prune(model, methods.snip(0.2), [batch]) for model in (mlp, permuted))
    assert torch.equal(moved["0.weight"], plain["0.weight"][order])
    assert torch.equal(moved["2.weight"], plain["2.weight"][:, order])


def test_masks_are_nested(mlp: nn.Module, batch: Batch) -> None:
    masks = [prune(copy.deepcopy(mlp), methods.snip(d), [batch]) for d in (0.5, 0.2, 0.05)]
    for larger, smaller in itertools.pairwise(masks):
        assert smaller & larger == smaller


def test_accumulation_of_gradients_and_of_magnitudes_rank_differently(mlp: nn.Module) -> None:
    batches = [(torch.randn(4, 12, dtype=torch.float64), torch.arange(4) % 3) for _ in range(6)]

    def masks(measure: measures.Measure) -> Masks:
        return prune(copy.deepcopy(mlp), methods.snip(0.2, evidence=measure), batches)

    signed, magnitude, average = (
        masks(m) for m in (measures.grad(), measures.grad_magnitude(), measures.grad_average())
    )
    assert signed != magnitude and signed != average
    joined = (torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
    assert signed == prune(copy.deepcopy(mlp), methods.snip(0.2), [joined])  # the sum of batches is one large batch


def test_blocks_compete_by_the_sum_of_their_sensitivities(mlp: nn.Module, batch: Batch) -> None:
    single = scores(copy.deepcopy(mlp), methods.snip(0.25), [batch])
    sums = {name: F.pad(s, (0, 0, 0, -len(s) % 4)).unflatten(0, (-1, 4)).sum(1) for name, s in single.items()}
    ranked = torch.cat([s.flatten() for s in sums.values()]).sort(descending=True).values
    masks = prune(mlp, methods.snip(0.25, structure=blocks(4, 1)), [batch])
    limit = ranked[round(0.25 * len(ranked)) - 1]
    for name, found in sums.items():
        assert torch.equal(masks[name], (found >= limit).repeat_interleave(4, 0)[: len(masks[name])])


# --- the paper's protocol --------------------------------------------------------------------------------------------


#: The authors' code: biases are prunable and counted.
PAPERS = methods.snip(0.3, structure=weights(biases=True))


def _with_biases() -> nn.Module:
    model = nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))
    for module in (model[0], model[3]):
        nn.init.zeros_(module.bias)
    return model


def test_under_the_papers_protocol_biases_count_and_are_all_pruned() -> None:
    model, batch = _with_biases(), (torch.randn(16, 12), torch.arange(16) % 3)
    masks = prune(model, PAPERS, [batch])
    assert masks.numel == 12 * 20 + 20 + 20 * 3 + 3
    assert masks.kept == round(0.3 * masks.numel)
    assert not masks["0.bias"].any() and not masks["3.bias"].any()
    assert model[0].bias.abs().sum() == 0 and model[3].bias.abs().sum() == 0


def test_under_the_papers_protocol_survivors_are_drawn_anew() -> None:
    model, batch = _with_biases(), (torch.randn(16, 12), torch.arange(16) % 3)
    before, state = copy.deepcopy(model), torch.get_rng_state()
    draws = []
    for _ in range(2):
        again = copy.deepcopy(before)
        masks = prune(again, PAPERS, [batch])
        reinit(again, masks, generator=torch.Generator().manual_seed(5))
        kept = masks["0.weight"]
        assert not torch.isin(again[0].weight[kept], before[0].weight[kept]).any()
        assert not again[0].weight[~kept].any() and not again[0].bias.any()
        draws.append(again[0].weight.detach().clone())
    assert torch.equal(*draws) and torch.equal(state, torch.get_rng_state())


def test_the_papers_batch_norm_is_the_identity_at_initialisation() -> None:
    """Running statistics (0, 1) while scoring: with ε = 0 the scores are those of the net without its BN."""
    model, batch = _with_biases(), (torch.randn(16, 12), torch.arange(16) % 3)
    model[1].eps = 0.0
    bare = nn.Sequential(model[0], model[2], model[3])
    model.eval()
    with_bn = scores(model, PAPERS, [batch])
    without = scores(bare, PAPERS, [batch])
    torch.testing.assert_close(with_bn["0.weight"], without["0.weight"])


def test_under_batch_statistics_a_filters_signed_saliency_vanishes() -> None:
    """Scale invariance: weights feeding one BN channel can be scaled freely, so Σ w ∂L/∂w over them is 0."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-14), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    x, y = torch.randn(32, 2, 4, 4, dtype=torch.float64), torch.arange(32) % 3
    (grad,) = torch.autograd.grad(F.cross_entropy(net(x), y), [net[0].weight])
    per_filter = (grad * net[0].weight).sum((1, 2, 3))
    assert per_filter.abs().max() < 1e-10 < scores(net, methods.snip(0.5), [(x, y)])["0.weight"].sum()
