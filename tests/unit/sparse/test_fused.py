"""compile_step: the weights of the eager masked loop, from one native call per step."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR

from secateur import Masks, SecateurError, hold
from secateur._base import door
from secateur.sparse import NetworkStep, compile_step

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

Parameters = Iterable[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Parameters], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9),
    "momentum and decay": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "dampened": lambda p: SGD(p, lr=0.05, momentum=0.9, dampening=0.4),
    "nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True),
    "maximize": lambda p: SGD(p, lr=1e-4, maximize=True),
    "adam": lambda p: Adam(p, lr=3e-3),
    "adam and decay": lambda p: Adam(p, lr=3e-3, weight_decay=1e-2, betas=(0.8, 0.99)),
    "adamw": lambda p: AdamW(p, lr=3e-3, weight_decay=0.1),
}


def network(*widths: int, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(1)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def masks_of(model: nn.Module, density: float = 0.12) -> Masks:
    generator = torch.Generator().manual_seed(2)
    weights = {n: p for n, p in model.named_parameters() if p.dim() == 2}
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in weights.items()})


def batches(count: int, sizes: tuple[int, ...] = (33, 150, 1, 100)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(sizes[i % len(sizes)], 1, 5, 6, generator=generator),
            torch.randint(0, 5, (sizes[i % len(sizes)],), generator=generator),
        )
        for i in range(count)
    ]


def eager_step(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def assert_same(one: nn.Module, other: nn.Module, tolerance: float = 1e-4) -> None:
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")


def assert_same_state(one: Optimizer, other: Optimizer) -> None:
    mine, theirs = one.state_dict()["state"], other.state_dict()["state"]
    assert mine.keys() == theirs.keys()
    for key in mine:
        assert {k for k, v in mine[key].items() if v is not None} == {
            k for k, v in theirs[key].items() if v is not None
        }
        for slot, value in mine[key].items():
            if value is not None:
                torch.testing.assert_close(value, theirs[key][slot], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_hundred_steps_give_the_weights_of_the_eager_masked_loop(name: str, threads: int) -> None:
    model, eager = network(30, 40, 20, 5), network(30, 40, 20, 5)
    masks = masks_of(model)
    optimizer, reference = OPTIMIZERS[name](model.parameters()), OPTIMIZERS[name](eager.parameters())
    schedules = [ExponentialLR(optimizer, 0.99), ExponentialLR(reference, 0.99)]
    hold(eager, masks)
    torch.set_num_threads(threads)
    try:
        step = compile_step(model, masks, cross_entropy, optimizer)
        for x, y in batches(100):
            assert step(x, y) == pytest.approx(eager_step(eager, reference, x, y), rel=1e-3, abs=1e-4)
            for schedule in schedules:
                schedule.step()
        step.write_back()
    finally:
        torch.set_num_threads(1)
    assert_same(model, eager)
    assert_same_state(optimizer, reference)
    for key in masks:
        assert not model.get_parameter(key)[~masks[key]].any()


@pytest.mark.parametrize("isa", [] if door.native is None else door.native.supported_isas())
def test_every_instruction_set(isa: str) -> None:
    native = door.native
    assert native is not None
    model, eager = network(30, 70, 5), network(30, 70, 5)
    masks, before = masks_of(model), native.isa()
    hold(eager, masks)
    optimizer, reference = AdamW(model.parameters(), lr=3e-3), AdamW(eager.parameters(), lr=3e-3)
    native.use_isa(isa)
    try:
        step = compile_step(model, masks, nn.CrossEntropyLoss(), optimizer)
        for x, y in batches(30, (48, 7, 200)):
            step(x, y)
            eager_step(eager, reference, x, y)
    finally:
        native.use_isa(before)
    step.write_back()
    assert_same(model, eager)


@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
def test_any_density_without_biases_or_hidden_layers(density: float) -> None:
    for widths in ((30, 5), (30, 9, 9, 5)):
        model, eager = network(*widths, bias=density != 0.02), network(*widths, bias=density != 0.02)
        masks = masks_of(model, density)
        hold(eager, masks)
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        reference = SGD(eager.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        step = compile_step(model, masks, cross_entropy, optimizer)
        for x, y in batches(20):
            step(x, y)
            eager_step(eager, reference, x, y)
        torch.testing.assert_close(step.predict(x), model(x) if step.write_back() is None else x)
        assert_same(model, eager)


def test_layers_without_a_mask_train_densely_and_momentum_cycles() -> None:
    model, eager = network(30, 20, 5), network(30, 20, 5)
    masks = Masks({"1.weight": masks_of(model)["1.weight"]})
    hold(eager, masks)
    pairs = []
    for one in (model, eager):
        groups = [{"params": [one[1].weight, one[3].weight]}, {"params": [one[1].bias, one[3].bias], "lr": 0.01}]  # type: ignore[union-attr]
        optimizer = SGD(groups, lr=0.05, momentum=0.9)
        pairs.append((optimizer, OneCycleLR(optimizer, [0.1, 0.02], total_steps=40)))
    step = compile_step(model, masks, cross_entropy, pairs[0][0])
    for x, y in batches(40):
        step(x, y)
        eager_step(eager, pairs[1][0], x, y)
        for _, schedule in pairs:
            schedule.step() if schedule.last_epoch < 39 else None
    step.write_back()
    assert_same(model, eager)


@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_checkpoint_in_the_middle_of_a_run(name: str) -> None:
    stream = batches(40)

    def start() -> tuple[nn.Module, Optimizer, NetworkStep]:
        model = network(30, 40, 20, 5)
        optimizer = OPTIMIZERS[name](model.parameters())
        return model, optimizer, compile_step(model, masks_of(model), cross_entropy, optimizer)

    model, optimizer, step = start()
    for x, y in stream[:20]:
        step(x, y)
    step.write_back()
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    for x, y in stream[20:]:
        step(x, y)
    step.write_back()
    # In a fresh process: loaded after compiling, so taken up by read_back.
    other, optimizer, step = start()
    other.load_state_dict(saved[0])
    optimizer.load_state_dict(copy.deepcopy(saved[1]))  # torch would keep these tensors, not copies
    with pytest.raises(SecateurError, match=r"changed outside the fused step; call read_back\(\)"):
        step(*stream[20])
    step.read_back()
    for x, y in stream[20:]:
        step(x, y)
    step.write_back()
    assert_same(other, model, 0.0)
    # And the other way round: continued by an eager loop, whose optimizer finds its state.
    eager = network(30, 40, 20, 5)
    eager.load_state_dict(saved[0])
    reference = OPTIMIZERS[name](eager.parameters())
    reference.load_state_dict(saved[1])
    hold(eager, masks_of(eager))
    for x, y in stream[20:]:
        eager_step(eager, reference, x, y)
    assert_same(eager, model)


def test_seeds_on_threads_give_what_they_give_alone() -> None:
    # Built once: torch's global generator, which draws the weights, is shared by all threads.
    stream, base = batches(30), network(30, 40, 20, 5)

    def run(seed: int, found: dict[int, list[Tensor]]) -> None:
        torch.set_num_threads(1)
        model = copy.deepcopy(base)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.1 * seed)
        step = compile_step(model, masks_of(model), cross_entropy, SGD(model.parameters(), lr=0.1, momentum=0.9))
        for x, y in stream:
            step(x, y)
        step.write_back()
        found[seed] = [p.detach().clone() for p in model.parameters()]

    alone: dict[int, list[Tensor]] = {}
    together: dict[int, list[Tensor]] = {}
    for seed in range(3):
        run(seed, alone)
    threads = [threading.Thread(target=run, args=(seed, together)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(3):
        assert all(torch.equal(a, b) for a, b in zip(alone[seed], together[seed], strict=True))


def test_bad_batches_are_refused_and_change_nothing() -> None:
    model = network(30, 8, 5)
    step = compile_step(model, masks_of(model), cross_entropy, SGD(model.parameters(), lr=0.1))
    x, y = batches(1)[0]
    for inputs, targets, says in [
        (x[:0], y[:0], "the batch is empty"),
        (x.double(), y, "the inputs must be float32 on cpu, got float64"),
        (x.half(), y, "got float16 on cpu"),
        (x.to("meta"), y, "got float32 on meta"),
        (x[:, :, :4], y, r"the inputs must be \[batch, 30\]"),
        (x, y[:5], "`targets` must be 33 class numbers"),
        (x, y.int(), "got torch.int32"),
        (x, torch.full_like(y, 5), r"`targets` must be class numbers in \[0, 5\), got 5 at index 0"),
        (x, torch.full_like(y, -100), "got -100 at index 0"),
        (x, y.repeat_interleave(2)[::2], "must be contiguous"),
    ]:
        with pytest.raises(ValueError, match=says):
            step(inputs, targets)
    assert step.steps == 0
    before = copy.deepcopy(model.state_dict())
    step.write_back()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    # Strided inputs are read for what they are.
    assert step(x.transpose(2, 3).contiguous().transpose(2, 3), y) == pytest.approx(
        cross_entropy(network_like(model, before)(x), y).item(), rel=1e-5
    )


def network_like(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    return twin


def test_a_run_that_diverges_says_so_in_its_loss() -> None:
    model = network(30, 8, 5)
    step = compile_step(model, masks_of(model, 0.5), cross_entropy, SGD(model.parameters(), lr=1e30))
    losses = [step(x, y) for x, y in batches(6)]
    assert not torch.isfinite(torch.tensor(losses[-1]))
