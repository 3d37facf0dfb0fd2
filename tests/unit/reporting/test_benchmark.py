"""A model before and after in turns: the verdict in words, its reasons, and no trace in either model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from secateur import Masks, benchmark, hold, shrink, sparsify
from secateur._base.errors import SecateurError
from secateur.reporting import _benchmark
from secateur.turns import Verdict


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 4))


def says(monkeypatch: pytest.MonkeyPatch, ratio: float, spread: float) -> None:
    monkeypatch.setattr(_benchmark, "verdict_of", lambda _: Verdict(1.0, ratio, ratio, spread, "today"))


def test_counts_bytes_once_for_tied_weights_and_half_for_half_the_units() -> None:
    net: Any = chain()
    small = shrink(net, 0.5, torch.zeros(2, 16), draws=0).model
    found = benchmark(net, small, torch.zeros(2, 16), seconds=0.02)
    # 16·32 + 32 weights and biases, 4·32 of the normalisation and its counter of 64 bits, 32·4 + 4
    assert found.bytes_before == 4 * (16 * 32 + 32 + 4 * 32 + 32 * 4 + 4) + 8
    assert found.bytes_after == 4 * (16 * 16 + 16 + 4 * 16 + 16 * 4 + 4) + 8

    tied = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    tied[1].weight = tied[0].weight
    assert benchmark(tied, tied, torch.zeros(1, 6), seconds=0.02).bytes_before == 4 * 36


@pytest.mark.parametrize(
    ("ratio", "spread", "said"),
    [
        (0.5, 0.02, "2.00x faster, certain (± 2%)"),
        (2.0, 0.02, "no faster here (0.50x ± 2%, certain), because all multiplications stayed"),
        (0.99, 0.05, "no faster here (1.01x ± 5%, within the noise), because all multiplications stayed"),
    ],
)
def test_the_verdict_in_words(monkeypatch: pytest.MonkeyPatch, ratio: float, spread: float, said: str) -> None:
    says(monkeypatch, ratio, spread)
    found = benchmark(chain(), chain(), torch.zeros(2, 16), seconds=0.02)
    assert found.verdict.startswith(said)
    assert str(found).splitlines()[-1] == found.verdict
    assert found.speedup == 1 / ratio


def test_held_zeros_are_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, 1.0, 0.1)
    net = nn.Sequential(nn.Linear(16, 32, bias=False))
    other = nn.Sequential(nn.Linear(16, 32, bias=False))
    half = torch.zeros(32, 16, dtype=torch.bool)
    half[:16] = True
    hold(other, Masks({"0.weight": half}))
    assert "50% of its parameters are zero" in benchmark(net, other, torch.zeros(2, 16), seconds=0.02).why


def test_a_sparsified_model_in_which_all_stayed_dense_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.sparse import BreakEven, Machine

    says(monkeypatch, 1.0, 0.1)
    net = chain().eval()
    mask = torch.rand(32, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    never = Machine("never", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.0),))
    always = Machine("always", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.9),))
    masks = Masks({"0.weight": mask})
    stays = benchmark(net, sparsify(net, masks, machine=never), torch.zeros(2, 16), seconds=0.02)
    assert stays.why.startswith("no layer runs sparse here (0.weight: ")
    runs = benchmark(net, sparsify(net, masks, machine=always), torch.zeros(2, 16), seconds=0.02)
    assert "layers that run sparse take as long" in runs.why


def test_both_models_and_the_random_state_are_left_alone() -> None:
    net, other = chain(), chain().eval()
    net[1].eval()
    modes = [each.training for model in (net, other) for each in model.modules()]
    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in (net, other)]
    state = torch.get_rng_state()
    benchmark(net, other, torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), seconds=0.02)

    assert modes == [each.training for model in (net, other) for each in model.modules()]
    assert torch.equal(torch.get_rng_state(), state)
    for model, kept in zip((net, other), before, strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
        assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())


def test_refusals_name_what_is_wrong() -> None:
    net, x = chain(), torch.zeros(2, 16)
    with pytest.raises(SecateurError, match="the forward of `model` raised"):
        benchmark(net, net, torch.zeros(2, 17))
    with pytest.raises(SecateurError, match="the forward of `fast` raised"):
        benchmark(net, nn.Linear(3, 4), x)
    with pytest.raises(SecateurError, match=r"\(2, 4\).* of `model`, .*\(2, 5\).* of `fast`"):
        benchmark(net, nn.Linear(16, 5), x)
    for seconds in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(SecateurError, match="`seconds` must be a time above 0"):
            benchmark(net, net, x, seconds=seconds)
    assert net.training
