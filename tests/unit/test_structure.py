"""Structures: splitting and joining are inverse, and the units are the ones the notation says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur._base.errors import SecateurError
from secateur.axes.structure import Structure, blocks, columns, filters, heads, kernels, mean, stripes, total, weights

ALL = [weights(), filters(), columns(), kernels(), stripes(), blocks(4, 1), blocks(2, 3), heads(2)]
SHAPES = [(4, 6), (4, 6, 3), (4, 5, 3, 3), (2, 1), (6, 7, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("structure", ALL, ids=lambda s: s.name)
def test_join_undoes_split(structure: Structure, shape: tuple[int, ...]) -> None:
    tensor = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)
    units = structure.units({"w": tensor})["w"]
    assert torch.equal(structure.join(units, tensor.shape), tensor)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("structure", ALL, ids=lambda s: s.name)
def test_expand_then_units_gives_the_same_bits_for_all_entries(structure: Structure, shape: tuple[int, ...]) -> None:
    size = torch.Size(shape)
    count = structure.units({"w": torch.zeros(shape)})["w"].shape[0]
    bits = torch.rand(count, generator=torch.Generator().manual_seed(1)) < 0.5
    mask = structure.expand({"w": bits}, {"w": size})["w"]
    assert mask.shape == size
    units = structure.split(mask)
    # A padded entry of a ragged block belongs to no weight: only real entries are compared.
    real = structure.split(torch.ones(shape, dtype=torch.bool))
    assert torch.equal(units, bits[:, None] & real)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_blocks_partition_any_matrix(outputs: int, inputs: int, rows: int, cols: int) -> None:
    structure = blocks(rows, cols)
    tensor = torch.arange(1.0, 1 + outputs * inputs).reshape(outputs, inputs)
    units = structure.split(tensor)
    assert torch.equal(units.flatten()[units.flatten() > 0].sort().values, tensor.flatten())
    assert torch.equal(structure.join(units, tensor.shape), tensor)


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
