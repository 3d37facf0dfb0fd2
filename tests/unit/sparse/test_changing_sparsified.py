"""A Pruner over the model that a sparsified one was made of: the sparse layers follow its masks in an ordinary loop."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam

import secateur as sc
from changing_cases import EVERY, MODELS, UNTIL, chain
from secateur import MaskError, Masks, Pruner, SecateurError, methods, sparsify
from secateur.sparse import Machine, SparseConv2d, SparseLinear, densify, report_of, why_no_fused_step

STEPS = 20
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: Adam(p, lr=2e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
}
METHODS: dict[str, Callable[[], sc.Method]] = {
    "set": lambda: methods.set_(density=0.3, until=UNTIL, every=EVERY),
    "rigl": lambda: methods.rigl(density=0.3, until=UNTIL, every=EVERY),
    "agp": lambda: methods.agp(density=0.2, end=16, every=EVERY, initial=0.5),
}


class Run:
    """A model that a Pruner prunes while it trains: as it is, or as a sparsified one that follows."""

    def __init__(self, name: str, method: str, optimizer: str, machine: Machine | None, saved: Any = None) -> None:
        torch.manual_seed(0)
        make, shape = MODELS[name]
        self.dense: Any = make()
        self.pruner = Pruner(self.dense, METHODS[method](), generator=torch.Generator().manual_seed(1))
        if saved is not None:
            self.pruner.load_state_dict(saved[1])
        self.model: Any = self.dense
        if machine is not None:
            self.model = sparsify(self.dense, self.pruner.masks, machine=machine)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        if saved is not None:
            self.model.load_state_dict(saved[0])
            self.optimizer.load_state_dict(copy.deepcopy(saved[2]))
        generator = torch.Generator().manual_seed(2)
        self.batches = [
            (torch.randn(33, *shape, generator=generator), torch.randint(0, 5, (33,), generator=generator))
            for _ in range(STEPS)
        ]

    def train(self, first: int, last: int) -> list[float]:
        losses = []
        for x, y in self.batches[first:last]:
            self.optimizer.zero_grad()
            loss = cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def assert_close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(torch.Tensor(tensor), two[name], rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_ordinary_training_with_the_same_masks(
    name: str, method: str, optimizer: str, sparse_machine: Machine
) -> None:
    eager, fast = Run(name, method, optimizer, None), Run(name, method, optimizer, sparse_machine)
    assert any(isinstance(module, SparseLinear | SparseConv2d) for module in fast.model.modules())
    changes = 0
    for at in range(STEPS):
        before = fast.pruner.masks
        assert fast.train(at, at + 1) == pytest.approx(eager.train(at, at + 1), rel=1e-4, abs=1e-5)
        assert fast.pruner.step == eager.pruner.step == at + 1
        if fast.pruner.masks != eager.pruner.masks:  # two scores that rounding swaps: from here on all differs
            assert fast.pruner.masks.overlap(eager.pruner.masks) > 0.99
            return
        if fast.pruner.masks != before:
            changes += 1
            assert_close(fast.model.state_dict(), eager.model.state_dict())
    assert changes >= 3
    assert_close(
        fast.dense.state_dict(), eager.model.state_dict()
    )  # who looks at the dense model sees what was trained
    masks = fast.pruner.finish()
    assert masks == eager.pruner.finish()
    assert_close(fast.dense.state_dict(), eager.model.state_dict())
    assert_close(densify(fast.model).state_dict(), eager.model.state_dict())
    fast.train(0, 2)
    for key, mask in masks.items():
        assert not fast.model.state_dict()[key][~mask].any()


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("method", METHODS)
def test_it_resumes_from_a_checkpoint_to_the_same_bits(method: str, optimizer: str, sparse_machine: Machine) -> None:
    run = Run("images", method, optimizer, sparse_machine)
    run.train(0, 11)
    saved = copy.deepcopy([run.model.state_dict(), run.pruner.state_dict(), run.optimizer.state_dict()])
    run.train(11, STEPS)
    other = Run("images", method, optimizer, sparse_machine, saved)
    other.train(11, STEPS)
    assert other.pruner.finish() == run.pruner.finish()
    if method == "agp":  # which layers are sparse is chosen anew, at the density of the checkpoint
        return assert_close(run.model.state_dict(), other.model.state_dict())
    for key, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[key]), key


def test_gradients_of_several_backward_passes_add_up(sparse_machine: Machine) -> None:
    def masks(machine: Machine | None) -> Masks:
        run = Run("chain", "rigl", "momentum", machine)
        for _ in range(EVERY):
            run.optimizer.zero_grad()
            for x, y in run.batches[:3]:
                cross_entropy(run.model(x), y).backward()
            run.optimizer.step()
        return run.pruner.masks

    assert masks(sparse_machine).overlap(masks(None)) > 0.98  # but for scores that rounding swaps


def test_copies_follow_nobody_and_the_model_lets_go_of_what_is_gone(sparse_machine: Machine) -> None:
    run = Run("chain", "rigl", "momentum", sparse_machine)
    run.train(0, 3)
    for twin in (copy.deepcopy(run.model), pickle.loads(pickle.dumps(run.model))):
        optimizer = SGD(twin.parameters(), lr=0.1)
        cross_entropy(twin(run.batches[0][0]), run.batches[0][1]).backward()
        optimizer.step()
    assert run.pruner.step == 3
    gone = weakref.ref(run.model)
    run.model = run.optimizer = None
    gc.collect()
    assert gone() is None
    assert not any(module._forward_pre_hooks for module in run.dense.modules())
    assert sparsify(run.dense, run.pruner.masks, machine=sparse_machine) is not None


def test_what_cannot_be_followed_is_refused_by_name(sparse_machine: Machine) -> None:
    run = Run("chain", "rigl", "momentum", sparse_machine)
    with pytest.raises(MaskError, match="trains this model already"):
        sparsify(run.dense, run.pruner.masks, machine=sparse_machine)
    why = why_no_fused_step(run.dense, run.pruner.masks, cross_entropy, SGD(run.dense.parameters(), lr=0.1))
    assert why is not None and "follows the masks of this one trains it already" in why
    with torch.no_grad():
        run.dense[0].weight.add_(1)
    with pytest.raises(SecateurError, match="load into the sparsified model"):
        run.train(0, 1)
    other = chain()
    pruner = Pruner(other, METHODS["rigl"]())
    full = Masks({name: torch.ones_like(mask) for name, mask in pruner.masks.items()})
    with pytest.raises(MaskError, match=r"sparsify\(model, pruner\.masks\)"):
        sparsify(other, full, machine=sparse_machine)
    pruner.release()
    gated = Pruner(other, methods.l0(strength=1e-3))
    with pytest.raises(MaskError, match="l0 puts gates on the weights"):
        sparsify(other, gated.masks, machine=sparse_machine)


def test_layers_of_other_kinds_stay_dense_and_say_so(sparse_machine: Machine) -> None:
    run = Run("rows", "rigl", "momentum", sparse_machine)
    told = {line.name: line for line in report_of(run.model).layers}
    assert "its masks change" in told["cell.weight_hh_l0"].reason
    assert isinstance(run.model.cell, nn.LSTM) and isinstance(run.model.head, SparseLinear)
