"""A Pruner over a compiled step: masks change while it trains, as in an ordinary loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam

import secateur as sc
from changing_cases import EVERY, MODELS, UNTIL, chain
from secateur import Masks, Method, Pruner, SecateurError, methods
from secateur._base import door
from secateur.sparse import compile_step

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

STEPS = 22
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: SGD(p, lr=0.05),
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: Adam(p, lr=2e-3),
}
METHODS: dict[str, Callable[[], Method]] = {
    "set": lambda: methods.set_(density=0.3, until=UNTIL, every=EVERY),
    "rigl": lambda: methods.rigl(density=0.3, until=UNTIL, every=EVERY),
    "agp": lambda: methods.agp(density=0.2, end=16, every=EVERY),
}


class Run:
    """A model that a Pruner prunes while it trains: in an ordinary loop, or by a compiled step."""

    def __init__(self, name: str, method: str, optimizer: str, *, compiled: bool, saved: Any = None) -> None:
        torch.manual_seed(0)
        make, shape = MODELS[name]
        self.model: Any = make()
        self.pruner = Pruner(self.model, METHODS[method](), generator=torch.Generator().manual_seed(1))
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        for part, state in zip(self.parts, saved or (), strict=False):
            part.load_state_dict(copy.deepcopy(state))  # torch's optimizers keep the tensors that they load
        masks, self.step = self.pruner.masks, None
        self.step = compile_step(self.model, masks, cross_entropy, self.optimizer) if compiled else None
        generator = torch.Generator().manual_seed(2)
        self.batches = [
            (torch.randn(33, *shape, generator=generator), torch.randint(0, 5, (33,), generator=generator))
            for _ in range(STEPS)
        ]

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.model, self.pruner, self.optimizer

    def train(self, first: int, last: int) -> list[float]:
        return [self.take(*batch) for batch in self.batches[first:last]]

    def take(self, x: Tensor, y: Tensor) -> float:
        if self.step is not None:
            return self.step(x, y)
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def numbers(self) -> dict[str, Tensor]:
        """Weights, buffers and the optimizer's memory, read as a checkpoint reads them."""
        found = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            found |= {f"{key} of {index}": t.clone() for key, t in state.items() if isinstance(t, Tensor)}
        return found


def assert_close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=2e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_ordinary_training_with_the_same_masks(name: str, method: str, optimizer: str) -> None:
    eager, compiled = (Run(name, method, optimizer, compiled=which) for which in (False, True))
    seen = set()
    for at in range(STEPS):
        before = compiled.pruner.masks
        assert compiled.train(at, at + 1) == pytest.approx(eager.train(at, at + 1), rel=1e-4, abs=1e-5)
        assert compiled.pruner.step == eager.pruner.step == at + 1
        assert compiled.pruner.masks == compiled.step.masks  # type: ignore[union-attr]
        if compiled.pruner.masks != eager.pruner.masks:  # two scores that rounding swaps: from here on all differs
            assert compiled.pruner.masks.overlap(eager.pruner.masks) > 0.99
            return
        if compiled.pruner.masks != before:
            seen.add(at + 1)
            assert_close(compiled.numbers(), eager.numbers())
    assert seen >= {4, 8, 12}
    assert_close(compiled.numbers(), eager.numbers())
    assert compiled.pruner.finish() == eager.pruner.finish()
    assert_close(compiled.numbers(), eager.numbers())
    compiled.train(0, 3)  # what comes after `finish` trains on under the last masks
    for key, mask in compiled.step.masks.items():  # type: ignore[union-attr]
        assert not compiled.model.state_dict()[key][~mask].any()


@pytest.mark.parametrize("method", ["set", "rigl"])
@pytest.mark.parametrize("name", MODELS)
def test_what_grows_is_zero_without_memory_and_alive(name: str, method: str) -> None:
    run = Run(name, method, "momentum", compiled=True)
    run.train(0, 3)
    before = run.pruner.masks
    run.train(3, 4)
    grown = {key: mask & ~before[key] for key, mask in run.pruner.masks.items()}
    gone = {key: before[key] & ~mask for key, mask in run.pruner.masks.items()}
    assert any(bool(bits.any()) for bits in grown.values())
    assert {key: int(bits.sum()) for key, bits in grown.items()} == {k: int(bits.sum()) for k, bits in gone.items()}
    run.numbers()
    for key, bits in grown.items():
        parameter = run.model.get_parameter(key)
        changed = bits | gone[key]
        assert not parameter[changed].any()
        assert not run.optimizer.state[parameter]["momentum_buffer"][changed].any()
    run.train(4, 6)
    run.model.state_dict()
    moved = sum(int(run.model.get_parameter(key)[bits].count_nonzero()) for key, bits in grown.items())
    assert moved > 0.5 * sum(int(bits.sum()) for bits in grown.values())
    for key, bits in gone.items():
        assert not run.model.get_parameter(key)[bits].any()


@pytest.mark.parametrize("name", MODELS)
def test_between_two_changes_it_is_a_step_compiled_anew_bit_for_bit(name: str) -> None:
    run = Run(name, "rigl", "momentum", compiled=True)
    for change in (4, 8):
        run.train(run.pruner.step, change)
        twin, state = copy.deepcopy(run.model), copy.deepcopy(run.optimizer.state_dict())
        (mine,) = sc.held(twin)
        optimizer = OPTIMIZERS["momentum"](twin.parameters())
        optimizer.load_state_dict(state)
        anew = compile_step(twin, mine.masks, cross_entropy, optimizer)
        for batch in run.batches[change : change + 3]:
            assert run.take(*batch) == anew(*batch)
        for key, tensor in run.model.state_dict().items():
            assert torch.equal(tensor, twin.state_dict()[key])


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("at", [8, 10, 11])
def test_it_resumes_from_a_checkpoint_to_the_same_bits(method: str, optimizer: str, at: int) -> None:
    run = Run("images", method, optimizer, compiled=True)
    run.train(0, at)
    saved = copy.deepcopy([part.state_dict() for part in run.parts])
    run.train(at, STEPS)
    other = Run("images", method, optimizer, compiled=True, saved=saved)
    other.train(at, STEPS)
    assert other.pruner.finish() == run.pruner.finish()
    for key, tensor in run.numbers().items():
        assert torch.equal(tensor, other.numbers()[key]), key


def test_states_loaded_after_compiling_are_taken_up_by_the_pruners_and_read_back() -> None:
    run = Run("chain", "rigl", "momentum", compiled=True)
    run.train(0, 10)
    saved = copy.deepcopy([part.state_dict() for part in run.parts])
    run.train(10, STEPS)
    for order in ((0, 2, 1), (1, 0, 2)):
        other = Run("chain", "rigl", "momentum", compiled=True)
        for index in order:
            other.parts[index].load_state_dict(copy.deepcopy(saved[index]))
        if order[-1] != 1:  # something was loaded behind the step's back
            with pytest.raises(SecateurError, match="call read_back"):
                other.train(10, 11)
            other.step.read_back()  # type: ignore[union-attr]
        other.train(10, STEPS)
        assert other.pruner.masks == run.pruner.masks
        for key, tensor in run.numbers().items():
            assert torch.equal(tensor, other.numbers()[key]), key


def test_evidence_from_batches_is_of_the_weights_that_the_step_has_trained() -> None:
    def masks(compiled: bool) -> Masks:
        torch.manual_seed(0)
        model, x, y = chain(), torch.randn(64, 40), torch.randint(0, 5, (64,))
        plan = sc.schedule.cubic(0.2, begin=2, end=8, every=3)
        method = sc.method(
            "online snip", methods.snip(0.2).score, structure=sc.structure.weights(), scope=sc.scope.everywhere(),
            schedule=plan,
        )  # fmt: skip
        pruner, optimizer = Pruner(model, method, [(x, y)]), SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = compile_step(model, pruner.masks, cross_entropy, optimizer) if compiled else None
        for _ in range(9):
            if step is not None:
                step(x, y)
                continue
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
        return pruner.finish()

    assert masks(True).overlap(masks(False)) > 0.98  # but for scores that rounding swaps
