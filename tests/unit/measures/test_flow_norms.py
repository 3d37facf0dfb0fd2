"""Synaptic flow: whatever normalises is a plain scaling, and what rounding leaves is no flow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur import methods, prune, scores
from secateur._base.errors import EmptyLayerWarning, SecateurError

SYNFLOW = methods.synflow(0.2)
BATCH = [(torch.randn(4, 16), None)]


class LlamaRMSNorm(nn.Module):
    """As in transformers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32)
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))


class GemmaRMSNorm(LlamaRMSNorm):
    """Scales by 1 + w, w at zero when it starts."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x * torch.rsqrt(x.square().mean(-1, keepdim=True))


def by_groups(width: int) -> nn.Module:
    return nn.GroupNorm(4, width)


def net(norm) -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Linear(16, 32, bias=False), norm(32), nn.ReLU(), nn.Linear(32, 24, bias=False), norm(24), nn.ReLU()
    return nn.Sequential(*body, nn.Linear(24, 4, bias=False))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, LlamaRMSNorm, GemmaRMSNorm, by_groups, nn.BatchNorm1d])
def test_the_flow_is_conserved_through_every_norm(norm) -> None:
    found = scores(net(norm), SYNFLOW, BATCH)
    totals = [float(tensor.sum()) for tensor in found.values()]
    assert all(bool((tensor >= 0).all()) for tensor in found.values())
    assert totals == pytest.approx([totals[0]] * 3, rel=1e-4) and totals[0] > 1
    if norm is not nn.BatchNorm1d:  # it scales by 1/√(1 + ε)
        expected = scores(net(lambda _: nn.Identity()), SYNFLOW, BATCH)
        assert all(torch.equal(a, b) for a, b in zip(found.values(), expected.values(), strict=True))


def test_a_block_that_is_called_after_its_norm_keeps_its_weights_flow() -> None:
    class PreNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = LlamaRMSNorm(16), nn.Linear(16, 16, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norm(x))

    model = nn.Sequential(PreNorm(), nn.Linear(16, 4, bias=False))
    totals = [float(tensor.sum()) for tensor in scores(model, SYNFLOW, BATCH).values()]
    assert totals[0] == pytest.approx(totals[1], rel=1e-6) and totals[0] > 0


def test_a_softmax_at_the_end_leaves_nothing_to_rank() -> None:
    for end in (nn.Softmax(-1), nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1))):
        with pytest.raises(SecateurError, match=r"beyond rounding.*softmax"):
            prune(nn.Sequential(net(nn.LayerNorm), end), SYNFLOW, BATCH)


def test_what_lies_before_an_inner_softmax_has_no_flow_at_all() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.query, self.key = nn.Linear(16, 8, bias=False), nn.Linear(16, 8, bias=False)
            self.value, self.head = nn.Linear(16, 8, bias=False), nn.Linear(8, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            weights = (self.query(x) @ self.key(x).mT).softmax(-1)
            return self.head(weights @ self.value(x)).mean(1)

    batch = [(torch.randn(2, 5, 16), None)]
    found = scores(Attends(), SYNFLOW, batch)
    assert not found["query.weight"].any() and not found["key.weight"].any() and found["value.weight"].all()
    with pytest.warns(EmptyLayerWarning, match=r"query\.weight, key\.weight"):
        masks = prune(Attends(), SYNFLOW, batch)
    assert masks["value.weight"].any() and masks["head.weight"].any()
