"""compile_step on convolutional networks: weights, statistics and state of the eager masked loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from secateur import Masks, SecateurError, hold
from secateur._base import door
from secateur.lab.models import WideBlock, _registry, build
from secateur.sparse import compile_step, why_no_fused_step
from secateur.sparse.programs._network import program_of
from secateur.sparse.steps._network import NetworkStep

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

Parameters = Iterable[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Parameters], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.02),
    "momentum and decay": lambda p: SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-3, nesterov=True),
    "adam": lambda p: Adam(p, lr=1e-3),
    "adamw": lambda p: AdamW(p, lr=1e-3, weight_decay=0.1),
}


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10),
    )  # fmt: skip


def vgg(bias: bool = False) -> nn.Module:
    # The second convolution is so dense that it is computed in patches.
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1, bias=bias), nn.BatchNorm2d(24, eps=1e-3), nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, bias=bias), nn.BatchNorm2d(24, momentum=0.3), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(24, 12, 1, bias=bias), nn.BatchNorm2d(12, affine=False), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(48, 20, bias=bias), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10),
    )  # fmt: skip


def alexnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 11, stride=2, padding=5, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), WideBlock(8, 8, 1), WideBlock(8, 12, 2),
        nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, stride=2, dilation=2, padding=3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 6, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(6 * 15, 10),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet": (lenet, (3, 12, 12)),
    "vgg": (vgg, (3, 8, 8)),
    "alexnet": (alexnet, (3, 8, 8)),
    "residual": (residual, (3, 8, 8)),
    "sequence": (sequence, (3, 70)),
}


def made(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(1)
    make, shape = NETWORKS[name]
    return make(), shape


def masks_of(model: nn.Module, density: float = 0.4) -> Masks:
    generator = torch.Generator().manual_seed(2)
    weights = {n: p for n, p in model.named_parameters() if p.dim() >= 2}
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in weights.items()})


def batches(count: int, shape: tuple[int, ...], sizes: tuple[int, ...] = (33, 16, 20)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    middles = torch.randn(10, *shape, generator=generator)
    found = []
    for i in range(count):
        targets = torch.randint(0, 10, (sizes[i % len(sizes)],), generator=generator)
        found.append((middles[targets] + torch.randn(len(targets), *shape, generator=generator), targets))
    return found


def eager(model: nn.Module, optimizer: Optimizer, x: Tensor, targets: Tensor) -> float:
    optimizer.zero_grad()
    loss = cross_entropy(model(x), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("network", list(NETWORKS))
def test_a_hundred_steps_are_those_of_the_eager_loop(network: str) -> None:
    """With batches of different sizes and a decaying rate; weights, biases and running statistics."""
    model, shape = made(network)
    masks = masks_of(model)
    other = copy.deepcopy(model)
    masks.apply_(other)
    rates = OPTIMIZERS["momentum and decay"]
    optimizer, reference = rates(model.parameters()), rates(other.parameters())
    schedules = [ExponentialLR(optimizer, 0.97), ExponentialLR(reference, 0.97)]
    step = compile_step(model, masks, cross_entropy, optimizer)
    assert isinstance(step, NetworkStep)
    with hold(other, masks):
        for x, targets in batches(100, shape):
            assert step(x, targets) == pytest.approx(eager(other, reference, x, targets), abs=1e-3)
            for schedule in schedules:
                schedule.step()
    step.write_back()
    assert_same_state(model, other)
    assert step.steps == 100
    x = batches(1, shape)[0][0]
    torch.testing.assert_close(step.predict(x), model.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_every_optimizer(kind: str) -> None:
    """Also its state, which torch can take over in the middle, and give back."""
    model, shape = made("vgg")
    masks = masks_of(model)
    other = copy.deepcopy(model)
    masks.apply_(other)
    optimizer, reference = OPTIMIZERS[kind](model.parameters()), OPTIMIZERS[kind](other.parameters())
    step = compile_step(model, masks, cross_entropy, optimizer)
    with hold(other, masks):
        for i, (x, targets) in enumerate(batches(24, shape)):
            if i in {10, 11, 12}:  # three steps of torch in the middle
                step.write_back()
                with hold(model, masks):
                    ours = eager(model, optimizer, x, targets)
                step.read_back()
            else:
                ours = step(x, targets)
            assert ours == pytest.approx(eager(other, reference, x, targets), abs=1e-3)
    step.write_back()
    assert_same_state(model, other)


@pytest.mark.parametrize("isa", [] if door.native is None else door.native.supported_isas())
def test_every_instruction_set(isa: str) -> None:
    """One step of a network with every kind of layer, against double precision."""
    assert door.native is not None
    before = door.isa()
    door.native.use_isa(isa)
    try:
        for name in NETWORKS:
            model, shape = made(name)
            masks = masks_of(model)
            exact = copy.deepcopy(model).double()
            masks.apply_(exact)
            optimizer, reference = SGD(model.parameters(), lr=1.0), SGD(exact.parameters(), lr=1.0)
            step = compile_step(model, masks, cross_entropy, optimizer)
            x, targets = batches(1, shape)[0]
            with hold(exact, masks):
                assert step(x, targets) == pytest.approx(eager(exact, reference, x.double(), targets), abs=1e-5)
            step.write_back()
            for key, value in exact.state_dict().items():
                torch.testing.assert_close(model.state_dict()[key].double(), value.double(), rtol=1e-4, atol=1e-4)
    finally:
        door.native.use_isa(before)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_the_work(threads: int) -> None:
    """With more threads than tiles as well."""
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        model, _ = made("residual")
        step = compile_step(model, masks_of(model), cross_entropy, SGD(model.parameters(), lr=0.1))
        results.append([step(x, targets) for x, targets in batches(4, (3, 40, 40))])  # large enough to be shared
    torch.set_num_threads(1)
    assert results[0] == pytest.approx(results[1], abs=1e-5)


def test_a_checkpoint_in_the_middle_goes_on_as_if_nothing_happened() -> None:
    """Model and optimizer state into a new step of a new model."""
    model, shape = made("vgg")
    masks, data = masks_of(model), batches(12, shape)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    step = compile_step(model, masks, cross_entropy, optimizer)
    for batch in data[:6]:
        step(*batch)
    step.write_back()
    second = copy.deepcopy(model)
    resumed = OPTIMIZERS["adamw"](second.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again = compile_step(second, masks, cross_entropy, resumed)
    assert again.steps == 6
    for batch in data[6:]:
        assert again(*batch) == step(*batch)


def test_masked_biases_stay_zero() -> None:
    """SNIP's own protocol prunes biases as well."""
    model = build("lenet-5-caffe", generator=torch.Generator().manual_seed(0), in_shape=(1, 16, 16))
    masks = Masks({"conv1.bias": torch.arange(20) % 2 == 0, **masks_of(model)})
    step = compile_step(model, masks, cross_entropy, SGD(model.parameters(), lr=0.1, momentum=0.9))
    for batch in batches(3, (1, 16, 16)):
        step(*batch)
    step.write_back()
    bias = model.get_parameter("conv1.bias").detach()
    assert bool((bias[1::2] == 0).all()) and bool((bias[::2] != 0).all())


@pytest.mark.parametrize("name", ["lenet-5-caffe", "alexnet-s", "alexnet-b", "vgg-c", "vgg-d", "vgg-like", "wrn-16-8"])
def test_the_papers_networks_are_understood(name: str) -> None:
    """All that have no recurrence."""
    known = _registry._KNOWN[name]
    with torch.device("meta"):
        assert program_of(known.make(known.in_shape, 10)).flat


class _Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.sigmoid(self.conv(x)).flatten(1))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "ceil": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, ceil_mode=True)), "has ceil_mode"),
    "dropout": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5)), "is a Dropout, which has no sparse kernel"),
    "function": (_Strange, "'sigmoid' has no sparse kernel"),
    "image out": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), "must end with a linear layer"),
    "padding": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding_mode="reflect")), "only zeros are supported"),
    "cumulative": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None)),
        "averages them without a momentum",
    ),
    "not flattened": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)),
        "takes an image that was not flattened",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_would_be_approximated_is_refused_with_the_reason(case: str) -> None:
    """Before anything is changed."""
    make, says = REFUSED[case]
    model = make()
    reason = why_no_fused_step(model, masks_of(model), cross_entropy, SGD(model.parameters(), lr=0.1))
    assert reason is not None and says in reason


def test_inputs_and_states_that_do_not_fit_are_refused() -> None:
    """A wrong shape, evaluation mode, one sample for a normalisation, weights changed behind its back."""
    model, shape = made("vgg")
    step = compile_step(model, masks_of(model), cross_entropy, SGD(model.parameters(), lr=0.1))
    x, targets = batches(1, shape)[0]
    with pytest.raises(SecateurError, match=r"inputs must be \[batch, channels, rows, columns\], got"):
        step(x.flatten(1), targets)
    with pytest.raises(SecateurError, match=r"the layers do not fit inputs of shape \(3, 9, 40\)"):
        step(torch.zeros(2, 3, 9, 40), torch.tensor([1, 2]))
    with pytest.raises(SecateurError, match="needs more than one sample in a training step, got 1"):
        step(x[:1], targets[:1])
    with pytest.raises(ValueError, match=r"class numbers in \[0, 10\), got 10 at index 1"):
        step(x[:2], torch.tensor([0, 10]))
    model.eval()
    with pytest.raises(SecateurError, match=r"evaluation mode; call model.train\(\)"):
        step(x, targets)
    model.train()
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1)
    with pytest.raises(SecateurError, match="changed outside the fused step; call read_back"):
        step(x, targets)
