"""What a prune leaves out is said, by name and with the reason; and globs reach what names reach."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune

from secateur import Masks, Pruner, methods, prunable, prune
from secateur._base.errors import LeftOutWarning, SecateurError
from secateur.masks import coverage

BATCH = [(torch.randn(8, 16), torch.arange(8) % 4)]
WRAPS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old spectral_norm": nn.utils.spectral_norm,
    "torch prune": lambda layer: torch_prune.identity(layer, "weight"),
}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))


class Experts(nn.Module):
    """As in Mixtral: the weights of all experts in one parameter."""

    def __init__(self, count: int, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(count, width, hidden) * 0.1)
        self.down = nn.Parameter(torch.randn(count, hidden, width) * 0.1)
        self.bias = nn.Parameter(torch.zeros(count, width))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.einsum("bd,ndh,nhe->bne", x, self.up, self.down) + self.bias).sum(1)


def mixture() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), Experts(8, 16, 64), nn.Linear(16, 4))


@pytest.mark.parametrize("wrap", WRAPS)
def test_reparametrised_layers_are_named(wrap: str) -> None:
    model = mlp()
    model[2] = WRAPS[wrap](model[2])
    with pytest.warns(LeftOutWarning, match=r"weights in . tensors are left out.*2\..*\(2,048; reparametrised: "):
        masks = prune(model, methods.snip(0.05), BATCH)
    assert masks.keys() == {"0.weight", "4.weight"}


@pytest.mark.parametrize("wrap", ["weight_norm", "spectral_norm"])
def test_baked_in_they_are_pruned_without_a_word(wrap: str) -> None:
    model = mlp()
    model[2] = WRAPS[wrap](model[2])
    parametrize.remove_parametrizations(model[2], "weight")
    assert prune(model, methods.snip(0.05), BATCH).numel == 16 * 32 + 32 * 64 + 64 * 4


def test_own_parameters_are_named_and_can_be_asked_for() -> None:
    with pytest.warns(LeftOutWarning, match=r"16,384 weights in 2 .*1\.up \(8,192; own param.*1\.down"):
        prune(mixture(), methods.snip(0.1), BATCH)
    with pytest.warns(LeftOutWarning):
        Pruner(mixture(), methods.snip(0.1), BATCH)
    for only in ("*", ["0.weight", "2.weight", "1.*"], ["0.weight", "2.weight", "1.up", "1.down"]):
        masks = prune(mixture(), methods.snip(0.1), BATCH, only=only)
        assert masks.keys() == {"0.weight", "1.up", "1.down", "2.weight"} and masks.kept == 1670


def test_what_is_small_or_left_out_on_purpose_is_no_warning() -> None:
    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position, self.body = nn.Parameter(torch.zeros(1, 16)), mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x + self.position)

    with warnings.catch_warnings():
        warnings.simplefilter("error", LeftOutWarning)
        prune(Vision(), methods.snip(0.05), BATCH)
        prune(mixture(), methods.snip(0.5), BATCH, only=["0.weight", "2.weight"])


# --- globs ------------------------------------------------------------------------------------------------------------


def test_globs_reach_every_parameter_that_a_name_reaches() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.body = nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 4)
            self.scale, self.factor = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4, 4))
            self.body.weight.requires_grad_(False)

    model = Model()
    for name, parameter in model.named_parameters():
        exact = prunable(model, [name])
        assert exact.keys() == {name} and next(iter(exact.values())) is parameter
        assert name in prunable(model, f"{name[0]}*{name[-1]}"), name
    assert prunable(model, "*").keys() == {"factor", "body.weight"}
    assert prunable(model, "*.bias").keys() == {"norm.bias", "body.bias"}


def test_frozen_weights_wait_to_be_asked_for() -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    assert prunable(model).keys() == {"2.weight", "4.weight"}
    assert prunable(model, lambda name, _: True).keys() == {"2.weight", "4.weight"}
    for asked in ({"only": "*"}, {"only": "*.weight"}, {"frozen": True}):
        assert prunable(model, **asked).keys() == {"0.weight", "2.weight", "4.weight"}
    model.requires_grad_(False)
    with pytest.raises(SecateurError, match=r'Every weight of Sequential is frozen.*only="\*"'):
        prune(model, methods.magnitude(0.5))
    assert prune(model, methods.magnitude(0.5), only="*").density == pytest.approx(0.5)
    assert Masks.from_zeros(model).density == pytest.approx(0.5)


# --- the report -------------------------------------------------------------------------------------------------------


def test_coverage_counts_every_parameter_once_with_its_reason() -> None:
    model = mixture()
    model[2].weight.requires_grad_(False)
    model.append(nn.LayerNorm(4))
    found = coverage(model, prunable(model))
    assert found.covered == 256 and found.total == sum(p.numel() for p in model.parameters())
    assert found.covered + sum(one.numel for one in found.left_out) == found.total
    reasons = {one.name: (one.why, one.weight) for one in found.left_out}
    assert reasons == {
        "0.bias": ("a bias", False),
        "1.up": ("own parameter of Experts", True),
        "1.down": ("own parameter of Experts", True),
        "1.bias": ("a bias", False),
        "2.weight": ("frozen (requires_grad=False)", False),
        "2.bias": ("a bias", False),
        "3.weight": ("of a normalisation", False),
        "3.bias": ("of a normalisation", False),
    }
    assert f"{found.share:.1%}" in str(found) and "own parameter of Experts: 1.up, 1.down" in str(found)


def test_coverage_of_masks_of_part_of_a_model_and_of_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.body, self.head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    found = coverage(nn.DataParallel(model), Masks({"body.weight": torch.ones(4, 4, dtype=torch.bool)}))
    assert {one.name: one.why for one in found.left_out} == {
        "embed.weight": "an embedding, or tied to one",
        "body.bias": "a bias",
    }
    assert found.total == 20 + 16 + 4
    assert {one.why for one in coverage(model, []).left_out if one.name == "body.weight"} == {"not asked for"}
