"""Evidence of two processes is that of one process which saw the batches of both."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from distributed import measure_workers as workers
from secateur import Measure, gather, prunable
from secateur.measures import KNOWN
from secateur.propagation import importance

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo"),
]


@pytest.fixture(scope="module")
def ranks(found_by: Callable[..., list]) -> list[dict[str, dict[str, Tensor]]]:
    return found_by(workers.measure)


@pytest.mark.parametrize("name", workers.NAMES)
def test_ranks_agree_with_one_process_on_all_batches(ranks: list, name: str) -> None:
    """Also where only one of them reached a layer: on the other its evidence counts as zero."""
    model = workers.make_model()
    alone = gather(model, workers.make_batches(), [KNOWN[name]()], params=prunable(model))[name]
    for parameter, wanted in alone.items():
        first, second = (rank[name][parameter] for rank in ranks)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, wanted, rtol=1e-12, atol=1e-14)


def test_importance_is_that_of_the_responses_to_all_batches(ranks: list) -> None:
    chain = workers.make_chain()
    alone = gather(chain, workers.make_batches(), [importance()], params=prunable(chain))["importance"]
    for parameter, wanted in alone.items():
        first, second = (rank["importance"][parameter] for rank in ranks)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("measure", workers.CURVATURE, ids=lambda measure: measure.name)
def test_curvature_is_that_of_all_samples(ranks: list, measure: Measure) -> None:
    chain = workers.make_chain()
    alone = gather(chain, workers.make_batches(), [measure], params=prunable(chain))[measure.name]
    for parameter, wanted in alone.items():
        first, second = (rank[measure.name][parameter] for rank in ranks)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, wanted, rtol=1e-10, atol=1e-13)
