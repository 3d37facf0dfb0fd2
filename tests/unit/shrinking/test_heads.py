"""Heads of attention that are dead through their values, or through what reads them, whatever their queries are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Masks, shrink

WIDTH, STREAM = 6, 12


class Attention(nn.Module):
    """Four heads; one of torch's operation, matrix products by hand, or queries in groups of two."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.heads, self.groups = kind, 4, 2 if kind == "grouped" else 4
        self.q, self.out = nn.Linear(STREAM, self.heads * WIDTH), nn.Linear(self.heads * WIDTH, STREAM)
        self.k, self.v = (nn.Linear(STREAM, self.groups * WIDTH) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, WIDTH)).transpose(1, 2)
        k, v = (each(x).unflatten(-1, (self.groups, WIDTH)).transpose(1, 2) for each in (self.k, self.v))
        if self.kind == "by hand":
            mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.kind == "grouped")
        return self.out(mixed.transpose(1, 2).flatten(2))


X = torch.randn(2, 5, STREAM, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["torch's", "by hand", "grouped"])
@pytest.mark.parametrize("where", ["values", "readers"])
def test_a_head_goes_with_its_values_or_with_what_reads_it(kind: str, where: str) -> None:
    model = Attention(kind)
    per = model.heads // model.groups
    tensor = model.v.weight if where == "values" else model.out.weight
    mask = torch.ones_like(tensor, dtype=torch.bool)
    if where == "values":
        mask[WIDTH : 2 * WIDTH] = False  # of head 1, or of group 1
    else:
        mask[:, per * WIDTH : 2 * per * WIDTH] = False
    small, certificate, manifest = shrink(model, Masks({"v.weight" if where == "values" else "out.weight": mask}), X)
    assert small.q.out_features == small.out.in_features == (model.heads - per) * WIDTH
    assert small.k.out_features == small.v.out_features == (model.groups - 1) * WIDTH
    assert set(range(24)) - set(manifest.kept["q.weight"][0]) == set(range(per * WIDTH, 2 * per * WIDTH))
    assert certificate.worst < 1e-12


def test_queries_alone_kill_no_head() -> None:
    """Without queries a head still gives out the mean of its values."""
    model = Attention("torch's")
    mask = torch.ones_like(model.q.weight, dtype=torch.bool)
    mask[WIDTH : 2 * WIDTH] = False
    small = shrink(model, Masks({"q.weight": mask}), X).model
    assert small.v.out_features == small.q.out_features == 24


def test_one_head_of_a_group_is_not_the_group() -> None:
    model = Attention("grouped")
    mask = torch.ones_like(model.out.weight, dtype=torch.bool)
    mask[:, WIDTH : 2 * WIDTH] = False
    small = shrink(model, Masks({"out.weight": mask}), X).model
    assert small.v.out_features == small.k.out_features == 12
