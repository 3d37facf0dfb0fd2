"""Methods that rank filters, handed to `shrink`: whole units go, and outputs stay as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import coupling_nets
from secateur import SecateurError, coupling, methods, prune, shrink, structure
from secateur.axes import Method

BATCH = (torch.randn(6, 3, 12, 12), torch.arange(6) % 3)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 10),
        nn.ReLU(),
        nn.Linear(10, 3),
    )


@pytest.mark.filterwarnings("ignore::secateur.TiedScoresWarning")  # units that a few images leave dead alike
@pytest.mark.parametrize(
    "method",
    [
        methods.nisp(0.5),
        methods.l1_filters(0.5),
        methods.fpgm(0.5),
        methods.apoz(0.5),
        methods.class_blind(0.5),
        methods.structured_snip(0.5),
    ],
    ids=lambda method: method.name,
)
def test_half_of_the_units_go_and_the_outputs_stay(method: Method) -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())
    small = shrink(net, method, BATCH[0], batches=[BATCH], draws=0, modes=("eval",)).model
    assert small(BATCH[0]).shape == (6, 3)
    assert small[0].out_channels + small[3].out_channels + small[7].out_features == 15
    if method.scope.name == "layerwise":
        assert (small[0].out_channels, small[3].out_channels, small[7].out_features) == (4, 6, 5)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_it_is_the_method_with_its_units_tied() -> None:
    net, x = coupling_nets.residual()
    units = structure.channels(coupling.trace(net, *x))
    masks = prune(copy.deepcopy(net), methods.l1_filters(0.5, structure=units))
    by_hand = shrink(net, masks, x, draws=0, modes=("eval",)).manifest.kept
    assert shrink(net, methods.l1_filters(0.5), x, draws=0, modes=("eval",)).manifest.kept == by_hand
    assert shrink(net, methods.l1_filters(0.5, structure=units), x, draws=0, modes=("eval",)).manifest.kept == by_hand


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (methods.snip(0.5), "snip cuts weights, and shrink takes methods that cut filters"),
        (methods.nisp(0.5), "batches"),
        (methods.slimming(0.5, until=10), "Pruner"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_what_does_not_fit_is_refused_and_nothing_changes(method: Method, said: str) -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(SecateurError, match=said):
        shrink(net, method, BATCH[0])
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_importance_runs_through_what_is_tied() -> None:
    """A stream that two layers write is worth what both are; the masks cut the same units of both."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.stem, self.inner, self.back, self.out = (nn.Linear(a, b) for a, b in ((6, 8), (8, 5), (5, 8), (8, 3)))

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x).relu()
            return self.out(h + self.back(self.inner(h).relu()))

    net, x = Block(), torch.randn(20, 6)
    batches = [(x, torch.zeros(20))]
    small = shrink(net, methods.nisp(0.5), x, batches=batches, draws=0, modes=("eval",)).model
    assert (small.stem.out_features, small.inner.out_features, small.back.out_features) == (4, 3, 4)
    units = structure.channels(coupling.trace(net, x))
    masks = prune(net, methods.nisp(0.5, structure=units), batches)
    assert torch.equal(masks["stem.weight"].any(1), masks["back.weight"].any(1)) and masks["out.weight"].all()


def test_arguments_that_would_be_ignored_are_refused() -> None:
    net = _net()
    masks = prune(copy.deepcopy(net), methods.l1_filters(0.5))
    for what, options, said in (
        (
            methods.l1_filters(0.5),
            {"of": "macs"},
            "`of` and `score` are for a density as `what`, got of='macs'",
        ),
        (masks, {"of": "params"}, "`of` and `score` are for a density"),
        (0.5, {"batches": [BATCH]}, "`batches` and `loss` are for a method"),
    ):
        with pytest.raises(SecateurError, match=said):
            shrink(net, what, BATCH[0], **options)


@pytest.mark.parametrize("method", [methods.l1_filters(0.6), methods.nisp(0.6)], ids=lambda method: method.name)
def test_multiples_and_a_minimum_round_what_a_method_chose(method: Method) -> None:
    """Of 8, 12 and 10 units 0.6 are 5, 7 and 6: in multiples of 4 that is 4, 8 and 8; at least 7 are 7, 7 and 7."""
    net = _net()
    plain = shrink(net, method, BATCH[0], batches=[BATCH], draws=0, modes=("eval",))
    fours = shrink(net, method, BATCH[0], batches=[BATCH], draws=0, modes=("eval",), multiples=4)
    seven = shrink(net, method, BATCH[0], batches=[BATCH], draws=0, modes=("eval",), minimum=7)
    widths = [[len(each.kept) for each in shrunk.manifest.groups] for shrunk in (plain, fours, seven)]
    assert widths == [[5, 7, 6], [4, 8, 8], [7, 7, 7]]
    for more, fewer in zip(plain.manifest.groups, fours.manifest.groups, strict=True):
        small, large = sorted((set(more.kept), set(fewer.kept)), key=len)
        assert small <= large  # the next best join, or the worst go


def test_multiples_are_not_for_masks() -> None:
    net = _net()
    masks = prune(copy.deepcopy(net), methods.l1_filters(0.5))
    with pytest.raises(SecateurError, match="`multiples` and `minimum` are for a density or a method that ranks units"):
        shrink(net, masks, BATCH[0], multiples=8)
