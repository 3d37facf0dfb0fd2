"""Removal under Kronecker factors and under blocks of low rank, against dense inverses of whole matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur import SecateurError
from secateur.repairs import BlockCost, RowCost, WeightCost, block_inverse

DRAWN = torch.Generator().manual_seed(7)


def positive(size: int) -> Tensor:
    x = torch.randn(size, 3 * size, dtype=torch.float64, generator=DRAWN)
    return x @ x.T / size


ROWS, A, G = torch.randn(4, 5, dtype=torch.float64, generator=DRAWN), positive(5), positive(4)


def test_costs_of_weights_are_obs_with_the_whole_kronecker_product() -> None:
    inverse = torch.linalg.inv(torch.kron(G, A))  # entries of a row-major weight
    want = ROWS.flatten().square() / (2 * inverse.diagonal())
    torch.testing.assert_close(WeightCost(damping=0.0)(ROWS, A, G).flatten(), want)


def test_costs_of_rows_are_exact_for_the_block_of_a_row() -> None:
    whole = torch.kron(G, A)
    inverse = torch.linalg.inv(whole)
    for i in range(4):
        block = slice(5 * i, 5 * i + 5)
        made_up = 0.5 * ROWS[i] @ torch.linalg.inv(inverse[block, block]) @ ROWS[i]
        torch.testing.assert_close(RowCost(damping=0.0)(ROWS, A, G)[i], made_up)
        torch.testing.assert_close(
            RowCost(made_up=False, damping=0.0)(ROWS, A, G)[i], 0.5 * ROWS[i] @ whole[block, block] @ ROWS[i]
        )


def test_with_unit_factors_all_of_them_are_the_energy_of_a_row() -> None:
    a, g = torch.eye(5).double(), torch.eye(4).double()
    energy = 0.5 * ROWS.square().sum(1)
    for found in (WeightCost(0.0)(ROWS, a, g).sum(1), RowCost(True, 0.0)(ROWS, a, g), RowCost(False, 0.0)(ROWS, a, g)):
        torch.testing.assert_close(found, energy)


def test_a_dead_input_and_a_unit_without_slope_cost_nothing() -> None:
    a, g = A.clone(), G.clone()
    a[2], a[:, 2], g[1], g[:, 1] = 0, 0, 0, 0
    found = WeightCost()(ROWS, a, g)
    assert bool((found[:, 2] == 0).all()) and bool((found[1] == 0).all()) and float(found[0, 0]) > 0
    assert float(RowCost()(ROWS, a, g)[1]) == 0


def test_groups_have_factors_of_their_own() -> None:
    both = torch.stack([A, positive(5)])
    found = WeightCost(0.0)(ROWS, both, G)
    torch.testing.assert_close(found[2:], WeightCost(0.0)(ROWS[2:], both[1], G[2:, 2:]))


@pytest.mark.parametrize(("count", "size"), [(3, 8), (8, 3), (5, 5)])
def test_a_block_is_inverted_as_if_it_had_been_formed(count: int, size: int) -> None:
    grads = torch.randn(2, count, size, dtype=torch.float64, generator=DRAWN)
    columns = torch.randn(2, size, 4, dtype=torch.float64, generator=DRAWN)
    for k in range(2):
        fisher = 0.1 * torch.eye(size).double() + grads[k].T @ grads[k] / count
        torch.testing.assert_close(block_inverse(grads, 0.1, columns)[k], torch.linalg.solve(fisher, columns[k]))


@pytest.mark.parametrize("count", [2, 20])
def test_costs_of_blocks_with_a_last_one_that_is_shorter(count: int) -> None:
    weight = torch.randn(3, 5, dtype=torch.float64, generator=DRAWN)
    grads = torch.randn(count, 3, 5, dtype=torch.float64, generator=DRAWN)
    found = BlockCost(block=4, damping=0.05)(weight, grads).flatten()
    flat = grads.flatten(1)
    for first in range(0, 15, 4):
        part = flat[:, first : first + 4]
        fisher = 0.05 * torch.eye(part.shape[1]).double() + part.T @ part / count
        want = weight.flatten()[first : first + 4].square() / (2 * torch.linalg.inv(fisher).diagonal())
        torch.testing.assert_close(found[first : first + 4], want)


def test_blocks_of_one_are_the_diagonal_and_without_gradients_it_is_magnitude() -> None:
    weight = torch.randn(2, 3, dtype=torch.float64, generator=DRAWN)
    grads = torch.randn(6, 2, 3, dtype=torch.float64, generator=DRAWN)
    diagonal = 0.01 + grads.square().mean(0)
    torch.testing.assert_close(BlockCost(1, 0.01)(weight, grads), weight.square() * diagonal / 2)
    torch.testing.assert_close(BlockCost(4, 0.01)(weight, 0 * grads), weight.square() * 0.01 / 2)


def test_gradients_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(SecateurError, match="gradients of some samples are not finite"):
        BlockCost()(torch.ones(2, 2), torch.full((3, 2, 2), torch.nan))
    with pytest.raises(SecateurError, match="not finite"):
        WeightCost()(ROWS, torch.full_like(A, torch.inf), G)
