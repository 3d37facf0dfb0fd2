"""Iterative LWC: thresholds in rounds, from the survivors' values, everything at once or layer kind by layer kind."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from online_cases import mlp, sgd
from online_cases import step as train_step
from secateur import Masks, held, prune, shrink
from secateur._base.errors import SecateurError
from secateur.methods import lwc
from secateur.programs import iterative_lwc

Seen = list[tuple[dict[str, Tensor], dict[str, Tensor], int, list[bool]]]


def _trainer(steps: int = 4):
    seen: Seen = []

    def run(model: nn.Module) -> None:
        start = {k: v.clone() for k, v in model.state_dict().items()}
        learns = [p.requires_grad for p in model.parameters()]
        optimizer = sgd(model)
        for t in range(steps):
            train_step(model, optimizer, t)
        seen.append((start, {k: v.clone() for k, v in model.state_dict().items()}, len(held(model)), learns))

    return run, seen


def _sigma(values: Tensor) -> float:
    return math.sqrt(float(values.square().sum()) / max(1, int((values != 0).sum())))


@pytest.mark.parametrize("trained", [False, True])
def test_by_quality_each_round_is_lwc_on_what_was_left(trained: bool) -> None:
    model = mlp()
    run, seen = _trainer()
    masks = iterative_lwc(model, train=run, quality=0.8, rounds=3, trained=trained)
    assert len(seen) == 3 - trained
    alive: Masks | None = None
    ends = [end for _, end, _, _ in seen]
    for end in ([mlp().state_dict()] if trained else []) + ends:
        twin = mlp()
        twin.load_state_dict(end)
        alive = prune(twin, lwc(quality=0.8), masks=alive)
    assert masks == alive
    for number, (start, end, holds, _) in enumerate(seen):
        cut_before = trained or number > 0
        assert holds == cut_before
        for name in masks if cut_before else ():  # survivors start from where they were, and zeros stay
            assert bool((end[name][start[name] == 0] == 0).all())


@pytest.mark.parametrize(("density", "rounds"), [(0.1, 1), (0.25, 3)])
def test_by_density_the_count_is_exact_and_one_quality_serves_all_layers(density: float, rounds: int) -> None:
    model = mlp()
    run, seen = _trainer()
    masks = iterative_lwc(model, train=run, density=density, rounds=rounds)
    assert masks.kept == int(density * masks.numel + 0.5)
    before = seen[-1][1]
    scale = {name: _sigma(before[name]) for name in masks}
    kept = torch.cat([(before[name].abs() / scale[name])[mask] for name, mask in masks.items()])
    gone = torch.cat([(before[name].abs() / scale[name])[~mask] for name, mask in masks.items()])
    assert float(kept.min()) >= float(gone.max())


def test_local_retraining_lets_the_other_kind_of_layer_stand_still() -> None:
    def net() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(30, 3)).double()

    model, inputs, seen = net(), torch.randn(16, 1, 12, dtype=torch.float64), []

    def run(network: nn.Module) -> None:
        start = {k: v.clone() for k, v in network.state_dict().items()}
        optimizer = sgd(network)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), torch.arange(16) % 3).backward()
            optimizer.step()
        moved = {k for k, v in network.state_dict().items() if not torch.equal(v, start[k])}
        seen.append((moved, {n for n in ("0.weight", "3.weight") if bool((network.get_parameter(n) == 0).any())}))

    masks = iterative_lwc(model, train=run, quality={"*": 0.7}, rounds=2, local=True)
    linear, convolution = {"3.weight", "3.bias"}, {"0.weight", "0.bias"}
    assert [moved for moved, _ in seen] == [linear | convolution, linear, convolution, linear]
    assert [cut for _, cut in seen] == [set(), {"3.weight"}, {"0.weight", "3.weight"}, {"0.weight", "3.weight"}]
    assert 0 < masks.density < 1 and all(p.requires_grad for p in model.parameters())
    exact = iterative_lwc(net(), train=run, density=0.3, rounds=2, local=True)
    assert {name: int(mask.sum()) for name, mask in exact.items()} == {"0.weight": 3, "3.weight": 27}


def test_dropout_is_rescaled_while_survivors_are_retrained() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    rates: list[tuple[float, float]] = []

    def run(network: nn.Module) -> None:
        alive = float((network.get_parameter("2.weight") != 0).double().mean())
        rates.append((float(network.get_submodule("1").p), alive))  # type: ignore[arg-type]

    iterative_lwc(model, train=run, density=0.2, rounds=3, batches=[torch.randn(3, 4)])
    assert rates[0] == (0.5, 1.0) and len(rates) == 3 and rates[2][0] < rates[1][0] < 0.5
    assert all(rate == pytest.approx(0.5 * math.sqrt(alive)) for rate, alive in rates)
    assert model[1].p == 0.5


def test_what_makes_no_sense_is_refused_before_anything_is_trained() -> None:
    model = mlp()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    run, seen = _trainer()
    refused: list[tuple[Callable[[], Masks], str]] = [
        (lambda: iterative_lwc(model, train=run, density=1.5), "density"),
        (lambda: iterative_lwc(model, train=run, density=0.1, quality=2.0), "one of them"),
        (lambda: iterative_lwc(model, train=run, rounds=0), "rounds"),
        (lambda: iterative_lwc(model, train=run, quality={"fc*": 1.0}), "fc"),
        (lambda: iterative_lwc(model, train=run, local=True), "local"),
    ]
    for ask, said in refused:
        with pytest.raises(SecateurError, match=said):
            ask()
    assert not seen and all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_dead_neurons_go_to_a_fixpoint_with_their_biases_folded() -> None:
    # Hidden unit 0 has lost all inputs: a constant, relu(bias), that the next layer sees. Unit 0 of the second layer
    # reads nothing but it. Unit 1 of the first has lost all outputs; and the input that only it reads goes on, for
    # inputs are not the network's to cut.
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model.get_parameter("0.weight")[0] = 0
        model.get_parameter("0.bias")[0] = 0.7
        model.get_parameter("2.weight")[:, 1] = 0
        model.get_parameter("2.weight")[0, 1:] = 0
    x = torch.randn(50, 5, dtype=torch.float64)
    expected = model(x)
    small = shrink(model, Masks.from_zeros(model), x[:2], close=False).model
    widths = [tuple(p.shape) for n, p in small.named_parameters() if n.endswith("weight")]
    assert widths == [(4, 5), (3, 4), (3, 3)]
    assert torch.allclose(small(x), expected, rtol=1e-12, atol=1e-12)
    again = shrink(small, Masks.from_zeros(small), x[:2], close=False).model  # nothing is left to go
    assert [tuple(p.shape) for p in again.parameters()] == [tuple(p.shape) for p in small.parameters()]
