"""A held model trains, bit for bit, like w ⊙ m: a dense parameter multiplied by its mask in the forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss
from torch.optim import Optimizer

from secateur.holding import hold
from secateur.masks import Masks

Make = Callable[[Iterable[nn.Parameter]], Optimizer]
STEPS = 30

ELEMENTWISE: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "sgd+momentum+decay": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "sgd foreach": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, foreach=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, fused=True),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam+l2": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adam foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
}
# These mix all weights of a matrix in each update: one pruned gradient let through changes every survivor.
COUPLED: dict[str, Make] = {
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
    "adafactor+decay": lambda p: torch.optim.Adafactor(p, lr=0.05, weight_decay=0.1, foreach=True),
    "muon": lambda p: torch.optim.Muon(p, lr=0.02, weight_decay=0.1),
}
EVERY = {**ELEMENTWISE, **COUPLED}


def make_model() -> nn.Module:
    # No biases: Muon takes matrices only.
    generator = torch.Generator().manual_seed(3)
    layers = [nn.Linear(12, 16, bias=False), nn.Tanh(), nn.Linear(16, 16, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(16, 4, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return model


def make_masks(model: nn.Module, density: float = 0.3, seed: int = 1) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in model.named_parameters()})


def batches(count: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(8, 12, generator=generator), torch.randn(8, 4, generator=generator)) for _ in range(count)]


def train(
    model: nn.Module, optimizer: Optimizer, data: list[tuple[Tensor, Tensor]], masks: Masks | None = None
) -> None:
    """Train as it stands; with `masks`, through w ⊙ m in the forward."""
    for inputs, target in data:
        optimizer.zero_grad()
        if masks is None:
            output = model(inputs)
        else:
            masked = {name: p * masks[name] for name, p in model.named_parameters()}
            output = functional_call(model, masked, (inputs,))
        mse_loss(output, target).backward()
        optimizer.step()


def assert_same_survivors(held: nn.Module, reference: nn.Module, masks: Masks) -> None:
    others = dict(reference.named_parameters())
    for name, parameter in held.named_parameters():
        mask = masks[name]
        assert torch.equal(parameter[mask], others[name][mask]), name
        assert not parameter[~mask].any(), name


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY.keys())
def test_training_equals_masked_forward_bit_for_bit(make: Make) -> None:
    model, reference = make_model(), make_model()
    masks = make_masks(model)
    masks.apply_(reference)
    hold(model, masks)
    train(model, make(model.parameters()), batches())
    train(reference, make(reference.parameters()), batches(), masks)
    assert_same_survivors(model, reference, masks)


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY.keys())
def test_the_test_can_tell_them_apart(make: Make) -> None:
    # The comparison above means something only if training moves the survivors, and dense training elsewhere.
    model, dense = make_model(), make_model()
    masks = make_masks(model)
    hold(model, masks)
    masks.apply_(dense)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, make(model.parameters()), batches(5))
    train(dense, make(dense.parameters()), batches(5))
    others = dict(dense.named_parameters())
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name])
        assert not torch.equal(parameter[masks[name]], others[name][masks[name]])


@pytest.mark.parametrize("make", [*ELEMENTWISE.values(), COUPLED["muon"]], ids=[*ELEMENTWISE, "muon"])
def test_holding_a_warm_optimizer_in_mid_training(make: Make) -> None:
    # The optimizer was made before the hold and is full of dense momentum. (Not Adafactor: it measures the norm
    # of the whole parameter, and under w ⊙ m the pruned entries keep their old values.)
    model, reference = make_model(), make_model()
    one, two = make(model.parameters()), make(reference.parameters())
    train(model, one, batches(5))
    train(reference, two, batches(5))
    masks = make_masks(model)
    hold(model, masks)
    train(model, one, batches())
    train(reference, two, batches(), masks)
    assert_same_survivors(model, reference, masks)


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY.keys())
def test_optimizer_remembers_nothing_of_pruned_weights(make: Make) -> None:
    model = make_model()
    masks = make_masks(model)
    hold(model, masks)
    optimizer = make(model.parameters())
    train(model, optimizer, batches(5))
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and key != "step_size":
                # Adamax adds its epsilon to what it remembers.
                assert value[~masks[name]].abs().max() <= 1e-8, key


def test_clipping_accumulation_and_schedulers_between() -> None:
    model, reference = make_model(), make_model()
    masks = make_masks(model)
    masks.apply_(reference)
    hold(model, masks)

    def loop(model: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
        for number, (inputs, target) in enumerate(batches()):
            mse_loss(forward(inputs), target).backward()
            if number % 3 == 2:
                # The pruned gradients must not count in the norm.
                nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad(set_to_none=number % 2 == 0)

    loop(model, model)
    weights = dict(reference.named_parameters())
    loop(reference, lambda x: functional_call(reference, {n: p * masks[n] for n, p in weights.items()}, (x,)))
    # The norm is summed over +0 or -0 in the pruned places: equal bits all the same.
    assert_same_survivors(model, reference, masks)


def test_lbfgs_with_its_closure() -> None:
    model, reference = make_model(), make_model()
    masks = make_masks(model)
    masks.apply_(reference)
    hold(model, masks)
    inputs, target = batches(1)[0]

    def loop(model: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = mse_loss(forward(inputs), target)
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)

    loop(model, model)
    weights = dict(reference.named_parameters())
    loop(reference, lambda x: functional_call(reference, {n: p * masks[n] for n, p in weights.items()}, (x,)))
    assert_same_survivors(model, reference, masks)


def test_replacing_masks_in_mid_training() -> None:
    model, reference = make_model(), make_model()
    wide, narrow = make_masks(model, 0.6), make_masks(model, 0.3)
    narrow = narrow & wide
    wide.apply_(reference)
    handle = hold(model, wide)
    one = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    two = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    for masks in (wide, narrow):
        handle.replace(masks)
        assert handle.masks == masks
        train(model, one, batches())
        train(reference, two, batches(), masks)
        assert_same_survivors(model, reference, masks)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_a_second_derivative_through_the_masked_gradient() -> None:
    # A gradient penalty: p.grad carries a graph, and masking it must be part of that graph.
    model, reference = make_model(), make_model()
    masks = make_masks(model)
    masks.apply_(reference)
    hold(model, masks)
    inputs, target = batches(1)[0]
    weights = dict(reference.named_parameters())
    masked = {name: parameter * masks[name] for name, parameter in weights.items()}

    def penalty_gradients(parameters: list[nn.Parameter], output: Tensor) -> list[Tensor]:
        mse_loss(output, target).backward(create_graph=True)
        penalty = torch.stack([p.grad.square().sum() for p in parameters if p.grad is not None]).sum()
        found = torch.autograd.grad(penalty, parameters)
        for parameter in parameters:
            parameter.grad = None  # the graph hangs on it: a cycle
        return list(found)

    ones = penalty_gradients(list(model.parameters()), model(inputs))
    twos = penalty_gradients(list(weights.values()), functional_call(reference, masked, (inputs,)))
    for name, one, two in zip(masks, ones, twos, strict=True):
        assert torch.allclose(one[masks[name]], two[masks[name]])
