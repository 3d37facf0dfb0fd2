"""GCS: the derivative of the gradients' inner products, by finite differences, and where it is GraSP's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from secateur import SecateurError, gather, methods, prunable, prune, scores
from secateur.curvature import gradient_coupling


def _net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def _batch(size: int = 12) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return torch.randn(size, 4, dtype=torch.float64, generator=drawn), torch.randint(3, (size,), generator=drawn)


def _inner(values: dict[str, Tensor], groups: list[tuple[Tensor, Tensor]], temperature: float) -> float:
    """Σ_{i<j} ⟨g_i, g_j⟩ over the weights at these values."""
    net, found = _net(), []
    for x, y in groups:
        own = {name: value.clone().requires_grad_() for name, value in values.items()}
        loss = F.cross_entropy(functional_call(net, own, (x,)) / temperature, y)
        grads = torch.autograd.grad(loss, [own["0.weight"], own["2.weight"]])
        found.append(torch.cat([grad.flatten() for grad in grads]))
    return sum(float(found[i] @ found[j]) for i in range(len(found)) for j in range(i + 1, len(found)))


@pytest.mark.parametrize("by_label", [True, False])
@pytest.mark.parametrize("groups", [2, 3])
def test_it_is_the_derivative_of_the_inner_products(groups: int, by_label: bool) -> None:
    net, (x, y) = _net(), _batch()
    asked = gradient_coupling(groups=groups, by_label=by_label, temperature=2.0)
    found = gather(net, [(x, y)], [asked], params=prunable(net))
    order = torch.tensor(sorted(range(12), key=lambda index: (int(y[index]), index)))
    size = 12 // groups
    rows = [order[i * size : (i + 1) * size] if by_label else order[i::groups] for i in range(groups)]
    parts = [(x[each], y[each]) for each in rows]
    values = {name: p.detach() for name, p in net.named_parameters()}
    for name, place in [("0.weight", (2, 1)), ("2.weight", (0, 3)), ("2.weight", (2, 4))]:
        ends = []
        for sign in (1, -1):
            moved = {each: value.clone() for each, value in values.items()}
            moved[name][place] += sign * 1e-5
            ends.append(_inner(moved, parts, 2.0))
        slope = float(found["gradient_coupling"][name][place])
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_of_equal_groups_it_ranks_as_grasp() -> None:
    x, y = _batch(9)
    twice = (x.repeat_interleave(2, 0), y.repeat_interleave(2))
    coupled = scores(_net(), methods.gcs(0.5, by_label=False), [twice])
    flow = scores(_net(), methods.grasp(0.5, signed=False), [(x, y)])
    for name in flow:
        assert torch.allclose(coupled[name], 2 * flow[name], rtol=1e-6, atol=0)


def test_exactly_what_was_asked_for_stays_and_bad_input_is_refused_unchanged() -> None:
    net = _net()
    before = [p.detach().clone() for p in net.parameters()]
    for batch, said in [
        (torch.randn(6, 4, dtype=torch.float64), "labels|inputs, targets|targets"),
        (_batch(1), "`groups`=2 cannot be made of a batch of 1"),
    ]:
        with pytest.raises(SecateurError, match=said):
            prune(net, methods.gcs(0.3), [batch])
    with pytest.raises(SecateurError, match="`groups` must be at least 2"):
        methods.gcs(0.5, groups=1)
    assert all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
    masks = prune(net, methods.gcs(0.3), [_batch(), _batch(7)])
    assert masks.kept == int(0.3 * sum(p.numel() for p in prunable(net).values()) + 0.5)
