"""Repairs as values of a method: batch norms measured again, several in a row, and what `reconstruct` promises."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, Pruner, SecateurError, methods, prune, repairs, schedule
from secateur.repairs import Reconstruct, least_squares_on, reconstruct, reestimate_norms, sweep, then, tuned


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    )


def _batches() -> list[Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return [torch.randn(5, 2, 7, 7, generator=drawn) + number for number in range(2)]


def _masks(model: nn.Module) -> Masks:
    drawn = torch.Generator().manual_seed(2)
    return Masks({n: torch.rand(p.shape, generator=drawn) < 0.5 for n, p in model.named_parameters() if p.dim() > 1})


def test_norms_are_those_of_the_pruned_network() -> None:
    model, batches = _net(), _batches()
    masks = _masks(model)
    by_hand = copy.deepcopy(model).train()
    masks.apply_(by_hand)
    means: dict[int, list[Tensor]] = {1: [], 5: []}
    by_hand[3].eval()
    for x in batches:
        for number, layer in enumerate(by_hand):
            if number in means:
                means[number].append(torch.stack([x.mean((0, 2, 3)), x.transpose(0, 1).flatten(1).var(1)]))
            x = layer(x)
    reconstruct(model, masks, reestimate_norms(), batches)
    for number, seen in means.items():
        mean, variance = torch.stack(seen).mean(0)
        torch.testing.assert_close(model[number].running_mean, mean)
        torch.testing.assert_close(model[number].running_var, variance)
    assert model.training and model[1].momentum == 0.1 and int(model[1].num_batches_tracked) == 0


def test_repairs_in_a_row_and_in_a_method() -> None:
    repair = then(least_squares_on(), reestimate_norms())
    assert repair == then(least_squares_on(), reestimate_norms()) and hash(repair) is not None and repair.always
    one, other, batches = _net().eval(), _net().eval(), _batches()
    masks = prune(one, methods.obc(0.5, repair=repair), batches)
    prune(other, methods.obc(0.5), batches)
    assert torch.equal(one[0].weight, other[0].weight) and not torch.equal(one[1].running_mean, other[1].running_mean)
    assert all(bool((one.get_parameter(name)[~bits] == 0).all()) for name, bits in masks.items())


def test_at_a_milestone_the_weights_that_go_are_made_up_for() -> None:
    torch.manual_seed(3)
    layer, x = nn.Linear(8, 4), torch.randn(40, 8) @ torch.randn(8, 8)
    plain = copy.deepcopy(layer)
    wanted = prune(plain, methods.sparsegpt(0.5), [x])
    pruner = Pruner(layer, methods.sparsegpt(0.5), [x])
    assert pruner.finish() == wanted
    torch.testing.assert_close(layer.weight, plain.weight)


def test_rounds_repair_what_the_round_before_left() -> None:
    torch.manual_seed(4)
    layer, x = nn.Linear(8, 4).double(), (torch.randn(40, 8) @ torch.randn(8, 8)).double()
    by_hand = copy.deepcopy(layer)
    rounds = schedule.exponential(0.25, rounds=2)
    masks = prune(layer, methods.l_obs(0.25, schedule=rounds), [x])
    first = prune(by_hand, methods.l_obs(rounds.densities[0] or 1.0), [x])
    assert prune(by_hand, methods.l_obs(0.25), [x], masks=first) == masks
    torch.testing.assert_close(layer.weight, by_hand.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_keep_their_type(dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    layer, x = nn.Linear(16, 8).to(dtype), torch.randn(64, 16).to(dtype)
    for method in (methods.sparsegpt(0.5), methods.obc(0.5), methods.wanda(0.5), methods.l_obs(0.5)):
        model = copy.deepcopy(layer)
        masks = prune(model, method, [x])
        assert masks.kept == 64 and model.weight.dtype == dtype
        before, after = layer(x).float(), model(x).float()
        assert float((after - before).square().mean().detach()) < float(before.var().detach())


class _Fails(Reconstruct):
    def __call__(self, model: nn.Module, masks: Masks, moment: object) -> None:
        with torch.no_grad():
            next(model.parameters()).zero_()
        raise RuntimeError("on purpose")


def test_a_repair_that_fails_leaves_the_model_as_it_was() -> None:
    model = _net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="on purpose"):
        reconstruct(model, _masks(model), _Fails(lambda rows, keep, moments: rows), _batches())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_options_and_missing_batches_are_refused() -> None:
    model = _net()
    with pytest.raises(SecateurError, match=r"`damping` must be at least 0, got -0\.1"):
        sweep(damping=-0.1)
    with pytest.raises(SecateurError, match="`steps` must be at least 1"):
        tuned(0)
    with pytest.raises(SecateurError, match="`learning_rate` must be positive, got 0"):
        tuned(1, learning_rate=0.0)
    with pytest.raises(SecateurError, match="`then` needs a repair at least"):
        then()
    for repair, said in ((reestimate_norms(), "pruned network and needs `batches`"), (tuned(1), "needs `batches`")):
        with pytest.raises(SecateurError, match=said):
            reconstruct(model, _masks(model), repair)
    with pytest.raises(SecateurError, match="'gram' and needs `batches`"):
        reconstruct(model, _masks(model), sweep())


def test_training_survivors_uses_labels_where_there_are_no_blocks() -> None:
    torch.manual_seed(6)
    net, x = nn.Linear(10, 3), torch.randn(60, 10)
    batch = (x, x[:, :3].argmax(1))
    masks = Masks({"weight": torch.rand(3, 10, generator=torch.Generator().manual_seed(1)) < 0.5})
    start = copy.deepcopy(net)
    masks.apply_(start)
    reconstruct(net, masks, repairs.tuned(60, learning_rate=0.05), [batch])
    losses = [float(nn.functional.cross_entropy(each(x), batch[1]).detach()) for each in (net, start)]
    assert losses[0] < 0.7 * losses[1] and bool((net.weight[~masks["weight"]] == 0).all())
