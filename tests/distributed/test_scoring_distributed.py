"""Scoring in two processes: evidence is combined, so all ranks choose the same weights, those of one process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.distributed as dist
from torch import Tensor

from distributed import scoring_workers as workers
from secateur import Masks, prune

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo"),
]


@pytest.fixture(scope="module")
def ranks(found_by: Callable[..., list]) -> list[dict[str, dict[str, Tensor]]]:
    return found_by(workers.score)


@pytest.mark.parametrize("wrapping", ["plain", "ddp"])
@pytest.mark.parametrize("name", workers.PLANS)
def test_all_ranks_have_the_same_masks(ranks: list, name: str, wrapping: str) -> None:
    first, second = (Masks(rank[f"{name} {wrapping}"]) for rank in ranks)
    assert first == second and first.kept == round(0.2 * first.numel)


@pytest.mark.parametrize("name", ["snip", "grasp", "iter_snip", "synflow"])
def test_they_are_the_masks_of_one_process_on_all_batches(ranks: list, name: str) -> None:
    alone = prune(workers.make_model(), workers.PLANS[name], workers.make_batches())
    assert Masks(ranks[0][f"{name} ddp"]) == alone
