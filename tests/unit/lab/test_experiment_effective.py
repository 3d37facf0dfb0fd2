"""Effective weights against a count of paths by matrix products, which knows nothing of reachability."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur.lab.running import is_chain, layer_uses


def by_counting_paths(masks: list[Tensor]) -> list[int]:
    """A weight is effective when the number of paths through it is not zero (float64: exact at this size)."""
    counts = []
    for depth, mask in enumerate(masks):
        into = torch.ones(masks[0].shape[1], dtype=torch.float64)
        for before in masks[:depth]:
            into = before.double() @ into
        out = torch.ones(masks[-1].shape[0], dtype=torch.float64)
        for after in reversed(masks[depth + 1 :]):
            out = out @ after.double()
        counts.append(int((mask.double() * out[:, None] * into != 0).sum()))
    return counts


@pytest.mark.parametrize("density", [0.0, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("widths", [(4, 3), (9, 7, 5), (12, 10, 8, 6, 4)])
def test_effective_weights_are_those_with_paths(
    widths: tuple[int, ...], density: float, generator: torch.Generator
) -> None:
    shapes = zip(widths[1:], widths[:-1], strict=True)
    masks = {f"{k}.weight": torch.rand(shape, generator=generator) < density for k, shape in enumerate(shapes)}
    uses = layer_uses(masks)
    assert [use.effective for use in uses] == by_counting_paths(list(masks.values()))
    for use, mask in zip(uses, masks.values(), strict=True):
        assert (use.kept, use.numel) == (mask.sum(), mask.numel())
        assert use.empty_rows == sum(not row.any() for row in mask)
        assert use.empty_columns == sum(not column.any() for column in mask.T)


def test_kernels_count_by_channel_and_are_no_chain() -> None:
    mask = torch.zeros(2, 3, 5, 5, dtype=torch.bool)
    mask[0, 1, 4, 4] = True
    (use,) = layer_uses({"conv.weight": mask})
    assert (use.empty_rows, use.empty_columns, use.effective) == (1, 2, None)


def test_biases_have_no_rows_and_do_not_break_a_chain() -> None:
    masks = {"1.weight": torch.ones(2, 3).bool(), "1.bias": torch.zeros(2).bool(), "2.weight": torch.ones(1, 2).bool()}
    first, bias, second = layer_uses(masks)
    assert (bias.empty_rows, bias.empty_columns, bias.effective) == (None, None, None)
    assert (first.effective, second.effective) == (6, 2)


def test_what_is_no_chain() -> None:
    ones = torch.ones
    assert not is_chain({"a.weight": ones(2, 3).bool(), "b.weight": ones(2, 3).bool()})
    assert not is_chain({"a.weight": ones(2, 3).bool(), "norm.weight": ones(2).bool()})
    assert not is_chain({"a.bias": ones(2).bool()})
    assert not is_chain({})
    chain = {"a.weight": ones(2, 3).bool()}
    assert is_chain(chain) and layer_uses(chain, effective=False)[0].effective is None
