"""Batches: a pure function of seed and step, every example once an epoch, no global random state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur._base.errors import SecateurError
from secateur.lab.data import (
    Examples,
    batch_at,
    batches,
    flip_and_shift,
    in_order,
    indices_at,
    order,
    rows,
    steps_in,
)
from secateur.lab.repeat import derive, generator


def _examples(n: int = 23) -> Examples:
    return Examples(torch.arange(n * 12, dtype=torch.float32).reshape(n, 3, 2, 2), torch.arange(n))


def test_an_order_is_a_permutation_of_its_own_epoch_and_seed() -> None:
    first = order(1000, seed=3, epoch=0)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert torch.equal(first, order(1000, seed=3, epoch=0))
    assert not torch.equal(first, order(1000, seed=3, epoch=1))
    assert not torch.equal(first, order(1000, seed=4, epoch=0))


def test_writing_into_an_order_does_not_change_the_next_one() -> None:
    before = order(10, seed=0, epoch=0)
    order(10, seed=0, epoch=0).zero_()
    assert torch.equal(order(10, seed=0, epoch=0), before)


@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 10**6))
def test_batches_are_the_epochs_laid_end_to_end(n: int, size: int, seed: int) -> None:
    epochs = 3
    count = steps_in(n, size, epochs=epochs)
    stream = torch.cat([indices_at(n, size, seed=seed, step=step) for step in range(count)])
    expected = torch.cat([order(n, seed=seed, epoch=epoch) for epoch in range(epochs)])
    assert len(stream) == count * size >= epochs * n
    assert torch.equal(stream[: epochs * n], expected)


def test_a_batch_holds_the_examples_its_indices_name() -> None:
    examples = _examples()
    x, y = batch_at(examples, 5, seed=1, step=9)
    index = indices_at(23, 5, seed=1, step=9)
    assert torch.equal(x, examples.x[index]) and torch.equal(y, examples.y[index])


def test_going_on_after_a_cut_gives_the_batches_of_an_uncut_run() -> None:
    examples = Examples(torch.rand(50, 3, 8, 8), torch.arange(50))
    whole = list(batches(examples, 8, seed=5, stop=20, augment=flip_and_shift))
    batch_at(examples, 8, seed=77, step=3)  # what happened in between does not matter
    torch.manual_seed(123)
    rest = list(batches(examples, 8, seed=5, start=13, stop=20, augment=flip_and_shift))
    for (x, y), (again_x, again_y) in zip(whole[13:], rest, strict=True):
        assert torch.equal(x, again_x) and torch.equal(y, again_y)


def test_augmentation_changes_images_but_not_who_is_drawn() -> None:
    examples = Examples(torch.rand(50, 3, 8, 8), torch.arange(50))
    plain_x, plain_y = batch_at(examples, 16, seed=0, step=2)
    x, y = batch_at(examples, 16, seed=0, step=2, augment=flip_and_shift)
    assert torch.equal(y, plain_y) and not torch.equal(x, plain_x)
    assert x.shape == plain_x.shape and x.dtype == plain_x.dtype


def test_the_global_random_state_is_left_as_found() -> None:
    before = torch.random.get_rng_state()
    batch_at(Examples(torch.rand(9, 1, 4, 4), torch.arange(9)), 4, seed=0, step=0, augment=flip_and_shift)
    torch.random.set_rng_state(before)
    batch_at(_examples(), 4, seed=0, step=1)
    order(7, seed=1, epoch=1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("n", "size", "step", "said"),
    [
        (0, 1, 0, "`n` must be 1 or more, got 0."),
        (5, 0, 0, "`size` must be 1 or more, got 0."),
        (5, 2, -1, "`step` must be 0 or more, got -1."),
    ],
)
def test_a_batch_of_nothing_is_refused(n: int, size: int, step: int, said: str) -> None:
    with pytest.raises(SecateurError) as caught:
        indices_at(n, size, seed=0, step=step)
    assert str(caught.value) == said


def test_in_order_passes_over_everything_once_without_copying() -> None:
    examples = _examples()
    pieces = list(in_order(examples, 10))
    assert [len(y) for _, y in pieces] == [10, 10, 3]
    assert torch.equal(torch.cat([y for _, y in pieces]), examples.y)
    assert pieces[1][0].data_ptr() == examples.x[10].data_ptr()


@pytest.mark.parametrize(
    ("n", "size", "epochs", "steps"),
    [(54_000, 100, 1, 540), (45_000, 128, 1, 352), (10, 3, 0.1 * 3, 1), (10, 10, 0.1 * 30, 3), (10, 5, 0, 0)],
)
def test_steps_in_rounds_up_once(n: int, size: int, epochs: float, steps: int) -> None:
    assert steps_in(n, size, epochs=epochs) == steps


def test_rows_are_the_rows_of_all_channels() -> None:
    x = torch.rand(2, 3, 5, 4)
    read = rows(x)
    assert read.shape == (2, 5, 12)
    for b in range(2):
        for r in range(5):
            assert torch.equal(read[b, r], torch.cat([x[b, c, r] for c in range(3)]))
    assert rows(read) is read
    with pytest.raises(SecateurError, match=r"`x` must be \[batch, channel, row, column\].*got \[4, 4\]"):
        rows(torch.zeros(4, 4))


def test_streams_are_told_apart_by_seed_name_and_kind() -> None:
    paths = [(), ("a",), ("b",), ("a", 1), ("a", 2), ("a", "1"), ("a/1",), (1, "a")]
    values = {derive(seed, *path) for seed in range(4) for path in paths}
    assert len(values) == 4 * len(paths)
    assert all(0 <= value < 2**63 for value in values)


def test_a_stream_does_not_change_from_version_to_version() -> None:
    # SHA-256 of "7/str:order/int:3", computed once with sha256sum: results on disk were made with these streams.
    assert derive(7, "order", 3) == int("2c3f2070fbd928d9", 16) >> 1


def test_generators_of_one_stream_draw_the_same() -> None:
    first, second = (torch.rand(5, generator=generator(2, "x")) for _ in range(2))
    assert torch.equal(first, second)
