"""CompiledStep.replace: what survives goes on, what comes back begins at zero, bit for bit as a step compiled anew."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, Optimizer

from secateur import MaskError, Masks, SecateurError, hold
from secateur._base import door
from secateur.sparse import NetworkStep, compile_step

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: Adam(p, lr=1e-3),
}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(6, 12, batch_first=True), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.cell(x)
        return self.head(states[:, -1])


def chain(*widths: int) -> nn.Sequential:
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 20), nn.ReLU(), nn.Linear(20, 5),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "chain": (lambda: chain(40, 30, 20, 5), (40,)),
    "wide chain": (lambda: chain(3000, 20, 5), (3000,)),
    "images": (images, (1, 8, 8)),
    "recurrent": (Recurrent, (7, 6)),
}


def drawn(model: nn.Module, density: float, seed: int, biases: bool = False) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    masked = {n: p for n, p in model.named_parameters() if p.dim() > 1 or (biases and n == "0.bias")}
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in masked.items()})


def batches(shape: tuple[int, ...], count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(33, *shape, generator=generator), torch.randint(0, 5, (33,), generator=generator))
        for _ in range(count)
    ]


def everything(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    state = [t for p in model.parameters() for t in optimizer.state[p].values() if isinstance(t, Tensor)]
    return [*model.state_dict().values(), *state]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(("before", "after"), [(0.1, 0.1), (0.9, 0.2), (0.2, 0.9)])
def test_it_goes_on_as_a_step_compiled_anew(name: str, kind: str, before: float, after: float) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make()
    first = drawn(model, before, 1, biases=name == "chain" and before == 0.1)
    second = drawn(model, after, 2, biases="0.bias" in first)
    optimizer = OPTIMIZERS[kind](model.parameters())
    step = compile_step(model, first, cross_entropy, optimizer)
    for batch in batches(shape, 3, seed=3):
        step(*batch)
    # The same by hand: write everything back, put zeros where a weight is gone or new, compile again.
    step.write_back()
    other = copy.deepcopy(model)
    reference = OPTIMIZERS[kind](other.parameters())
    reference.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    parameters = dict(other.named_parameters())
    with torch.no_grad():
        for key, mask in second.items():
            for tensor in (parameters[key], *reference.state[parameters[key]].values()):
                if isinstance(tensor, Tensor) and tensor.shape == mask.shape:
                    tensor.mul_(mask & first[key])
    anew = compile_step(other, second, cross_entropy, reference)
    step.replace(second)
    assert step.masks is second and step.steps == 3
    reference_steps = step.steps
    for batch in batches(shape, 4, seed=4):
        if kind == "momentum":  # torch's SGD does not count
            assert step(*batch) == anew(*batch)
        else:
            assert anew.steps == step.steps and step(*batch) == anew(*batch)
    assert step.steps == reference_steps + 4
    x = batches(shape, 1, seed=5)[0][0]
    assert torch.equal(step.predict(x), anew.predict(x))
    step.write_back()
    anew.write_back()
    for a, b in zip(everything(model, optimizer), everything(other, reference), strict=True):
        if a.shape:  # the count of steps apart
            assert torch.equal(a, b)
    for key, mask in second.items():
        assert not model.get_parameter(key)[~mask].any()


def test_it_goes_on_as_a_held_eager_loop() -> None:
    torch.manual_seed(0)
    model = chain(40, 30, 20, 5)
    eager, masks = copy.deepcopy(model), [drawn(model, 0.3, seed) for seed in range(4)]
    step = compile_step(model, masks[0], cross_entropy, SGD(model.parameters(), lr=0.05, momentum=0.9))
    optimizer = SGD(eager.parameters(), lr=0.05, momentum=0.9)
    for index, mask in enumerate(masks):
        if index:
            step.replace(mask)
            for key, kept in mask.items():
                parameter = eager.get_parameter(key)
                with torch.no_grad():
                    optimizer.state[parameter]["momentum_buffer"].mul_(kept & masks[index - 1][key])
        with hold(eager, mask):
            for x, y in batches((40,), 10, seed=index):
                optimizer.zero_grad()
                loss = cross_entropy(eager(x), y)
                loss.backward()
                optimizer.step()
                assert step(x, y) == pytest.approx(loss.item(), abs=1e-4)
    step.write_back()
    for ours, theirs in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_masks_of_other_parameters_are_refused_and_change_nothing() -> None:
    model = chain(40, 30, 5)
    masks = drawn(model, 0.3, 1)
    step = compile_step(model, masks, cross_entropy, SGD(model.parameters(), lr=0.05))
    twin = copy.deepcopy(model)
    fresh = compile_step(twin, masks, cross_entropy, SGD(twin.parameters(), lr=0.05))
    with pytest.raises(MaskError, match=r"'2\.weight' is only in one of the two; compile a new step"):
        step.replace(Masks({"0.weight": masks["0.weight"]}))
    with pytest.raises(MaskError, match=r"'2\.weight'"):
        step.replace(Masks({**masks, "2.weight": torch.ones(5, 31, dtype=torch.bool)}))
    with pytest.raises(MaskError, match=r"only in one of the two"):
        step.replace(Masks({**masks, "9.weight": masks["0.weight"]}))
    batch = batches((40,), 1, seed=3)[0]
    assert step(*batch) == fresh(*batch)
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1)
    with pytest.raises(SecateurError, match="changed outside the fused step; call read_back"):
        step.replace(masks)


def test_what_it_holds_does_not_grow() -> None:
    model = chain(40, 30, 5)
    masks = [drawn(model, 0.3, seed) for seed in (1, 2)]
    step = compile_step(model, masks[0], cross_entropy, SGD(model.parameters(), lr=0.05))
    assert isinstance(step, NetworkStep)
    sizes = []
    for index in range(6):
        step.replace(masks[index % 2])
        step(*batches((40,), 1, seed=index)[0])
        sizes.append((step.training_bytes, step.parameter_bytes))
    assert sizes[:2] == sizes[2:4] == sizes[4:]
