"""Reconstruction against its definitions: least squares by lstsq, sweeps by the plain loop, removals by brute force."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from secateur import SecateurError
from secateur.repairs import column_sweep, damped, error_of, exact_removal, inverse_factor, least_squares


def _layer(seed: int = 0, outputs: int = 6, inputs: int = 9, samples: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, correlated inputs (in × samples), and their second moments."""
    drawn = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=drawn, dtype=torch.float64)
    x = mix @ torch.randn(inputs, samples, generator=drawn, dtype=torch.float64)
    return torch.randn(outputs, inputs, generator=drawn, dtype=torch.float64), x, x @ x.T


# --- moments ----------------------------------------------------------------------------------------------------------


def test_the_error_is_that_of_the_outputs() -> None:
    weight, x, gram = _layer()
    change = torch.randn_like(weight)
    torch.testing.assert_close(error_of(change, gram), (change @ x).square().sum(1))


def test_least_squares_is_the_regression_on_what_is_kept() -> None:
    weight, x, gram = _layer(1)
    keep = torch.rand(6, 9, generator=torch.Generator().manual_seed(5)) < 0.5
    keep[0] = keep[1]  # two rows of one pattern
    keep[2] = False
    found = least_squares(weight, keep, gram)
    for row in range(6):
        places = keep[row].nonzero().flatten()
        wanted = torch.zeros(9, dtype=torch.float64)
        if len(places):
            wanted[places] = torch.linalg.lstsq(x[places].T, (weight[row] @ x)[:, None]).solution[:, 0]
        torch.testing.assert_close(found[row], wanted)


def test_damping_and_dead_inputs() -> None:
    _, x, _ = _layer(2)
    x[3] = 0
    moments, dead = damped(x @ x.T, 0.01)
    assert dead.tolist() == [number == 3 for number in range(9)]
    added = 0.01 * float((x @ x.T).diagonal().mean())
    wanted = x @ x.T + added * torch.eye(9, dtype=torch.float64)
    wanted[3, 3] = 1
    torch.testing.assert_close(moments, wanted)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(float("nan"), "not finite: look for NaN"), (-1.0, "negative diagonal"), (None, "`damping` must be at least 0")],
)
def test_moments_that_are_none_are_refused(spoil: float | None, said: str) -> None:
    gram = _layer()[2]
    if spoil is not None:
        gram[2, 2] = spoil
    with pytest.raises(SecateurError, match=said):
        damped(gram, 0.01 if spoil is not None else -1.0)


@pytest.mark.parametrize("inputs", [1, 9, 63, 130])
def test_the_factor_is_that_of_the_inverse(inputs: int) -> None:
    gram = _layer(13, inputs=inputs, samples=3 * inputs)[2]
    factor = inverse_factor(gram)
    assert bool((factor.tril(-1) == 0).all()) and bool((factor.diagonal() > 0).all())
    torch.testing.assert_close(factor.T @ factor @ gram, torch.eye(inputs, dtype=torch.float64), rtol=0, atol=1e-6)


# --- the sweep --------------------------------------------------------------------------------------------------------


def _plain_sweep(weight: Tensor, gram: Tensor, density: float, block: int) -> tuple[Tensor, Tensor]:
    """Algorithm 1 column by column, by deflating the inverse itself instead of a Cholesky factor."""
    w, inverse = weight.clone(), torch.linalg.inv(gram)
    outputs, inputs = w.shape
    keep = torch.ones_like(w, dtype=torch.bool)
    for j in range(inputs):
        if j % block == 0:
            part = inverse.clone()
            worth = torch.zeros(outputs, min(block, inputs - j), dtype=w.dtype)
            for i in range(worth.shape[1]):  # [H⁻¹]_ii once all before it are fixed
                worth[:, i] = w[:, j + i].square() / part[j + i, j + i]
                part = part - part[:, j + i, None] * part[j + i] / part[j + i, j + i]
            count = int(density * outputs * (j + worth.shape[1]) + 0.5) - int(density * outputs * j + 0.5)
            order = sorted(range(worth.numel()), key=lambda n: -float(worth.flatten()[n]))
            bits = torch.zeros(worth.numel(), dtype=torch.bool)
            bits[order[:count]] = True
            keep[:, j : j + worth.shape[1]] = bits.reshape(worth.shape)
        cut = torch.where(keep[:, j], 0.0, w[:, j])
        w = w - cut[:, None] / inverse[j, j] * inverse[j]
        inverse = inverse - inverse[:, j, None] * inverse[j] / inverse[j, j]
        inverse[j, j] = 1.0  # is not looked at again
    return w * keep, keep


@pytest.mark.parametrize(("density", "block"), [(0.5, 4), (0.3, 9), (0.77, 128), (0.5, 1)])
def test_the_sweep_is_the_published_loop(density: float, block: int) -> None:
    weight, _, gram = _layer(3)
    wanted, bits = _plain_sweep(weight, gram, density, block)
    found, keep = column_sweep(weight, inverse_factor(gram), density=density, block=block)
    assert torch.equal(keep, bits) and int(keep.sum()) == int(density * weight.numel() + 0.5)
    torch.testing.assert_close(found, wanted)


def test_a_wide_layer_goes_through_inner_and_outer_blocks_alike() -> None:
    weight, _, gram = _layer(4, outputs=5, inputs=70, samples=200)
    wanted, bits = _plain_sweep(weight, gram, 0.4, 33)
    found, keep = column_sweep(weight, inverse_factor(gram), density=0.4, block=33)
    assert torch.equal(keep, bits)
    torch.testing.assert_close(found, wanted)


def test_a_given_mask_is_kept_and_made_up_for() -> None:
    weight, _, gram = _layer(5)
    factor = inverse_factor(gram)
    chosen, keep = column_sweep(weight, factor, density=0.5, block=3)
    again, same = column_sweep(weight, factor, keep=keep)
    assert torch.equal(same, keep)
    torch.testing.assert_close(again, chosen)
    other = torch.rand(6, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    found, bits = column_sweep(weight, factor, keep=other)
    assert torch.equal(bits, other) and bool((found[~other] == 0).all())
    assert float(error_of(found - weight, gram).sum()) < float(error_of(weight * other - weight, gram).sum())


def test_uncorrelated_inputs_leave_nothing_to_make_up_for() -> None:
    weight = _layer(6)[0]
    scale = torch.arange(1.0, 10.0, dtype=torch.float64)
    found, keep = column_sweep(weight, inverse_factor(torch.diag(scale)), density=0.5)
    torch.testing.assert_close(found, weight * keep)
    cut = (weight.square() * scale)[~keep]
    assert float((weight.square() * scale)[keep].min()) >= float(cut.max())


def test_a_pattern_leaves_n_of_each_m() -> None:
    weight, _, gram = _layer(7, inputs=12)
    found, keep = column_sweep(weight, inverse_factor(gram), pattern=(2, 4))
    assert bool((keep.reshape(6, 3, 4).sum(2) == 2).all())
    masked = column_sweep(weight, inverse_factor(gram), keep=keep)[0]
    torch.testing.assert_close(found, masked)


def test_sweeps_that_cannot_be_are_refused() -> None:
    weight, _, gram = _layer()
    with pytest.raises(SecateurError, match=r"not positive definite \(at input 0\): raise `damping`"):
        inverse_factor(torch.ones(9, 9, dtype=torch.float64) + torch.diag(torch.tensor([-0.5] + [1.0] * 8)).double())
    with pytest.raises(SecateurError, match="`factor` must be 9 × 9"):
        column_sweep(weight, gram[:4, :4])
    with pytest.raises(SecateurError, match=r"`pattern` must be \(N, M\).*9 inputs"):
        column_sweep(weight, gram, pattern=(2, 4))


# --- exact removal ----------------------------------------------------------------------------------------------------


def test_the_first_removal_is_the_best_of_all_and_costs_what_it_says() -> None:
    weight, _, gram = _layer(8)
    found, keep, trace = exact_removal(weight, gram, 1)
    for row in range(6):
        costs = []
        for place in range(9):
            bits = torch.ones(1, 9, dtype=torch.bool)
            bits[0, place] = False
            best = least_squares(weight[row : row + 1], bits, gram)
            costs.append(float(error_of(best - weight[row : row + 1], gram)[0]) / 2)
        assert int(trace.order[row, 0]) == min(range(9), key=costs.__getitem__)
        torch.testing.assert_close(float(trace.losses[row, 0]), min(costs))
    torch.testing.assert_close(found, least_squares(weight, keep, gram))


def test_what_is_left_is_the_least_squares_solution_and_losses_add_up() -> None:
    weight, _, gram = _layer(9)
    counts = torch.tensor([0, 2, 5, 9, 3, 1])
    found, keep, trace = exact_removal(weight, gram, counts)
    assert (~keep).sum(1).tolist() == counts.tolist()
    torch.testing.assert_close(found, least_squares(weight, keep, gram))
    rise = error_of(found - weight, gram) / 2
    paid = torch.where(trace.losses < torch.inf, trace.losses, 0.0).sum(1)
    torch.testing.assert_close(paid, rise)


def test_greedy_is_no_worse_than_magnitude_and_no_better_than_the_best_pair() -> None:
    weight, _, gram = _layer(10, outputs=1, inputs=7)
    greedy = float(error_of(exact_removal(weight, gram, 2)[0] - weight, gram)[0])
    pairs = []
    for pair in combinations(range(7), 2):
        bits = torch.ones(1, 7, dtype=torch.bool)
        bits[0, list(pair)] = False
        pairs.append(float(error_of(least_squares(weight, bits, gram) - weight, gram)[0]))
    assert greedy >= min(pairs) - 1e-9 and greedy < sorted(pairs)[len(pairs) // 2]


def test_a_row_does_not_depend_on_how_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row at a time, as of layers with more than 4,096 inputs, must leave the inverse of the others alone."""
    weight, _, gram = _layer(13, outputs=5, inputs=24, samples=60)
    whole = exact_removal(weight, gram, 15)
    monkeypatch.setattr("secateur.repairs._exact._BLOCK", 4)
    for numbers in (1, 2 * 24 * 24):
        monkeypatch.setattr("secateur.repairs._exact._AT_ONCE", numbers)
        found, keep, trace = exact_removal(weight, gram, 15)
        torch.testing.assert_close(found, whole[0])
        assert torch.equal(keep, whole[1]) and torch.equal(trace.order, whole[2].order)


def test_without_deflation_only_the_first_removal_is_the_same() -> None:
    weight, _, gram = _layer(11)
    one, same = exact_removal(weight, gram, 1), exact_removal(weight, gram, 1, deflate=False)
    torch.testing.assert_close(one[0], same[0])
    deflated = error_of(exact_removal(weight, gram, 5)[0] - weight, gram).sum()
    released = error_of(exact_removal(weight, gram, 5, deflate=False)[0] - weight, gram).sum()
    assert float(deflated) < float(released)


def test_rows_share_the_cheapest_removals_of_the_layer() -> None:
    weight, _, gram = _layer(12)
    trace = exact_removal(weight, gram, 9)[2]
    counts = trace.counts(20)
    assert int(counts.sum()) == 20
    levels = trace.losses.cummax(1).values
    taken = torch.cat([levels[row, : int(n)] for row, n in enumerate(counts)])
    left = torch.cat([levels[row, int(n) :] for row, n in enumerate(counts)])
    assert float(taken.max()) <= float(left.min())


def test_more_removals_than_there_are_weights_are_refused() -> None:
    weight, _, gram = _layer(14)
    with pytest.raises(SecateurError, match="`counts` must be one number in 0 … 9"):
        exact_removal(weight, gram, 10)
    trace = exact_removal(weight, gram, 2)[2]
    with pytest.raises(SecateurError, match="`cut` must be in 0 … 12, got 13"):
        trace.counts(13)
