"""What each program of stages asks its training for, and what it starts the survivors from."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from online_cases import mlp, sgd
from online_cases import step as train_step
from secateur import Masks, held, programs, scope
from secateur._base.errors import SecateurError
from secateur.axes._quota import slower_last_densities
from secateur.tickets import Stage

# The network is small, and a layer may go; that is not what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::secateur.EmptyLayerWarning")

Seen = list[tuple[Stage, dict[str, Tensor], dict[str, Tensor], int]]


def watched() -> tuple[Callable[[nn.Module, Stage], dict[str, Tensor]], Seen]:
    """A training by SGD with momentum, and what it saw: its stages, the model before and after each, and the holds."""
    seen: Seen = []

    def train(model: nn.Module, stage: Stage) -> dict[str, Tensor]:
        before, optimizer = {k: v.clone() for k, v in model.state_dict().items()}, sgd(model)
        named = dict(model.named_parameters())
        for name, value in (stage.state or {}).items():
            optimizer.state[named[name]]["momentum_buffer"] = value.clone()
        for number in range(stage.start, stage.stop):
            train_step(model, optimizer, number)
        seen.append((stage, before, {k: v.clone() for k, v in model.state_dict().items()}, len(held(model))))
        return {n: optimizer.state[p]["momentum_buffer"].clone() for n, p in named.items()}

    return train, seen


def stages(seen: Seen) -> list[tuple[int, int, int, int | None]]:
    return [(stage.start, stage.stop, stage.of, stage.rate) for stage, *_ in seen]


def same_where(values: dict[str, Tensor], others: dict[str, Tensor], masks: Masks) -> bool:
    return all(torch.equal(v, others[n] * masks[n] if n in masks else others[n]) for n, v in values.items())


def test_late_rewinding_goes_back_to_its_step() -> None:
    (train, seen), model = watched(), mlp()
    masks = programs.late_rewinding(model, train=train, steps=10, density=0.3, rounds=2, step=4)
    assert stages(seen) == [(0, 4, 10, None), (4, 10, 10, None), (4, 10, 10, None)]
    at_4 = seen[0][2]
    first = Masks({n: seen[2][1][n] != 0 for n in masks})
    assert same_where(seen[2][1], at_4, first) and same_where(model.state_dict(), at_4, masks)
    assert [not stage.state for stage, *_ in seen] == [True] * 3 and [h for *_, h in seen] == [0, 0, 1]
    assert (first & masks) == masks


def test_late_rewinding_to_the_start_is_imp_and_to_the_end_trains_nothing_more() -> None:
    (train, _), one, two = watched(), mlp(), mlp()
    masks = programs.late_rewinding(one, train=train, steps=6, density=0.2, rounds=3, step=0)
    assert masks == programs.imp(two, train=lambda net: train(net, Stage(0, 6, 6)), density=0.2, rounds=3)
    assert all(torch.equal(p, two.state_dict()[n]) for n, p in one.state_dict().items())
    (train, seen), model = watched(), mlp()
    programs.late_rewinding(model, train=train, steps=6, density=0.2, rounds=1, step=6)
    assert stages(seen) == [(0, 6, 6, None)]
    (train, seen), model = watched(), mlp()
    programs.late_rewinding(model, train=train, steps=100, density=0.2, rounds=1)
    assert stages(seen)[0] == (0, 3, 100, None)


@pytest.mark.parametrize(
    ("program", "rate"),
    [(programs.fine_tuning, 9), (programs.weight_rewinding, None), (programs.learning_rate_rewinding, None)],
)
def test_the_three_retrainings(program, rate: int | None) -> None:
    (train, seen), model = watched(), mlp()
    masks = program(model, train=train, steps=10, density=0.25, rounds=2, retrain=4)
    assert stages(seen) == [(0, 6, 10, None), (6, 10, 10, None), (6, 10, 10, rate), (6, 10, 10, rate)]
    assert masks.kept == 75 and [h for *_, h in seen] == [0, 0, 1, 1]
    early, late = seen[0][2], seen[1][2]
    first = Masks({n: seen[2][1][n] != 0 for n in masks})
    rewinds = program is programs.weight_rewinding
    assert same_where(seen[2][1], early if rewinds else late, first)
    assert same_where(seen[3][1], early if rewinds else seen[2][2], masks)
    remembered = [stage.state or {} for stage, *_ in seen]
    if rewinds:  # the optimizer's memory of step T − t, each time
        assert all(torch.equal(remembered[3][n], remembered[1][n]) for n in remembered[1])
    else:
        assert any(not torch.equal(remembered[3][n], remembered[1][n]) for n in remembered[1])
    assert all(torch.equal(p, seen[3][2][n]) for n, p in model.state_dict().items())  # it ends trained
    assert all(not bool(model.get_parameter(n)[~m].any()) for n, m in masks.items())


def test_early_bird_stops_when_the_mask_has_settled() -> None:
    (train, seen), model = watched(), mlp()
    masks = programs.early_bird(model, train=train, steps=400, epoch=4, density=0.3, distance=0.15, patience=3)
    assert len(seen) < 60 and masks.kept == 90
    for k, (stage, *_) in enumerate(seen):
        assert (stage.start, stage.stop) == (4 * k, 4 * k + 4)
    assert same_where(model.state_dict(), seen[-1][2], masks)
    (train, seen), model = watched(), mlp()
    programs.early_bird(model, train=train, steps=10, epoch=4, density=0.3, patience=50)
    assert stages(seen) == [(0, 4, 10, None), (4, 8, 10, None), (8, 10, 10, None)]


def test_scratch_draws_survivors_anew_and_b_is_as_long_as_its_computation() -> None:
    data = [(torch.randn(4, 12, dtype=torch.float64), torch.arange(4) % 3)]
    (train, seen), model = watched(), mlp()
    masks = programs.scratch_e(model, train=train, steps=6, density=0.4, generator=torch.Generator().manual_seed(0))
    assert stages(seen) == [(0, 6, 6, None), (0, 6, 6, None)] and masks.kept == 120
    start, dense = seen[1][1], seen[0][2]
    assert not bool((start["0.weight"][masks["0.weight"]] == dense["0.weight"][masks["0.weight"]]).any())
    for most, expected in ((2.0, 12), (10.0, 15)):  # 300 multiplications of which 120 stay: 6 · 2.5 = 15
        (train, seen), model = watched(), mlp()
        programs.scratch_b(model, train=train, steps=6, density=0.4, batches=data, most=most)
        assert stages(seen)[1] == (0, expected, expected, None)
    with pytest.raises(SecateurError, match="`most` is how many times as long"):
        programs.scratch_b(mlp(), train=train, steps=6, density=0.4, batches=data, most=0.5)


def test_prac_trains_on_what_was_forgotten_or_is_disagreed_on() -> None:
    inputs = torch.randn(60, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    classes = torch.arange(60) % 3
    (train, seen), model = watched(), mlp()
    masks = programs.prac(
        model, train=train, steps=12, epoch=3, examples=(inputs, classes), density=0.2, rounds=3, step=3, distance=0.01
    )
    assert stages(seen)[:4] == [(0, 3, 12, None), (3, 6, 12, None), (6, 9, 12, None), (9, 12, 12, None)]
    at_3, later = seen[0][2], [stage for stage, *_ in seen[4:]]
    assert later and all(stage.among is not None for stage in later)
    sizes = [len(stage.among) for stage in later if stage.among is not None]
    assert sizes == sorted(sizes) and 0 < sizes[0] <= 60
    assert all(stage.of == -(-12 * size // 60) for stage, size in zip(later, sizes, strict=True))
    assert all(stage.start >= -(-3 * size // 60) for stage, size in zip(later, sizes, strict=True))
    assert same_where(model.state_dict(), at_3, masks) and masks.kept == 60


def test_the_last_layer_is_cut_at_half_the_rate() -> None:
    shapes = {"a": torch.Size([300, 784]), "b": torch.Size([100, 300]), "c": torch.Size([10, 100])}
    density = (0.8**15 * 265_200 + 0.9**15 * 1000) / 266_200
    found = slower_last_densities(shapes, density, rounds=15)
    assert found["a"] == found["b"] == pytest.approx(0.8**15) and found["c"] == pytest.approx(0.9**15)

    class Big(nn.Sequential):
        pass

    torch.manual_seed(0)
    model = Big(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)).double()
    seen = []

    def train(network: nn.Module) -> None:
        seen.append([int((network.get_parameter(n) != 0).sum()) for n in ("0.weight", "2.weight")])

    masks = programs.imp(model, train=train, density=0.3, rounds=4, layerwise=True)
    seen.append([layer.kept for layer in masks.layers()])
    assert masks.kept == 270
    for before, after in pairwise(seen):
        hidden, last = (1 - b / a for a, b in zip(before, after, strict=True))
        assert last == pytest.approx(hidden / 2, abs=0.02)
    with pytest.raises(SecateurError, match="`layerwise` and `scope` both say who competes"):
        programs.imp(mlp(), train=train, density=0.3, layerwise=True, scope=scope.layerwise())


def test_what_cannot_work_is_refused_before_anything_is_trained() -> None:
    def never(model: nn.Module, stage: Stage) -> dict[str, Tensor]:
        raise AssertionError("trained")

    inputs = (torch.zeros(4, 12, dtype=torch.float64), torch.arange(4) % 3)
    for program, options, message in (
        (programs.late_rewinding, {"step": 11}, r"`step` must be a step of training, from 0 to steps=10, got 11"),
        (programs.late_rewinding, {"rounds": 0}, "`rounds` must be at least 1, got 0"),
        (programs.weight_rewinding, {"retrain": 11}, "`retrain` must be a step of training"),
        (programs.fine_tuning, {"density": 0.0}, "`density` must be in"),
        (programs.learning_rate_rewinding, {"steps": 0}, "`steps` must be at least 1"),
        (programs.early_bird, {"epoch": 0}, "`epoch` must be a step of training, from 1"),
        (programs.early_bird, {"epoch": 2, "patience": 0}, "`patience` must be at least 1"),
        (programs.early_bird, {"epoch": 2, "distance": 1.5}, "`distance` is a share of the kept weights"),
        (programs.prac, {"epoch": 2, "examples": inputs, "step": 99}, "`step` must be a step of training"),
        (programs.scratch_e, {"steps": 0}, "`steps` must be at least 1"),
    ):
        with pytest.raises(SecateurError, match=message):
            program(mlp(), **{"train": never, "steps": 10, "density": 0.5, **options})
