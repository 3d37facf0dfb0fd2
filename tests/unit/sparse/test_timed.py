"""`sparsify` times what it chooses: layers on their shapes, then whole models; what stays dense is a dense layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur import hold
from secateur._base.errors import SecateurError
from secateur.sparse import Choice, SparseLinear, report_of, sparsify
from secateur.sparse.convert._inputs import Use, uses_of
from secateur.sparse.timing import Verdict
from timed_cases import DENSE, OPEN, SPARSE, Clock, convnet, masks_of, mlp

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
