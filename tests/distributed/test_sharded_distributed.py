"""Models cut up over processes: scores stay where they are, and the masks are those of one process, bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from distributed import sharded_workers as workers
from secateur import Masks, prune
from secateur.selection import topk_mask

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo"),
]
Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def two(found_by: Callable[..., Results]) -> Results:
    return found_by(workers.shard)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("four")
    torch.multiprocessing.spawn(workers.shard, args=(str(folder), 4), nprocs=4, join=True)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(4)]


@pytest.fixture(params=["two", "four"])
def ranks(request: pytest.FixtureRequest) -> Results:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", workers.PLANS)
def test_masks_are_those_of_one_process(ranks: Results, name: str) -> None:
    model = workers.make_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = prune(model, workers.PLANS[name], [workers.make_batch()], generator=torch.Generator().manual_seed(7))
    assert 0 < alone.kept < alone.numel
    for found in ranks:
        assert Masks(found["masks"][name]) == alone and list(found["masks"][name]) == list(alone)
        for own, parameter in model.named_parameters():  # the zeros are written, and nothing else
            assert torch.equal(found["weights"][name][own], parameter)
        assert found["clean"]
        assert all(torch.equal(found["buffers"][own], buffer) for own, buffer in model.named_buffers())


def test_each_process_holds_a_part(ranks: Results) -> None:
    sizes = [parameter.numel() for parameter in workers.make_model().parameters()]
    for name in workers.PLANS:
        parts = [found["shares"][name] for found in ranks]
        assert [sum(each) for each in zip(*parts, strict=True)] == sizes
        assert all(max(each) < size for each, size in zip(zip(*parts, strict=True), sizes, strict=True) if size > 3)


def test_selection_equals_that_of_the_whole(ranks: Results) -> None:
    scores = workers.make_scores()
    for found in ranks:
        for name, masks in found["selected"].items():
            own = {each: scores[each] for each in masks}
            expected = topk_mask(own, int(name.rpartition(" ")[2]))
            assert all(torch.equal(masks[each], expected[each]) for each in own), name
    assert len(ranks[0]["selected"]) == (19 if len(ranks) == 4 else 7)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("per_row", "not chosen from row by row there"),
        ("n_of_m", "n_of_m(1, 2) does not choose from whole layers"),
        ("budget", "not chosen from within a budget there"),
        ("threshold", "not chosen from by a threshold there"),
        ("rounds", "cuts in several rounds"),
        ("measure", "'grad_magnitude' cannot be measured"),
        ("wanda", "'input_norm' cannot be measured"),
        ("units", "cuts filters"),
        ("rank", "ranks scores after"),
        ("repair", "repairs the survivors"),
    ],
)
def test_what_is_not_had_there_is_refused_by_every_process(ranks: Results, name: str, said: str) -> None:
    for found in ranks:
        assert said in found["refused"][name] and found["refused"][f"{name} untouched"]


def test_what_one_process_finds_wrong_all_refuse(ranks: Results) -> None:
    for found in ranks:
        refused = found["refused"]
        assert "goes on from `masks`" in refused["masks"]
        assert "`scores['0.weight']` must be finite" in refused["nan"] and "1 NaN" in refused["nan"]
        assert "bfloat16, in which gradients underflow" in refused["half"]
        assert "All scores are equal (0)" in refused["equal"]
