"""`sparsify` times what it chooses: layers on their shapes, then whole models; what stays dense is a dense layer."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, hold
from secateur._base.errors import SecateurError
from secateur.sparse import Choice, SparseConv2d, SparseLinear, densify, report_of, sparsify
from secateur.sparse.convert import _sparsify as convert
from secateur.sparse.convert import _timed as layers_timed
from secateur.sparse.convert import _whole as whole
from secateur.sparse.convert._inputs import Use, uses_of
from secateur.sparse.layers import NetworkSequential, OneDnnLinear, SparseSequential
from secateur.sparse.layers import _choosing as choosing
from secateur.sparse.timing import Verdict

DAY = "2026-01-01"
SPARSE, DENSE, OPEN = (
    Verdict(2.0, 1.0, 0.5, 0.1, DAY),
    Verdict(1.0, 2.0, 2.0, 0.1, DAY),
    Verdict(1.0, 0.99, 0.99, 0.1, DAY),
)


def masks_of(model: nn.Module, density: float = 0.3) -> Masks:
    generator = torch.Generator().manual_seed(3)
    weights = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in weights.items()})


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4 * 16, 3))


class Clock:
    """Instead of time: says of each pair of calls which verdict it gets, and runs both once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        monkeypatch.setenv("SECATEUR_CACHE", str(cache))
        self.asked: list[str] = []
        self.layers: Callable[[str], Verdict] = lambda kind: SPARSE
        self.models: list[Verdict] = []
        self.first_calls: list[Verdict] = []
        monkeypatch.setattr(layers_timed, "remembered_verdict", self._layer)
        monkeypatch.setattr(whole, "decide", self._model)
        monkeypatch.setattr(choosing, "decide", self._call)

    def _layer(self, kind: str, measure: Callable[[], Any]) -> tuple[Verdict, str]:
        self.asked.append(kind)
        return self.layers(kind), "torch"

    def _model(self, first: Callable[[], object], second: Callable[[], object], *, seconds: float) -> Verdict:
        first(), second()
        return self.models.pop(0)

    def _call(self, first: Callable[[], object], second: Callable[[], object], *, seconds: float) -> Verdict:
        first(), second()
        return self.first_calls.pop(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    return Clock(monkeypatch, tmp_path)


# --- what each layer sees ---------------------------------------------------------------------------------------------


def test_uses_are_those_of_a_real_call_and_the_model_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm, self.unused = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

        def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
            return self.norm(self.inner(self.inner(x[:2]) * scale).sum() + self.inner(x))

    model = Twice()
    before = copy.deepcopy(model.state_dict())
    x, state = torch.rand(5, 4), torch.get_rng_state()
    assert uses_of(model, x) == {"inner": Use((5, 4), True, first=True), "norm": Use((5, 4), True)}
    assert torch.equal(state, torch.get_rng_state())
    assert uses_of(model, (torch.rand(6, 4),))["inner"].shape == (6, 4)
    assert uses_of(model.eval(), {"x": torch.rand(7, 4), "scale": 2.0})["inner"] == Use((7, 4), False)
    model.train()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and not model.inner._forward_pre_hooks


def test_example_inputs_that_do_not_fit_are_named() -> None:
    with pytest.raises(SecateurError, match=r"`example_inputs`: Sequential does not run on them: RuntimeError"):
        sparsify(mlp(), masks_of(mlp()), example_inputs=torch.rand(3, 11))


def test_layers_are_timed_on_their_own_shapes_density_and_mode(clock: Clock) -> None:
    clock.models = [DENSE, DENSE]
    sparsify(convnet().eval(), masks_of(convnet()), example_inputs=torch.rand(5, 2, 8, 8))
    assert [kind.rpartition(", ")[2] for kind in clock.asked[:3]] == [
        "inference at 5 × 2 × 8 × 8",
        "inference at 5 × 4 × 6 × 6",
        "inference at 5 × 64",
    ]
    assert clock.asked[0].startswith("Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1)), density 0.")
    clock.asked.clear()
    clock.models = [DENSE]
    sparsify(mlp(), masks_of(mlp()), batch=9)  # a chain of linear layers: the shapes follow
    assert clock.asked[0].endswith("training at 9 × 12, first layer")


# --- what is chosen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [DENSE, OPEN])
def test_a_layer_that_is_not_faster_stays_a_dense_layer_with_its_zeros_held(clock: Clock, verdict: Verdict) -> None:
    clock.layers = lambda kind: verdict
    clock.models = [DENSE, DENSE]
    model = mlp()
    masks = masks_of(model)
    fast = sparsify(model, masks, example_inputs=torch.rand(3, 12))
    assert [type(layer) for layer in fast] == [nn.Linear, nn.ReLU, nn.Linear] and not fast[0]._forward_pre_hooks
    assert all(line.choice is Choice.DENSE and line.held for line in report_of(fast).layers)
    assert ("too close to tell apart" in str(report_of(fast))) is (verdict is OPEN)
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        fast(torch.rand(3, 12)).square().sum().backward()
        optimizer.step()
    for name, mask in masks.items():
        assert not fast.get_parameter(name)[~mask].any() and fast.get_parameter(name)[mask].all()
    assert not any(line.numel == line.kept for line in report_of(fast).layers) and report_of(fast).not_held == ()


def test_the_fastest_of_three_models_is_returned(clock: Clock) -> None:
    x = torch.rand(3, 12)

    def mixed(kind: str) -> Verdict:
        return SPARSE if "Linear(in_features=12" in kind else DENSE

    clock.layers = mixed
    kinds = {}
    for name, verdicts in {"chosen": [DENSE, DENSE], "sparse": [SPARSE, DENSE], "dense": [DENSE, SPARSE]}.items():
        clock.models = list(verdicts)
        fast = sparsify(mlp(), masks_of(mlp()), example_inputs=x)
        assert not clock.models
        kinds[name] = [type(layer) for layer in (fast[0], fast[2])]
        assert "all sparse takes" in report_of(fast).whole and "all dense takes" in report_of(fast).whole
        expected = copy.deepcopy(mlp())
        masks_of(expected).apply_(expected)
        torch.testing.assert_close(fast(x), expected(x))
    assert kinds == {
        "chosen": [SparseLinear, nn.Linear],
        "sparse": [SparseLinear, SparseLinear],
        "dense": [nn.Linear, nn.Linear],
    }


def test_timing_leaves_no_trace_in_the_model_that_is_returned(clock: Clock) -> None:
    clock.models = [SPARSE, DENSE]
    model, x = convnet(), torch.rand(5, 2, 8, 8)
    state = torch.get_rng_state()
    fast = sparsify(model, masks_of(model), example_inputs=x)
    assert torch.equal(state, torch.get_rng_state())
    assert fast[1].num_batches_tracked == 0 and torch.equal(fast[1].running_mean, model[1].running_mean)
    assert all(p.grad is None for p in fast.parameters())


def test_a_held_model_stays_held(clock: Clock) -> None:
    clock.layers = lambda kind: DENSE
    clock.models = [DENSE, DENSE]
    model = mlp()
    masks = masks_of(model)
    hold(model, masks)
    fast = sparsify(model, masks, example_inputs=torch.rand(3, 12))
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1)
    fast(torch.rand(3, 12)).sum().backward()
    optimizer.step()
    assert not any(fast.get_parameter(name)[~mask].any() for name, mask in masks.items())


# --- at first calls ---------------------------------------------------------------------------------------------------


def test_a_mode_that_was_not_timed_is_timed_at_its_first_call(clock: Clock) -> None:
    model = nn.Linear(12, 16)
    masks = masks_of(model)
    clock.models = [DENSE]
    fast: Any = sparsify(model, masks, example_inputs=torch.rand(4, 12))
    assert type(fast) is SparseLinear
    fast(torch.rand(4, 12))  # with gradients: settled
    clock.first_calls = [SPARSE, DENSE]  # the second of the two ways, dense, is faster; then it is not
    with torch.no_grad():
        for _ in range(3):
            fast(torch.rand(4, 12))
        for _ in range(3):
            fast(torch.rand(40, 12))
    assert not clock.first_calls and fast._choices == {("layer", False, 6): True, ("layer", False, 9): False}
    x = torch.rand(4, 12)
    masks.apply_(model)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
        fast.values.mul_(2)  # the dense weight is built again
        torch.testing.assert_close(fast(x), 2 * model(x) - model.bias)


def test_convolutions_without_a_known_shape_choose_in_both_modes(clock: Clock) -> None:
    model = nn.Conv2d(2, 4, 3)
    masks = masks_of(model)
    fast: Any = sparsify(model, masks)
    assert type(fast) is SparseConv2d
    masks.apply_(model)
    clock.first_calls = [SPARSE, SPARSE]
    x = torch.rand(3, 2, 8, 8)
    torch.testing.assert_close(fast(x), model(x))
    fast(x).square().sum().backward()
    model(x).square().sum().backward()
    torch.testing.assert_close(fast.values.grad, fast.plan.gather(model.weight.grad))
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
    assert not clock.first_calls and set(fast._choices.values()) == {True}


@pytest.mark.parametrize("build", [mlp, convnet])
def test_runs_of_layers_choose_between_one_call_and_several(clock: Clock, build: Callable[[], nn.Sequential]) -> None:
    model = build()
    masks = masks_of(model)
    x = torch.rand(3, 12) if build is mlp else torch.rand(3, 2, 8, 8)
    clock.models = [DENSE] if build is mlp else [DENSE, DENSE]
    fast: Any = sparsify(model, masks, example_inputs=x)
    assert isinstance(fast, SparseSequential | NetworkSequential)
    masks.apply_(model)
    model.eval(), fast.eval()
    layers = sum(isinstance(child, SparseLinear | SparseConv2d) for child in fast)
    clock.first_calls = [DENSE] * layers + [SPARSE]  # one by one, and each of them through its kernels
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
        torch.testing.assert_close(fast(x), model(x))
    assert not clock.first_calls and list(fast._choices.values()) == [True]


def test_copies_choose_for_themselves_and_densify_forgets(clock: Clock) -> None:
    model = nn.Linear(12, 16)
    clock.models = [DENSE]
    fast: Any = sparsify(model, masks_of(model), example_inputs=torch.rand(4, 12))
    clock.first_calls = [SPARSE]
    with torch.no_grad():
        fast(torch.rand(4, 12))
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert "_built" not in other.__dict__
        with torch.no_grad():
            torch.testing.assert_close(other(torch.ones(4, 12)), fast(torch.ones(4, 12)))
    assert type(densify(fast)) is nn.Linear


def test_machine_decides_by_numbers_alone(clock: Clock, sparse_machine: Any) -> None:
    fast = sparsify(mlp(), masks_of(mlp()), machine=sparse_machine, example_inputs=torch.rand(3, 12))
    assert not clock.asked and "break-even" in str(report_of(fast))
    with torch.no_grad():
        fast(torch.rand(3, 12))  # nothing is timed at a call


def test_real_timing_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few kept the kernels win by far, with nearly all they lose. Whatever is chosen, it is the same function."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    monkeypatch.setattr(convert, "whole_verdict", lambda *args, **options: DENSE)
    x = torch.rand(64, 512)
    for density in (0.005, 0.98):
        model = nn.Linear(512, 512).eval()
        masks = masks_of(model, density)
        fast = sparsify(model, masks, example_inputs=x)
        masks.apply_(model)
        assert isinstance(fast, SparseLinear | nn.Linear | OneDnnLinear)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x))
        assert report_of(fast).layers[0].reason.endswith("inference at 64 × 512") or "too close" in str(report_of(fast))


def test_a_built_weight_is_built_anew_after_eval(clock: Clock) -> None:
    """As averages are kept, `average.data.mul_(decay)`: no version tells of it."""
    clock.models = [DENSE]
    fast: Any = sparsify(nn.Linear(12, 16, bias=False), masks_of(nn.Linear(12, 16)), example_inputs=torch.rand(4, 12))
    clock.first_calls = [SPARSE]  # dense without gradients
    x = torch.rand(4, 12)
    with torch.no_grad():
        before = fast(x)
        fast.values.data.mul_(2)
        torch.testing.assert_close(fast.eval()(x), 2 * before)
