"""IMP against its definition: nested masks, exact counts, and survivors at their starting values in every round."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from online_cases import batch, best, mlp, sgd
from online_cases import step as train
from secateur import held, scope
from secateur._base.errors import SecateurError
from secateur.programs import imp


def _trainer(steps: int = 6):
    """A training, and what it saw: state at the start and at the end of each round, and how many holds there were."""
    seen: list[tuple[dict[str, Tensor], dict[str, Tensor], int]] = []

    def run(model: nn.Module) -> None:
        start, holds = {k: v.clone() for k, v in model.state_dict().items()}, len(held(model))
        optimizer = sgd(model)
        for t in range(steps):
            train(model, optimizer, t)
        seen.append((start, {k: v.clone() for k, v in model.state_dict().items()}, holds))

    return run, seen


@pytest.mark.parametrize("layerwise", [False, True])
def test_each_round_trains_the_start_and_keeps_the_largest_of_what_was_left(layerwise: bool) -> None:
    model, rounds, density = mlp(), 4, 0.2
    start = {k: v.clone() for k, v in model.state_dict().items()}
    run, seen = _trainer()
    masks = imp(model, train=run, density=density, rounds=rounds, scope=scope.layerwise() if layerwise else None)
    alive = {name: torch.ones_like(mask) for name, mask in masks.items()}
    for r, (begin, end, holds) in enumerate(seen, 1):
        assert holds == (r > 1)
        for name, value in begin.items():  # bit-equal to θ₀ where kept, zero where cut
            assert torch.equal(value, start[name] * alive[name] if name in alive else start[name])
        for name in alive:
            assert bool((end[name][~alive[name]] == 0).all()), "what was cut moved in training"
        part = density ** (r / rounds)
        if layerwise:
            alive = {n: best(end[n].abs(), bits, math.floor(part * bits.numel() + 0.5)) for n, bits in alive.items()}
        else:
            both = torch.cat([end[n].abs().flatten() for n in alive])
            among = torch.cat([bits.flatten() for bits in alive.values()])
            kept = best(both, among, math.floor(part * both.numel() + 0.5))
            pieces = kept.split([bits.numel() for bits in alive.values()])
            alive = {n: bits.reshape(alive[n].shape) for n, bits in zip(alive, pieces, strict=True)}
    assert len(seen) == rounds and all(torch.equal(masks[name], alive[name]) for name in masks)
    for name, value in model.state_dict().items():
        assert torch.equal(value, start[name] * masks[name] if name in masks else start[name])
    assert not held(model)


def test_more_rounds_end_in_the_same_count_through_nested_masks() -> None:
    for rounds in (1, 3, 7):
        model, sizes = mlp(), []

        def run(network: nn.Module, sizes: list[int] = sizes) -> None:
            sizes.append(sum(int((network.get_parameter(n) != 0).sum()) for n in ("0.weight", "2.weight")))
            train(network, sgd(network), 0)

        masks = imp(model, train=run, density=0.1, rounds=rounds, scope=scope.floored(scope.everywhere(), at_least=1))
        assert masks.kept == 30
        assert sizes == [math.floor(0.1 ** (r / rounds) * 300 + 0.5) for r in range(rounds)]
        assert all(later < earlier for earlier, later in itertools.pairwise([*sizes, masks.kept]))


def test_a_density_of_one_repeats_the_same_training() -> None:
    model, (run, seen) = mlp(), _trainer()
    assert imp(model, train=run, density=1.0, rounds=3).density == 1
    assert all(torch.equal(seen[0][1][key], end[key]) for _, end, _ in seen for key in end)


def test_rewinding_goes_to_the_values_given_buffers_included() -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3)).double()

    model = network()
    initial = {k: v.clone() for k, v in model.state_dict().items()}
    early = network()
    optimizer = sgd(early)
    for t in range(3):
        train(early, optimizer, t)
    later = {k: v.clone() for k, v in early.state_dict().items()}
    run, seen = _trainer()
    masks = imp(model, train=run, density=0.3, rounds=3, rewind=early.state_dict())
    assert all(torch.equal(value, initial[name]) for name, value in seen[0][0].items())  # the dense run from its start
    for state in (seen[1][0], seen[2][0], model.state_dict()):
        for name, value in state.items():
            if name not in masks:
                assert torch.equal(value, later[name]), name
            else:
                assert torch.equal(value[value != 0], later[name][value != 0])
    assert int(later["1.num_batches_tracked"]) == 3 and bool((later["1.running_mean"] != 0).any())
    assert all(torch.equal(value, later[name]) for name, value in early.state_dict().items())  # only read


def test_the_random_state_is_trainings_own() -> None:
    state = torch.get_rng_state()
    run, _ = _trainer()
    imp(mlp(), train=run, density=0.3, rounds=2)
    assert torch.equal(state, torch.get_rng_state())


def test_only_narrows_what_is_cut() -> None:
    run, _ = _trainer()
    model = mlp()
    masks = imp(model, train=run, density=0.5, rounds=2, only="0.*")
    assert masks.keys() == {"0.weight"} and masks.kept == 120
    assert torch.equal(model[2].weight, mlp()[2].weight)


def test_a_training_that_fails_leaves_nothing_held() -> None:
    model, calls = mlp(), []

    def run(network: nn.Module) -> None:
        calls.append(1)
        F.cross_entropy(network(batch(0)[0]), batch(0)[1]).backward()
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imp(model, train=run, density=0.5, rounds=3)
    assert not held(model)


def test_what_cannot_work_is_refused_before_anything_is_trained() -> None:
    def never(model: nn.Module) -> None:
        raise AssertionError("trained")

    with pytest.raises(SecateurError, match="`density` must be in"):
        imp(mlp(), train=never, density=0.0)
    with pytest.raises(SecateurError, match="`rounds` must be at least 1, got 0"):
        imp(mlp(), train=never, density=0.5, rounds=0)
    state = mlp().state_dict()
    with pytest.raises(SecateurError, match=r"`rewind` .*'2\.bias'"):
        imp(mlp(), train=never, density=0.5, rewind={k: v for k, v in state.items() if k != "2.bias"})
    with pytest.raises(SecateurError, match=r"`rewind` .*'0\.weight'"):
        imp(mlp(), train=never, density=0.5, rewind=state | {"0.weight": torch.zeros(3, 3)})
