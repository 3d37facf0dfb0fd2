"""Calls as somebody new would write them: wrong arguments, wrong order. Each gets a sentence with the way out."""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur import MaskError, Masks, SecateurError
from secateur._base import door
from secateur.sparse import Machine, compile_step, dense_shapes, quantize, why_no_fused_step
from secateur.sparse.steps._batches import refuse_inputs, refuse_targets


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as users have it: in tests, annotations are checked before it is reached."""
    return unwrap(function)


def model() -> Any:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


MASKS = Masks({"0.weight": torch.eye(3, 4) > 0, "2.weight": torch.eye(2, 3) > 0})
SGD = torch.optim.SGD(model().parameters(), lr=0.1)
VERBS: dict[str, Callable[[Any, Any], Any]] = {
    "hold(model, masks)": lambda net, masks: bare(sc.hold)(net, masks),
    "sparsify(model, masks)": lambda net, masks: bare(sc.sparsify)(net, masks),
    "quantize(model, masks)": lambda net, masks: bare(quantize)(net, masks),
    "compile_step(model, masks, loss, optimizer)": lambda net, masks: bare(compile_step)(
        net, masks, cross_entropy, SGD
    ),
}
NOT_MASKS = [
    (dict(MASKS), "got a dict. Write secateur.Masks(…) around it: name → boolean tensor, True for what stays."),
    ("masks.safetensors", "got a str. They are what secateur.prune returns, Masks.load reads, and Masks.from_zeros "),
    (sc.methods.magnitude(0.5), "got a Method. They are what secateur.prune returns"),
]
NOT_MODELS = [
    (SGD, "got a SGD. Pass the network; its optimizer is not needed here."),
    (MASKS, "got a Masks."),
    (nn.Linear, "got the class Linear. Make one of the class first: Linear(…)."),
    (None, "got a NoneType."),
]


@pytest.mark.parametrize("call", VERBS)
def test_other_things_than_masks(call: str) -> None:
    for masks, more in NOT_MASKS:
        with pytest.raises(MaskError) as refused:
            VERBS[call](model(), masks)
        assert str(refused.value).startswith(f"`masks` must be secateur.Masks, as in {call}, {more}")


@pytest.mark.parametrize("call", VERBS)
def test_other_things_than_a_model(call: str) -> None:
    for net, more in NOT_MODELS:
        with pytest.raises(SecateurError) as refused:
            VERBS[call](net, MASKS)
        assert str(refused.value) == f"`model` must be an nn.Module, as in {call}, {more}"


@pytest.mark.parametrize("verb", [sc.densify, sc.held, dense_shapes, sc.prunable])
def test_other_things_than_a_model_alone(verb: Callable[..., Any]) -> None:
    with pytest.raises(
        SecateurError, match=r"`model` must be an nn\.Module, as in .*\(model.*\), got a SGD\. Pass the"
    ):
        bare(verb)(SGD)
    with pytest.raises(SecateurError, match=r"as in masks\.apply_\(model\), got a SGD"):
        bare(Masks.parameters)(MASKS, SGD)


def test_options_of_the_wrong_type() -> None:
    with pytest.raises(SecateurError, match="`on_step` must be a function of the number of the step, got 3"):
        bare(sc.hold)(model(), MASKS, on_step=3)
    with pytest.raises(SecateurError, match="`batch` must be a number of samples, got 'big'"):
        bare(sc.sparsify)(model(), MASKS, batch="big")
    with pytest.raises(SecateurError, match=r"`machine` must be a secateur\.sparse\.Machine, or None"):
        bare(sc.sparsify)(model(), MASKS, machine="cpu")
    with pytest.raises(SecateurError, match=r"`optimizer` must be one of torch\.optim's, as in .*, got the class SGD"):
        bare(compile_step)(model(), MASKS, cross_entropy, torch.optim.SGD)
    handle = sc.hold(model(), MASKS)
    with pytest.raises(MaskError, match=r"as in held\.replace\(masks\), got a dict\. Write secateur\.Masks"):
        bare(type(handle).replace)(handle, dict(MASKS))


def test_other_things_than_tensors_in_a_step() -> None:
    array = torch.ones(2, 2).numpy()
    with pytest.raises(SecateurError, match=r"the inputs must be a torch tensor, got a ndarray; torch\.as_tensor\(…\)"):
        bare(refuse_inputs)(array)
    with pytest.raises(SecateurError, match=r"the targets must be a torch tensor, got a list; torch\.as_tensor\(…\)"):
        bare(refuse_targets)([1, 2], 2)


@pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")
def test_masks_of_the_wrong_type_for_a_step() -> None:
    net = model()
    step: Any = compile_step(net, MASKS, cross_entropy, torch.optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(MaskError, match=r"as in step\.replace\(masks\), got a dict"):
        bare(type(step).replace)(step, dict(MASKS))


def test_a_sparsified_model_is_told_from_others(sparse_machine: Machine) -> None:
    net = model()
    fast = sc.sparsify(net, Masks({"0.weight": MASKS["0.weight"]}), machine=sparse_machine)
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1)
    calls: dict[str, Callable[[], object]] = {
        "sparsify": lambda: sc.sparsify(fast, MASKS, machine=sparse_machine),
        "prune": lambda: sc.prune(fast, sc.methods.magnitude(0.5)),
        "prune a part": lambda: sc.prune(fast, sc.methods.magnitude(0.5), only="2.*"),
        "scores": lambda: sc.scores(fast, sc.methods.magnitude(0.5)),
        "Pruner": lambda: sc.Pruner(fast, sc.methods.agp(0.5, begin=1, end=9)),
        "from_zeros": lambda: Masks.from_zeros(fast),
        "hold": lambda: sc.hold(fast, MASKS),
        "apply_": lambda: MASKS.apply_(fast),
        "compile_step": lambda: compile_step(fast, MASKS, cross_entropy, optimizer),
    }
    for name, call in calls.items():
        with pytest.raises(SecateurError, match=r"The model is sparsified: .* secateur\.densify\(model\) brings"):
            pytest.fail(f"{name} went through: {call()}")
    assert "secateur.densify" in str(why_no_fused_step(fast, MASKS, cross_entropy, optimizer))
    back = sc.densify(fast)  # the way out of them all
    again = sc.sparsify(back, sc.prune(back, sc.methods.magnitude(0.5), only="2.*"), machine=sparse_machine)
    sc.hold(fast, Masks({"2.weight": MASKS["2.weight"]})).check()  # what is stored densely may be held
    assert again(torch.ones(1, 4)).shape == (1, 2)


def test_a_model_that_sparsify_left_dense_is_not_sparsified_again(sparse_machine: Machine) -> None:
    half = nn.Sequential(nn.Linear(4, 3)).double()
    kept = sc.sparsify(half, Masks({"0.weight": MASKS["0.weight"]}), machine=sparse_machine)
    with pytest.raises(SecateurError, match=r"was made by sparsify already; sparsify secateur\.densify\(model\)"):
        sc.sparsify(kept, Masks({"0.weight": MASKS["0.weight"]}), machine=sparse_machine)
