"""How many threads a call takes: decided on the calls themselves, by a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from secateur import Masks
from secateur._base import door
from secateur.sparse import compile_step
from secateur.sparse.calls import sparse_chain
from secateur.sparse.plans import native_chain, plan_layer
from secateur.sparse.timing import Pace, Paces
from secateur.sparse.timing import _pace as pace_module


def run(pace: Pace, seconds: Callable[[int, int], float], calls: int = 1000) -> list[int]:
    """Let a pace watch calls until it has settled; `seconds` of the threads and of the number of the call."""
    asked: list[int] = []
    while not pace.settled and len(asked) < calls:
        asked.append(pace.next())
        pace.took(asked[-1], seconds(asked[-1], len(asked)))
    return asked


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads of each call that is timed; two of them take twice as long as one, whatever the machine says."""
    found: list[int] = []
    took = Pace.took

    def took_as_told(pace: Pace, threads: int, seconds: float) -> None:
        assert seconds == 0.0  # by the clock that stands still
        found.append(threads)
        took(pace, threads, 1e-4 * threads)

    monkeypatch.setattr(Pace, "took", took_as_told)
    monkeypatch.setattr(pace_module, "clock", lambda: 1.0)
    return found


def test_fewer_threads_where_they_are_faster() -> None:
    pace = Pace(2)
    asked = run(pace, lambda threads, _: 1e-4 * threads)
    assert pace.settled and pace.threads == 1
    assert set(asked) == {1, 2} and len(asked) < 100
    assert asked[:16] == [2] * 4 + [1] * 8 + [2] * 4  # blocks A B, B A: each finds caches and clocks as the other does


def test_all_threads_where_they_are_faster() -> None:
    pace = Pace(2)
    run(pace, lambda threads, _: 1e-4 / threads)
    assert pace.settled and pace.threads == 2


def test_halving_goes_on_as_long_as_it_pays() -> None:
    pace = Pace(16)
    run(pace, lambda threads, _: 1e-4 * (1 + abs(threads - 4)))
    assert pace.settled and pace.threads == 4


def test_in_doubt_it_is_all_threads() -> None:
    pace = Pace(2)
    noise = torch.rand(2000, generator=torch.Generator().manual_seed(0)).tolist()
    asked = run(pace, lambda threads, call: 1e-4 * (1 + noise[call]) * (0.98 if threads == 1 else 1))
    assert pace.settled and pace.threads == 2 and len(asked) > 300  # it looked for long


def test_long_calls_are_not_tried_with_fewer_threads() -> None:
    pace = Pace(2)
    asked = run(pace, lambda threads, _: 0.1 * threads)
    assert pace.settled and asked == [2] * 4


@pytest.mark.parametrize(("half", "best"), [(1.5, 2), (0.6, 1)])
def test_what_is_clear_is_decided_at_once(half: float, best: int) -> None:
    pace = Pace(2)
    asked = run(pace, lambda threads, _: 1e-4 * (half if threads == 1 else 1))
    assert pace.settled and pace.threads == best and len(asked) == 24


def test_first_calls_do_not_count() -> None:
    """The first turn only tells how long calls are, and after a change the caches hold what the other has left."""
    pace = Pace(2)
    run(pace, lambda threads, call: 1.0 if call in (6, 7, 8) or call % 4 == 1 else 1e-4 * threads)
    assert pace.threads == 1


def test_one_thread_is_not_timed() -> None:
    pace = Pace(1)
    assert pace.settled and pace.next() == 1


def test_each_key_has_a_pace_of_its_own(asked: list[int]) -> None:
    paces = Paces()
    for key, worth in (("a", 2), ("b", 1), ("c", 4)):
        for _ in range(200):
            if key not in paces.settled:
                assert paces.run(key, lambda worth=worth: worth, lambda threads: threads) in (1, 2, 4)
    assert paces.settled == {"a": 1, "b": 1, "c": 1} and set(asked) == {1, 2, 4}
    paces.run("b", lambda: 8, lambda threads: threads)
    assert asked[-1] == 1  # what the work is worth is asked once


def test_only_the_last_kinds_of_calls_are_remembered() -> None:
    paces = Paces()
    for key in range(100):
        paces.run(key, lambda: 1, lambda threads: threads)
    assert len(paces.settled) == 16


# ------------------------------------------------------------------ on real calls
@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def model_of(seed: int = 0) -> tuple[nn.Sequential, Masks]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 10))
    generator = torch.Generator().manual_seed(seed)
    weights = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    return model, Masks({n: torch.rand(p.shape, generator=generator) < 0.3 for n, p in weights.items()})


def train(calls: int) -> tuple[list[float], list[Tensor]]:
    model, masks = model_of()
    step = compile_step(model, masks, cross_entropy, SGD(model.parameters(), lr=0.05, momentum=0.9))
    generator = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(calls):
        x = torch.randn(64, 300, generator=generator)
        losses.append(step(x, torch.randint(10, (64,), generator=generator)))
    step.write_back()
    return losses, [p.detach().clone() for p in model.parameters()]


@pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")
def test_a_step_settles_on_one_thread_with_the_same_bits(asked: list[int], threads: Callable[[int], None]) -> None:
    threads(2)
    found = train(90)
    assert set(asked) == {1, 2} and len(asked) < 90  # it has settled, and looks at no clock any more
    asked.clear()
    threads(1)
    alone = train(90)
    assert asked == [1]  # there is nothing to be tried
    assert found[0] == alone[0] and all(torch.equal(a, b) for a, b in zip(found[1], alone[1], strict=True))


@pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")
def test_a_chain_settles_forward_and_backward_apart(asked: list[int], threads: Callable[[int], None]) -> None:
    plan = plan_layer(torch.rand(200, 300, generator=torch.Generator().manual_seed(0)) < 0.3)
    values, x = torch.randn(plan.kept, requires_grad=True), torch.randn(64, 300)
    results = []
    for most in (1, 2):
        threads(most)
        for _ in range(80):
            y = sparse_chain(x, (plan,), (values,), (None,))
            results.append((y.detach(), *torch.autograd.grad(y.sum(), values)))
    assert all(torch.equal(a, b) for found in results for a, b in zip(found, results[0], strict=True))
    settled = native_chain((plan,)).paces.settled
    assert settled["forward", 64, 2] == settled["backward", 64, 2] == 1
