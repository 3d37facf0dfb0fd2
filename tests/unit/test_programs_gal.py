"""GAL: soft masks by FISTA, label-free training of a student, and channels that really go."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from secateur import EmptyLayerWarning, Masks, SecateurError, UnfitModelError, hold, methods, prune, shrink
from secateur.axes import all_alive
from secateur.programs import gal
from secateur.programs.adversarial import Pace, Place, SoftMasks, masks_from, momentum, places_of, train_student


class Net(nn.Module):
    """Two convolutions, the second in a residual branch, and a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.two, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.hidden, self.out = nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.one(x)))
        x = torch.relu(x + self.norm2(self.two(x)))
        return self.out(torch.relu(self.hidden(x.mean((2, 3)))))


def _net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
        for _ in range(3):
            net(torch.randn(16, 3, 6, 6))
        return net.eval()


def _x(count: int = 2) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, 6, 6, generator=drawn) for _ in range(count)]


def _params(net: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in net.named_parameters() if p.dim() > 1}


def test_masks_stand_behind_hidden_layers_and_their_norms() -> None:
    net = _net()
    places = places_of(net, _params(net), ["norm2"])
    assert [(place.weight, place.units) for place in places] == [
        ("one.weight", 8), ("two.weight", 8), ("hidden.weight", 6), ("two.weight", 1),
    ]  # fmt: skip
    assert [place.module for place in places] == [net.norm, net.norm2, net.hidden, net.norm2]


def test_fista_is_the_published_sequence_with_exact_zeros_and_no_negatives() -> None:
    """Against FISTA written out, on ½‖m − target‖² + λ‖m‖₁, whose minimum is max(target − λ, 0)."""
    target, rate, strength = torch.tensor([0.9, 0.3, -0.5, 2.0]), 0.3, 0.4
    soft = SoftMasks([Place(nn.Linear(1, 4), "w", 4)], torch.zeros(()))
    m = y = torch.ones(4)
    alpha = 1.0
    for _ in range(60):
        (0.5 * (soft.at[0] - target).square().sum()).backward()
        soft.step(rate, strength)
        after = (y - rate * (y - target + strength)).clamp(min=0)
        following = (1 + math.sqrt(1 + 4 * alpha**2)) / 2
        assert momentum(alpha) == following
        y, m, alpha = after + (alpha - 1) / following * (after - m), after, following
        assert torch.allclose(soft.values[0], m) and torch.allclose(soft.at[0].detach(), y)
    assert torch.allclose(soft.values[0], (target - strength).clamp(min=0), atol=1e-4)
    assert soft.values[0][1:3].tolist() == [0, 0]


def test_masks_of_one_change_nothing_and_folding_computes_what_the_masked_network_did() -> None:
    net, x = _net(), _x()[0]
    soft = SoftMasks(places_of(net, _params(net), ["norm2"]), x)
    before = net(x)
    soft.attach()
    assert torch.equal(net(x), before)
    drawn = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for y in soft.at:
            y.copy_(torch.rand(y.shape, generator=drawn) * (torch.rand(y.shape, generator=drawn) < 0.7))
    soft.values = [y.detach().clone() for y in soft.at]
    masked = net(x)
    soft.detach()
    soft.fold()
    assert torch.allclose(net(x), masked, atol=1e-6) and not torch.allclose(masked, before)


def test_the_teacher_and_the_labels_are_left_alone_and_one_step_from_the_start_has_no_distance() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(5, 4)
    soft = SoftMasks(places_of(net, _params(net), []), x)
    soft.attach()
    dense = copy.deepcopy(nn.Sequential(*net)).eval()
    assert float(nn.functional.mse_loss(net(x), dense(x)).detach()) == 0
    soft.detach()
    train_student(net, soft, [x], Pace(3, 0.5, 1.0, 0.01, 0.1))
    assert float(soft.values[0].max()) < 1, "λ acts from the first step on"
    assert all(p.grad is None for p in net.parameters()) and not net[0]._forward_hooks


def test_channels_go_and_shrink_takes_them_out_exactly() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chain = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        net, x = nn.Sequential(*chain, nn.Flatten(), nn.Linear(32, 4)), _x()
        for _ in range(3):
            net(torch.randn(16, 3, 6, 6))
        with torch.no_grad():
            net.get_parameter("3.weight")[:, 4:] = 0  # the last four channels of the first layer are read by nobody
        names = list(net.eval().state_dict())
        labelled = [(each, torch.full((8,), -1)) for each in x]  # labels that would break a loss
        masks = gal(net, batches=labelled, steps=60, strength=0.03, mse=1000.0, rate=1e-4, only=["0.weight"])
    assert not net.training and list(net.state_dict()) == names
    rows = masks["0.weight"].flatten(1)
    assert torch.equal(rows.all(1), rows.any(1))
    assert not bool(rows[4:].any()) and int(rows[:4].any(1).sum()) >= 2
    gone = ~rows.any(1)
    for name in ("1.weight", "1.bias"):
        assert not bool(net.get_parameter(name)[gone].any())
    small = shrink(net, masks, x[0]).model
    assert torch.allclose(small(x[1]), net(x[1]), atol=1e-5)
    assert small.get_parameter("0.weight").shape[0] == int(rows.any(1).sum())


def test_a_block_is_one_number() -> None:
    net, x = _net(), _x()[0]
    soft = SoftMasks(places_of(net, {"two.weight": net.two.weight}, ["norm*"]), x)
    assert [place.units for place in soft.places] == [8, 1]
    soft.values[1].zero_()
    soft.fold()
    assert not bool(net.norm2.weight.any()) and not bool(net.norm2.bias.any())


def test_a_held_model_is_refused_since_its_masks_would_be_forgotten() -> None:
    net = _net()
    hold(net, prune(net, methods.magnitude(0.5)))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(SecateurError, match="`model` is held by masks"):
        gal(net, batches=_x(), steps=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_bad_input_is_refused_unchanged() -> None:
    net, x = _net(), _x()
    before = copy.deepcopy(net.state_dict())
    for wrong, said in [
        ({"batches": []}, "`batches` must have inputs"),
        ({"batches": x, "steps": 0}, "`steps` must be a whole number, 1 at least"),
        ({"batches": x, "strength": -1.0}, "`strength`"),
        ({"batches": x, "mask_rate": 0.0}, "rates above 0"),
        ({"batches": x, "blocks": ["layer9"]}, "'layer9' names no hidden layer"),
    ]:
        with pytest.raises(SecateurError, match=said):
            gal(net, **wrong)  # type: ignore[arg-type]
    with pytest.raises(SecateurError, match="`batches` must have inputs"):
        gal(net, batches=[(1, x[0])])
    with pytest.raises(UnfitModelError, match="no hidden"):
        gal(nn.Sequential(nn.Linear(3, 3)), batches=[torch.randn(2, 3)])
    with pytest.raises(SecateurError, match="logits"):
        gal(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), batches=x)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_losing_a_whole_layer_is_said() -> None:
    with pytest.warns(EmptyLayerWarning, match="lower `strength`"):
        gal(_net(), batches=_x(), steps=30, strength=50.0)


class _Shifted(nn.Module):
    """A norm behind the sum shifts every channel of it, also those that nothing feeds any more."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.norm, self.out = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.out(torch.relu(self.norm(x + self.branch(torch.relu(x)))).mean((2, 3)))


def test_what_a_norm_behind_a_sum_adds_to_dead_channels_is_said_and_can_be_kept() -> None:
    torch.manual_seed(0)
    net, x = _Shifted().eval(), _x()
    with torch.no_grad():
        net.norm.bias.uniform_(0.5, 1)
    params = _params(net)
    soft = SoftMasks(places_of(net, params, []), x[0])
    soft.values = [m * (torch.arange(8) < 5) for m in soft.values]
    soft.fold()
    masks = masks_from(soft, net, Masks(all_alive(params)))
    want = net(x[0]).detach()
    closed, kept = shrink(net, masks, x[0]), shrink(net, masks, x[0], close=False)
    assert torch.allclose(kept.model(x[0]), want, atol=1e-5)
    told, off = closed.certificate.closing, closed.model(x[0]).detach() - want
    assert told is not None and told.change > 0.01
    assert math.isclose(told.change, float(off.abs().max() / want.abs().max()), rel_tol=1e-3)


def test_inputs_may_be_whole_numbers() -> None:
    net = nn.Sequential(nn.Embedding(10, 3), nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    masks = gal(net, batches=[torch.randint(10, (5, 4))], steps=3)
    assert masks["2.weight"].shape == (8, 12)
