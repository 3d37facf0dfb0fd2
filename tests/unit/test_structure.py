"""Structures: the units of what was expanded are what was kept, and they are the ones the notation says."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes.structure import Structure, blocks, columns, filters, heads, kernels, mean, stripes, total, weights

# What a stranger may write: entries moved, units of uneven size padded with zeros.
mirrored = Structure(
    "mirrored", lambda tensor: torch.stack([tensor.flatten(), tensor.flatten().flip(0)], 1)[: tensor.numel() // 2]
)
ragged = Structure(
    "ragged", lambda tensor: nn.functional.pad(tensor.flatten(), (0, -tensor.numel() % 5)).reshape(-1, 5)
)
MATRICES = [columns(), kernels(), stripes(), blocks(4, 1), blocks(1, 4), blocks(2, 3), blocks(5, 5)]
ALL = [weights(), filters(), heads(2), mirrored, ragged, *MATRICES]
SHAPES = [(4,), (6, 7), (2, 1), (4, 6, 3), (4, 5, 3, 3), (6, 7, 1, 1), (2, 3, 2, 1, 3)]


def _bits(structure: Structure, shape: tuple[int, ...]) -> Tensor:
    count = structure.split(torch.zeros(shape)).shape[0]
    return torch.rand(count, generator=torch.Generator().manual_seed(1)) < 0.5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("structure", ALL, ids=lambda s: s.name)
def test_units_undo_expand(structure: Structure, shape: tuple[int, ...]) -> None:
    if len(shape) == 1 and structure in MATRICES:
        with pytest.raises(SecateurError, match="outputs and inputs"):
            structure.split(torch.zeros(shape))
        return
    bits = _bits(structure, shape)
    mask = structure.expand({"w": bits}, {"w": torch.Size(shape)})["w"]
    assert mask.shape == shape and mask.is_contiguous()
    # A padded entry of a unit belongs to no weight: only real entries are compared.
    real = structure.split(torch.ones(shape, dtype=torch.bool))
    assert int(real.sum()) == mask.numel()  # every entry belongs to one unit
    assert torch.equal(structure.units({"w": mask})["w"], bits[:, None] & real)


@pytest.mark.parametrize("structure", [s for s in ALL if s not in (mirrored, ragged)], ids=lambda s: s.name)
def test_masks_follow_a_permutation_of_the_kernel_positions(structure: Structure) -> None:
    scores = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(2))
    order = torch.tensor([3, 1, 0, 5, 2, 4])

    def mask_of(tensor: Tensor) -> Tensor:
        units = structure.scores("w", tensor)
        return structure.expand({"w": units > units.median()}, {"w": tensor.shape})["w"]

    assert torch.equal(mask_of(scores[:, :, order]), mask_of(scores)[:, :, order])


@pytest.mark.parametrize("structure", ALL, ids=lambda s: s.name)
def test_totals_add_up_to_the_total(structure: Structure) -> None:
    scores = torch.randint(0, 9, (4, 6, 5), generator=torch.Generator().manual_seed(3)).double()
    assert structure.scores("w", scores).sum() == scores.sum()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_blocks_partition_any_tensor(outputs: int, inputs: int, rest: int, rows: int, cols: int) -> None:
    shape = torch.Size((outputs, inputs, rest))
    bits = _bits(blocks(rows, cols), shape)
    mask = blocks(rows, cols).expand({"w": bits}, {"w": shape})["w"]
    tiles = bits.reshape(-(-outputs // rows), -(-inputs // cols), rest)
    for o, i, r in itertools.product(*map(range, shape)):
        assert mask[o, i, r] == tiles[o // rows, i // cols, r]


def test_units_by_hand() -> None:
    w = torch.arange(12.0).reshape(2, 3, 2)  # outputs, inputs, positions
    assert filters().split(w).tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert columns().split(w).tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert kernels().split(w).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert stripes().split(w).tolist() == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]
    assert blocks(2, 1).split(w[:, :, 0]).tolist() == [[0, 6], [2, 8], [4, 10]]


def test_reductions() -> None:
    scores = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    assert total(scores).tolist() == [4, 10]
    assert mean(scores).tolist() == [2, 5]
    assert filters(reduce=mean).scores("w", scores).tolist() == [2, 5]


def test_weights_keep_their_shape_and_storage() -> None:
    scores = torch.rand(3, 4)
    assert weights().scores("w", scores) is scores  # nothing is copied for a billion scores


def test_heads_need_a_divisor() -> None:
    with pytest.raises(SecateurError, match="divisible by 3"):
        heads(3).split(torch.zeros(4, 2))


def test_a_vector_has_no_columns() -> None:
    with pytest.raises(SecateurError, match="structure columns needs weights with outputs and inputs"):
        columns().split(torch.zeros(4))


def test_units_of_one_entry_are_reduced_as_larger_ones_are() -> None:
    """A sum of one entry is that entry; another reduction has its say too."""

    def size(scores: Tensor) -> Tensor:
        return scores.sum(1).abs()

    column = torch.tensor([[-3.0], [1.0], [-2.0]])
    assert filters(reduce=size).scores("w", column).flatten().tolist() == [3.0, 1.0, 2.0]
    assert filters().scores("w", column).flatten().tolist() == [-3.0, 1.0, -2.0]
    assert weights().scores("w", column).shape == (3, 1)
