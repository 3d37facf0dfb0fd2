"""Masks of methods that act in training, handed to shrink: their channels really go, and it says what that changes."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Masks, Pruner, methods, shrink, structure
from secateur.axes import Method
from secateur.shrinking import Shrunk

BATCHES = [
    (torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(k)), torch.arange(12) % 3) for k in range(4)
]


def net(*, normalised: bool = True) -> nn.Sequential:
    """Two convolutions, a hidden linear layer and a head, on 1 × 8 × 8 images; shifts that are not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        norms = [nn.BatchNorm2d(6), nn.BatchNorm2d(8)] if normalised else [nn.Identity(), nn.Identity()]
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3), norms[0], nn.ReLU(), nn.Conv2d(6, 8, 3), norms[1], nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 3),
        )  # fmt: skip
        for norm in norms:
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.weight, 0.2, 1.0)
                nn.init.normal_(norm.bias)
        return model


def trained(model: nn.Module, method: Method, steps: int, *, only: object = None, lr: float = 0.1) -> Masks:
    pruner = Pruner(model, method, only=only)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for number in range(steps):
        x, y = BATCHES[number % len(BATCHES)]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pruner.finish()


def cut(model: nn.Module, masks: Masks, **options: bool) -> Shrunk:
    return shrink(model, masks, BATCHES[0][0], draws=0, modes=("eval",), **options)  # type: ignore[arg-type]


def rows(masks: Masks, name: str) -> Tensor:
    return masks[name].flatten(1).any(1)


def check_widths(found: Shrunk, masks: Masks, *names: str) -> None:
    """Every layer is as wide as its mask has rows, and so are its norm and the layer that reads it."""
    small = dict(found.model.named_modules())
    for name in names:
        layer, stays = small[name], int(rows(masks, f"{name}.weight").sum())
        assert layer.weight.shape[0] == len(layer.bias) == stays < len(masks[f"{name}.weight"])  # type: ignore[arg-type]
        norm = small[str(int(name) + 1)]
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.num_features == len(norm.weight) == len(norm.bias) == stays
    assert found.model(BATCHES[0][0]).shape == (12, 3)


def test_slimming_takes_scale_and_shift_along_and_says_what_that_changes() -> None:
    model = net()
    masks = trained(model, methods.slimming(0.5, until=4), 6)
    found = cut(model, masks)
    check_widths(found, masks, "0", "3")
    closing = found.certificate.closing
    assert closing is not None and closing.units == sum(
        int((~rows(masks, name)).sum()) for name in ("0.weight", "3.weight")
    )
    assert closing.change > 1e-3  # the shifts of the cut channels went through their ReLUs


@pytest.mark.parametrize("close", [True, False], ids=["closed", "absorbed"])
def test_ista_bn_has_its_constants_absorbed_or_closed(close: bool) -> None:
    model = net()
    masks = trained(model, methods.ista_bn(until=4, strength=1.2), 6)
    model.eval()
    before = model(BATCHES[0][0])
    gone = int((~rows(masks, "0.weight")).sum() + (~rows(masks, "3.weight")).sum())
    found = cut(model, masks, close=close)
    check_widths(found, masks, "0", "3")
    assert gone > 0
    if close:
        assert found.certificate.closing is not None and found.certificate.folded == 0
    else:  # nothing is padded here: f(β) of a channel with γ = 0 moves into the bias of what reads it, exactly
        assert found.certificate.closing is None and found.certificate.folded > 0
        torch.testing.assert_close(found.model.eval()(BATCHES[0][0]), before, rtol=1e-4, atol=1e-5)


def test_ssl_lets_weak_filters_die_and_they_go() -> None:
    model = net(normalised=False)
    with torch.no_grad():
        model[0].weight[[1, 2]] *= 1e-3
        model[3].weight[[0, 5, 6]] *= 1e-3
    masks = trained(model, methods.ssl(until=30, strength=0.2), 31, only=["0.weight", "3.weight"], lr=1e-3)
    assert not bool(rows(masks, "0.weight")[[1, 2]].any()) and not bool(rows(masks, "3.weight")[[0, 5, 6]].any())
    check_widths(cut(model, masks), masks, "0", "3")


@pytest.mark.filterwarnings("ignore::secateur.TiedScoresWarning")  # filters that are zero until the last cut
@pytest.mark.parametrize(
    ("method", "only", "cuts"),
    [
        (methods.learning_neurons(until=30, strength=0.05), ["0.weight", "3.weight", "8.weight"], ("3", "8")),
        (methods.soft_filters(0.5, until=4, every=2), None, ("0", "3")),
    ],
    ids=lambda value: value.name if isinstance(value, Method) else None,
)
def test_filters_that_died_in_training_go(method: Method, only: object, cuts: tuple[str, ...]) -> None:
    model = net()
    masks = trained(model, method, 31, only=only)
    check_widths(cut(model, masks), masks, *cuts)


def test_columns_that_nobody_reads_take_their_makers_along() -> None:
    """SSL's channels and group-wise brain damage cut what is read: an unread map goes, and its filter with it."""
    for method in (
        methods.ssl(until=30, strength=0.8, structure=structure.columns()),
        methods.group_brain_damage(0.3, until=4),
    ):
        model = net()
        with torch.no_grad():
            model[3].weight[:, [1, 4]] *= 1e-3  # two maps that hardly anybody reads
        masks = trained(model, method, 31, only=["3.weight"], lr=5e-4)
        dead = ~masks["3.weight"].any(0).flatten(1).any(1)
        assert bool(dead[[1, 4]].all()), method.name
        found = cut(model, masks)
        small = dict(found.model.named_modules())
        stays = int((~dead).sum())
        assert small["0"].out_channels == small["1"].num_features == small["3"].in_channels == stays < 6
        assert found.certificate.closing is not None and found.certificate.closing.change < 1e-6  # nobody read it


def test_scattered_columns_of_what_stays_come_back_as_masks() -> None:
    model = net()
    masks = trained(model, methods.group_brain_damage(0.3, until=4), 6, only=["3.weight"])
    found = cut(model, masks)
    assert found.masks is not None
    kept = found.manifest.kept.get("3.weight", {}).get(1, tuple(range(6)))
    assert torch.equal(found.masks["3.weight"], masks["3.weight"][:, list(kept)])
