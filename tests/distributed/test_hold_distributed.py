"""Holding in several processes: DDP and FSDP2 train like w ⊙ m in one process, and all ranks agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from distributed import workers

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo"),
]

Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ddp(found_by: Callable[..., Results]) -> Results:
    return found_by(workers.ddp)


@pytest.fixture(scope="module")
def fsdp2(found_by: Callable[..., Results]) -> Results:
    return found_by(workers.fsdp2)


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # The mean over two halves of a batch is not the mean over the batch in the last bit.
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def assert_zeros(found: dict[str, Tensor]) -> None:
    for name, mask in workers.make_masks().items():
        assert not found[name][~mask].any()


@pytest.mark.parametrize("optimizer", workers.OPTIMIZERS)
@pytest.mark.parametrize("order", ["before", "after"])
def test_ddp_trains_like_one_process(ddp: Results, order: str, optimizer: str) -> None:
    expected = workers.reference(workers.OPTIMIZERS[optimizer], workers.make_masks())
    for found in ddp:
        assert_zeros(found[f"{order} {optimizer}"])
        assert_close(found[f"{order} {optimizer}"], expected)


@pytest.mark.parametrize("optimizer", workers.SHARDED)
def test_fsdp2_trains_like_one_process(fsdp2: Results, optimizer: str) -> None:
    expected = workers.reference(workers.OPTIMIZERS[optimizer], workers.make_masks())
    for found in fsdp2:
        assert_zeros(found[f"after {optimizer}"])
        assert_close(found[f"after {optimizer}"], expected)


@pytest.mark.parametrize("optimizer", workers.SHARDED)
def test_fsdp2_sharded_after_hold(fsdp2: Results, optimizer: str) -> None:
    expected = workers.reference(workers.OPTIMIZERS[optimizer], workers.make_masks(), clip=False)
    for found in fsdp2:
        assert_zeros(found[f"before {optimizer}"])
        assert_close(found[f"before {optimizer}"], expected)


def test_ranks_agree_to_the_bit(ddp: Results, fsdp2: Results) -> None:
    for one, two in (ddp, fsdp2):
        for key in one:
            if isinstance(one[key], dict):
                assert all(torch.equal(value, two[key][name]) for name, value in one[key].items()), key


def test_the_tests_would_notice_dense_training() -> None:
    masks = workers.make_masks()
    make = workers.OPTIMIZERS["sgd"]
    dense = workers.make_model()
    masks.apply_(dense)
    workers.train(dense, list(dense.parameters()), make)
    masks.apply_(dense)
    expected = workers.reference(make, masks)
    with pytest.raises(AssertionError):
        assert_close({name: p.detach() for name, p in dense.named_parameters()}, expected)


def test_masks_of_sharded_parameters(fsdp2: Results) -> None:
    for found in fsdp2:
        masks = workers.make_masks()
        assert all(torch.equal(found["zeros"][name], mask) for name, mask in masks.items())
        for name, mask in workers.make_masks(seed=9).items():
            assert not found["replaced"][name][~(mask & masks[name])].any()
        assert found["hooks"] == [1, 0]


def test_each_process_names_a_leak_in_its_own_shard(fsdp2: Results) -> None:
    pruned = ~workers.make_masks(seed=9)["0.weight"]
    # Of 7 rows the first process stores 4.
    for found, first, last in ((fsdp2[0], 0, 4), (fsdp2[1], 4, 7)):
        row, column = pruned[first:last].nonzero()[0].tolist()
        assert found["leak"].startswith(f"0.weight[{first + row}, {column}] is pruned but holds 0.25")
