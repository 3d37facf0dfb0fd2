"""The prunable set: which tensors count, by default and by choice."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from secateur import methods, prunable, prune, scores
from secateur._base.errors import SecateurError


class _Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.conv = nn.Conv1d(6, 6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.attention = nn.MultiheadAttention(6, 2)
        self.gru = nn.GRU(6, 6, bidirectional=True)
        self.cell = nn.LSTMCell(6, 6)
        self.layer_norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7)
        self.tied = nn.Linear(6, 7)
        self.tied.weight = self.embedding.weight
        self.again = self.head  # a module used twice


def test_default_set() -> None:
    assert list(prunable(_Everything())) == [
        "conv.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "gru.weight_ih_l0",
        "gru.weight_hh_l0",
        "gru.weight_ih_l0_reverse",
        "gru.weight_hh_l0_reverse",
        "cell.weight_ih",
        "cell.weight_hh",
        "head.weight",
    ]


def test_biases_of_layers_but_not_of_norms() -> None:
    extra = set(prunable(_Everything(), biases=True)) - set(prunable(_Everything()))
    assert "conv.bias" in extra and "head.bias" in extra and "attention.in_proj_bias" in extra
    assert not any("norm" in name for name in extra)


def test_only_narrows_by_predicate_name_and_glob() -> None:
    model = _Everything()
    assert list(prunable(model, lambda name, p: p.dim() == 3)) == ["conv.weight"]
    assert list(prunable(model, "gru.weight_hh*")) == ["gru.weight_hh_l0", "gru.weight_hh_l0_reverse"]
    assert list(prunable(model, ["embedding.weight"])) == ["embedding.weight"]  # an exact name reaches further


def test_only_that_matches_nothing_suggests_a_name() -> None:
    with pytest.raises(
        SecateurError, match=r"no prunable parameter matches 'hed.weight'. Did you mean 'head.weight'\?"
    ):
        prunable(_Everything(), "hed.weight")


def test_nothing_to_prune_is_an_error() -> None:
    with pytest.raises(SecateurError, match="Nothing to prune in LayerNorm"):
        prunable(nn.LayerNorm(4))


def test_lazy_modules_are_refused() -> None:
    with pytest.raises(SecateurError, match="not initialised yet"):
        prunable(nn.LazyLinear(3))


def test_a_tied_weight_is_one_tensor_with_one_mask() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 4)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(x))

    model = Tied()
    data = (torch.arange(9), torch.arange(9))
    masks = prune(model, methods.snip(density=0.5), [data], only="embedding.weight")
    assert masks.numel == 36 and masks.kept == 18
    assert int((model.head.weight != 0).sum()) <= 18 and model.head.weight is model.embedding.weight
    # The gradient is the sum of both uses: each alone gives other scores.
    both = scores(Tied_copy := copy.deepcopy(model), methods.snip(density=0.5), [data], only="embedding.weight")
    loss = nn.functional.cross_entropy(Tied_copy(data[0]), data[1])
    (grad,) = torch.autograd.grad(loss, [Tied_copy.embedding.weight])
    torch.testing.assert_close(both["embedding.weight"], (grad * Tied_copy.embedding.weight.detach()).abs())
