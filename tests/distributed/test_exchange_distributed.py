"""Methods that move weights, in two processes: both hold the same masks after every step, whatever each has seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from distributed import exchange_workers as workers

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo"),
]


@pytest.fixture(scope="module")
def ranks(found_by: Callable[..., list]) -> list[dict]:
    return found_by(workers.exchange)


@pytest.mark.parametrize("name", workers.METHODS)
def test_all_ranks_hold_the_same_masks_and_weights(ranks: list, name: str) -> None:
    first, second = ({key: value[""] for key, value in rank.items() if key.startswith(f"{name} ")} for rank in ranks)
    assert first.keys() == second.keys() and len(first) == 2 * workers.STEPS + 4
    assert all(torch.equal(first[key], second[key]) for key in first)
    masks = [value for key, value in first.items() if "mask 0.weight" in key]
    assert any(not torch.equal(masks[0], mask) for mask in masks)  # something did move
