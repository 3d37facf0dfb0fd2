"""Inf-FS against its power series, scipy's rank correlation done by hand, and what its graph says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur import SecateurError
from secateur.propagation import infinite_selection


def _features(seed: int = 0, samples: int = 40, count: int = 7) -> Tensor:
    drawn = torch.randn(samples, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn * torch.arange(1, count + 1)


def _adjacency(features: Tensor, alpha: float) -> Tensor:
    """Entry by entry, by the words of the definition."""
    rows, count = features.shape
    deviations = [float(((c - c.mean()) ** 2).mean() ** 0.5) for c in features.T]
    low, high = min(deviations), max(deviations)
    scaled = [(d - low) / (high - low) for d in deviations]
    ranks = [[sum(float(b < a) + 0.5 * float(b == a) for b in c) for a in c] for c in features.T]
    found = torch.zeros(count, count, dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            one, two = torch.tensor(ranks[i]), torch.tensor(ranks[j])
            rho = float(torch.corrcoef(torch.stack([one, two]))[0, 1])
            found[i, j] = alpha * max(scaled[i], scaled[j]) + (1 - alpha) * (1 - abs(rho))
    assert rows > 1
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5])
def test_it_is_the_sum_of_all_powers(alpha: float) -> None:
    features = _features()
    adjacency = _adjacency(features, alpha)
    r = 0.9 / float(torch.linalg.eigvals(adjacency).abs().max())
    term, total = torch.ones(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    for _ in range(600):
        term = r * adjacency @ term
        total += term
    torch.testing.assert_close(infinite_selection(features, alpha=alpha), total, rtol=1e-5, atol=1e-6)


def test_exchanging_features_exchanges_their_scores() -> None:
    features, order = _features(1), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(infinite_selection(features[:, order]), infinite_selection(features)[order])


def test_a_small_radius_ranks_by_the_row_sums_of_the_graph() -> None:
    features = _features(2)
    rows = _adjacency(features, 0.5).sum(1)
    assert infinite_selection(features, radius=1e-6).argsort().tolist() == rows.argsort().tolist()


def test_equal_values_share_their_rank_and_constant_features_go_with_none() -> None:
    features = torch.tensor([[0.0, 5.0, 1.0], [0.0, 5.0, 2.0], [1.0, 5.0, 3.0], [1.0, 5.0, 4.0]])
    found = infinite_selection(features, alpha=0.0)
    # |ρ(0, 2)| of ranks 0.5 0.5 2.5 2.5 and 0 1 2 3 is 2/√5; the constant one is unlike both.
    a = torch.tensor([[0, 1, 1 - 2 / 5**0.5], [1, 1, 1], [1 - 2 / 5**0.5, 1, 0]], dtype=torch.float64)
    a = a * (0.9 / float(torch.linalg.eigvalsh(a).max()))
    wanted = torch.linalg.inv(torch.eye(3, dtype=torch.float64) - a).sum(1) - 1
    torch.testing.assert_close(found, wanted)
    assert int(found.argmax()) == 1


def test_features_that_are_all_alike_are_all_worth_the_same() -> None:
    found = infinite_selection(torch.arange(5.0)[:, None].expand(5, 4))
    # To the rounding of the solve: which bits it ends in is the processor's affair.
    torch.testing.assert_close(found, found[0].expand(4), rtol=1e-12, atol=0.0)
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize(
    ("options", "said"),
    [({"alpha": 1.5}, r"`alpha` must be in \[0, 1\]"), ({"radius": 1.0}, r"`radius` in \(0, 1\), got 0\.5 and 1\.0")],
)
def test_what_cannot_be_is_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(SecateurError, match=said):
        infinite_selection(_features(), **options)
    with pytest.raises(SecateurError, match="at least two, and one column per feature, got shape"):
        infinite_selection(torch.ones(1, 4))
