"""A compiled step and its model: whoever looks sees what was trained, and what was loaded is taken up or refused."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur import Masks, SecateurError, hold, methods, prune, sparsify
from secateur._base import door
from secateur._base.behind import CatchUp
from secateur.sparse import Machine, compile_step, why_no_fused_step

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")


class Rows(nn.Module):
    """An LSTM and a head: what gives a recurrent step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "chain": (chain, (8, 4)),
    "rows": (Rows, (8, 2, 4)),
}


class Case:
    """A model, its masks, its optimizer, its compiled step, and a batch: the same at each call."""

    def __init__(self, kind: str = "chain", adam: bool = False) -> None:
        torch.manual_seed(3)
        build, shape = KINDS[kind]
        self.model: Any = build()
        self.x, self.y = torch.randn(shape), torch.randint(0, 3, shape[:1])
        found = {n: torch.rand(p.shape) < 0.6 for n, p in self.model.named_parameters() if p.dim() > 1}
        self.masks = Masks(found)
        parameters = self.model.parameters()
        self.optimizer: Any = torch.optim.Adam(parameters) if adam else torch.optim.SGD(parameters, 0.1, momentum=0.9)
        self.step: Any = compile_step(self.model, self.masks, cross_entropy, self.optimizer)

    def train(self, steps: int = 3) -> Case:
        for _ in range(steps):
            self.step(self.x, self.y)
        return self

    def numbers(self) -> dict[str, Tensor]:
        """The model's tensors as they are at the moment, read directly."""
        tensors = [*self.model.named_parameters(), *self.model.named_buffers()]
        return {name: tensor.detach().clone() for name, tensor in tensors}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one.keys() | two.keys())


def by_torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def as_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


LOOKS: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    "forward": lambda case: (case.model.eval()(case.x), case.numbers())[1],
    "forward of a part": lambda case: (next(iter(case.model.children())).eval()(case.x), case.numbers())[1],
    "state_dict": lambda case: as_state(case.model.state_dict()),
    "the optimizer's state_dict": lambda case: (case.optimizer.state_dict(), case.numbers())[1],
    "deepcopy": lambda case: as_state(copy.deepcopy(case.model).state_dict()),
    "deepcopy in something else": lambda case: as_state(copy.deepcopy([case.model])[0].state_dict()),
    "pickle": lambda case: as_state(pickle.loads(pickle.dumps(case.model)).state_dict()),
    "torch.save": lambda case: as_state(by_torch_save(case.model).state_dict()),
    "the step's end": lambda case: (delattr(case, "step"), case.numbers())[1],
}


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_whoever_looks_sees_what_was_trained(kind: str, adam: bool) -> None:
    written = Case(kind, adam).train()
    written.step.write_back()
    want = written.numbers()
    assert not equal(Case(kind, adam).numbers(), want)
    for name, look in LOOKS.items():
        assert equal(look(Case(kind, adam).train()), want), name


def test_what_was_trained_goes_on_after_a_look() -> None:
    one, two = Case().train(6), Case().train(3)
    two.model.state_dict(), two.optimizer.state_dict(), two.model.eval()(two.x)
    two.model.train()
    two.train(3)
    one.step.write_back()
    two.step.write_back()
    assert equal(one.numbers(), two.numbers())


def test_prune_hold_and_sparsify_read_what_was_trained(sparse_machine: Machine) -> None:
    want = Case().train()
    want.step.write_back()
    weight = want.model[0].weight.detach()
    case = Case().train()
    smallest = weight.abs()[want.masks["0.weight"]].min()
    masks = prune(
        case.model, methods.magnitude(0.2), only="0.weight", masks=Masks({"0.weight": case.masks["0.weight"]})
    )
    assert torch.equal(case.model[0].weight, weight * masks["0.weight"]) and smallest > 0
    case = Case().train()
    fast: Any = sparsify(case.model, case.masks, machine=sparse_machine)
    assert torch.equal(fast[0].weight, weight)
    case = Case().train()
    with hold(case.model, case.masks):
        assert torch.equal(case.model[0].weight, weight)


def test_copies_have_nothing_of_the_step_on_them_and_nor_has_the_model_after_it() -> None:
    case = Case().train()
    plain = [vars(module).keys() for module in chain().modules()]
    for twin in (copy.deepcopy(case.model), pickle.loads(pickle.dumps(case.model))):
        assert [vars(module).keys() for module in twin.modules()] == plain
        assert not any(m._forward_pre_hooks or m._state_dict_pre_hooks for m in twin.modules())
    assert any(isinstance(hook, CatchUp) for m in case.model.modules() for hook in m._forward_pre_hooks.values())
    del case.step
    assert [vars(module).keys() for module in case.model.modules()] == plain
    assert not any(m._forward_pre_hooks or m._state_dict_pre_hooks for m in case.model.modules())
    assert not case.optimizer._optimizer_state_dict_pre_hooks


def test_a_step_dropped_after_something_was_loaded_overwrites_nothing() -> None:
    case = Case().train()
    fresh = {name: torch.full_like(tensor, 2) for name, tensor in case.model.state_dict().items()}
    case.model.load_state_dict(fresh)
    del case.step
    assert equal(case.numbers(), fresh)


STATE = "the optimizer's state was changed outside the fused step; call read_back() to take it up"


def restored(case: Case, saved: tuple[Any, Any]) -> None:
    case.model.load_state_dict(saved[0])
    case.optimizer.load_state_dict(saved[1])


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_state_loaded_afterwards_is_refused_until_read_back(kind: str, adam: bool) -> None:
    case = Case(kind, adam).train()
    saved = copy.deepcopy((case.model.state_dict(), case.optimizer.state_dict()))
    case.train(3).step.write_back()
    resumed = Case(kind, adam)
    resumed.model.load_state_dict(saved[0])
    resumed.step.read_back()
    resumed.optimizer.load_state_dict(saved[1])
    for call in (lambda: resumed.train(1), resumed.step.write_back, lambda: resumed.step.replace(resumed.masks)):
        with pytest.raises(SecateurError, match=re.escape(STATE)):
            call()
    resumed.step.read_back()
    resumed.train(3).step.write_back()
    assert equal(resumed.numbers(), case.numbers())


@pytest.mark.parametrize("adam", [False, True])
def test_an_optimizer_state_written_in_place_or_emptied_is_refused(adam: bool) -> None:
    for change in ("write", "clear"):
        case = Case(adam=adam).train()
        case.step.write_back()
        if change == "clear":
            case.optimizer.state.clear()
        else:
            case.optimizer.state[case.model[0].weight]["exp_avg" if adam else "momentum_buffer"].zero_()
        with pytest.raises(SecateurError, match=re.escape(STATE)):
            case.train(1)


def test_write_back_does_not_overwrite_what_was_loaded() -> None:
    case = Case().train()
    fresh = {name: torch.full_like(tensor, 2) for name, tensor in case.model.state_dict().items()}
    case.model.load_state_dict(fresh)
    with pytest.raises(SecateurError, match="the model's weights were changed outside the fused step; call read_back"):
        case.step.write_back()
    assert equal(case.numbers(), fresh)
    case.model.eval()(case.x)  # a look does not, either
    assert equal(case.numbers(), fresh)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_put_in_the_place_of_others_are_refused(kind: str) -> None:
    case = Case(kind)
    state = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    case.model.load_state_dict(state, assign=True)
    message = r"is another tensor than the step was compiled with .* compile_step anew"
    for call in (lambda: case.train(1), case.step.write_back, case.step.read_back):
        with pytest.raises(SecateurError, match=message):
            call()


def test_a_layer_put_in_the_place_of_another_is_refused_at_the_next_look() -> None:
    case = Case().train()
    case.model[3] = nn.Linear(6, 3)
    case.model.eval()(case.x)
    case.model.train()
    with pytest.raises(SecateurError, match="is another tensor than the step was compiled with"):
        case.train(1)
    with pytest.raises(SecateurError, match="is another tensor than the step was compiled with"):
        case.step.read_back()


def test_a_second_step_of_a_model_that_is_behind_is_refused() -> None:
    case = Case().train()
    first, message = case.step, "another compiled step has trained this model, and is ahead of it"
    assert message in str(why_no_fused_step(case.model, case.masks, cross_entropy, case.optimizer))
    with pytest.raises(SecateurError, match=message):
        compile_step(case.model, case.masks, cross_entropy, case.optimizer)
    first.write_back()
    want = Case().train(6)
    case.step = compile_step(case.model, case.masks, cross_entropy, case.optimizer)  # its own hooks are in nobody's way
    case.train(3)
    with pytest.raises(SecateurError, match="changed outside the fused step"):
        case.model.state_dict(), first(case.x, case.y)
    want.step.write_back()
    case.step.write_back()
    assert equal(case.numbers(), want.numbers())


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_step_is_neither_copied_nor_pickled(how: Callable[[Any], Any]) -> None:
    with pytest.raises(SecateurError, match=r"a compiled step lives in native memory.* Save model\.state_dict\(\)"):
        how(Case().step)
