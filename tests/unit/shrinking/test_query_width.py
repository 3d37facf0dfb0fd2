"""The width of queries and keys under a scale of 1/√width: √(d'/d) goes into the queries."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Masks, load, shrink

HEADS, WIDTH, STREAM = 3, 8, 12
X = torch.randn(2, 5, STREAM, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Plain, with one weight for queries and keys, with queries that are read twice, or normalised."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.heads = kind, HEADS
        self.q, self.k, self.v = (nn.Linear(STREAM, HEADS * WIDTH) for _ in range(3))
        self.out, self.norm = nn.Linear(HEADS * WIDTH, STREAM), nn.RMSNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = (self.q if self.kind == "shared" else self.k)(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.kind == "normalised":
            q = self.norm(q)
        out = F.scaled_dot_product_attention(q, k, v)
        if self.kind == "read twice":
            out = out * q.sum(-1, keepdim=True)
        return self.out(out.transpose(1, 2).flatten(2))


def without(places: list[int]) -> Masks:
    """Masks that leave nothing of the same places of queries and keys in every head."""
    keep = torch.ones(HEADS, WIDTH, STREAM, dtype=torch.bool)
    keep[:, places] = False
    return Masks({f"{name}.weight": keep.flatten(0, 1) for name in ("q", "k")})


def test_the_narrower_queries_are_scaled_and_the_function_is_the_same(tmp_path: Path) -> None:
    net = Attention()
    shrunk = shrink(net, without([1, 4, 6]), X)
    small = shrunk.model
    assert small.q.out_features == small.k.out_features == HEADS * 5 and small.v.out_features == HEADS * 8
    kept = shrunk.manifest.kept["q.weight"][0]
    factor = math.sqrt(5 / 8)
    torch.testing.assert_close(small.q.weight, net.q.weight[list(kept)] * factor)
    torch.testing.assert_close(small.q.bias, net.q.bias[list(kept)] * factor)
    torch.testing.assert_close(small.k.weight, net.k.weight[list(kept)])
    assert shrunk.certificate.worst < 1e-12
    full = shrunk.manifest.undo(small, net)
    shrunk.save(tmp_path / "small")
    again = load(tmp_path / "small", Attention()).model
    assert again is not None
    with torch.no_grad():
        torch.testing.assert_close(full(X), small(X))
        torch.testing.assert_close(again(X), small(X))


def test_cut_twice_the_factors_multiply() -> None:
    net = Attention()
    first = shrink(net, 0.75, X, only=["q", "k"])
    second = shrink(first.model, 0.5, X, only=["q", "k"])
    joined = first.manifest.then(second.manifest)
    width = second.model.q.out_features // second.model.heads  # heads went as well, and have no say in the scale
    assert joined.rescaled["q.weight"][0] == pytest.approx(math.sqrt(width / WIDTH))
    assert width == 3
    with torch.no_grad():
        torch.testing.assert_close(joined.undo(second.model, net)(X), second.model(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["shared", "read twice", "normalised"])
def test_where_queries_are_made_or_read_otherwise_the_width_stays(kind: str) -> None:
    net = Attention(kind)
    small = shrink(net, without([1, 4, 6]), X).model
    assert small.q.out_features == net.q.out_features


def test_an_optimizer_is_told() -> None:
    net = Attention()
    shrunk = shrink(net, without([2]), X, optimizer=torch.optim.SGD(net.parameters(), 0.1))
    assert "weights of queries were scaled" in " ".join(shrunk.certificate.not_claimed)
