"""A Pruner of the dynamic methods: stopped anywhere it goes on in the same bits, in any order of loading."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from online_cases import adam, batch, mlp, same, seeded, sgd, weights
from online_cases import step as train
from secateur import Pruner, held, methods, scope
from secateur._base.errors import MaskError, SecateurError
from secateur.axes import Method

END = 14
METHODS: dict[str, Callable[[], Method]] = {
    "rigl": lambda: methods.rigl(0.3, until=12, every=3),
    "set": lambda: methods.set_(0.3, until=12, every=3),
    "agp": lambda: methods.agp(0.2, begin=0, end=10, every=2, initial=0.7),
    "itop": lambda: methods.itop(0.3, until=12, every=3),
    "granet": lambda: methods.granet(0.2, end=9, until=12, every=3, initial=0.5),
    "granet, dense": lambda: methods.granet(0.2, end=9, until=12, every=3),
    "snfs": lambda: methods.snfs(0.3, until=12, every=3),
    "dsr": lambda: methods.dsr(0.3, until=12, every=3, threshold=0.05),
    "deep_r": lambda: methods.deep_r(0.3, until=12, noise=0.5),
    "soft_filters": lambda: methods.soft_filters(0.5, until=12, every=3, scope=scope.layerwise()),
    "dns": lambda: methods.dns(until=12, gamma=0.5),
    "l0": lambda: methods.l0(strength=1e-3),
}
Run = tuple[nn.Module, Pruner, torch.optim.Optimizer]


def _begin(name: str, seed: int = 3, model: nn.Module | None = None) -> Run:
    model = model or mlp()
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # gates are drawn from the global state
        pruner = Pruner(model, METHODS[name](), generator=seeded(seed))
    optimizer = sgd(model)
    pruner.adopt(optimizer)
    return model, pruner, optimizer


def _train(run: Run, begin: int, end: int) -> None:
    for t in range(begin, end):
        with torch.random.fork_rng():
            torch.manual_seed(t)
            train(run[0], run[2], t)


def _state(run: Run) -> tuple[dict, dict, dict]:
    return copy.deepcopy((run[0].state_dict(), run[1].state_dict(), run[2].state_dict()))


@pytest.mark.parametrize("name", METHODS)
def test_a_run_goes_on_from_every_step(name: str) -> None:
    whole = _begin(name)
    states = [_state(whole)]
    for t in range(END):
        _train(whole, t, t + 1)
        states.append(_state(whole))
    for stop, (weights_, pruner, optimizer) in enumerate(states):
        again = _begin(name, seed=99)  # other draws: all must come from the state
        again[0].load_state_dict(weights_)
        again[2].load_state_dict(optimizer)
        again[1].load_state_dict(pruner)
        assert again[1].step == stop
        _train(again, stop, END)
        assert again[1].masks == whole[1].masks and same(again[0], whole[0]), f"stopped after step {stop}"
    assert whole[1].finish() == again[1].finish() and same(again[0], whole[0])


@pytest.mark.parametrize("name", ["rigl", "set", "agp", "dsr", "deep_r", "soft_filters"])
@pytest.mark.parametrize("order", ["weights in the model already", "weights, pruner", "pruner, weights"])
@pytest.mark.parametrize("stop", [0, 5, 12])
def test_what_the_constructor_cut_is_given_back(name: str, order: str, stop: int) -> None:
    whole = _begin(name)
    _train(whole, 0, stop)
    saved = _state(whole)
    _train(whole, stop, END)
    model = mlp()
    if order == "weights in the model already":
        model.load_state_dict(saved[0])
    again = _begin(name, seed=99, model=model)
    if order == "weights, pruner":
        model.load_state_dict(saved[0])
    again[1].load_state_dict(saved[1])
    if order == "pruner, weights":
        model.load_state_dict(saved[0])
    assert same(model, _of(saved[0]))
    again[2].load_state_dict(saved[2])
    _train(again, stop, END)
    assert again[1].masks == whole[1].masks and same(again[0], whole[0])


def _of(state: dict) -> nn.Module:
    model = mlp()
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("name", ["rigl", "agp"])
def test_a_state_of_an_earlier_release_is_still_read(name: str) -> None:
    whole = _begin(name)
    _train(whole, 0, 7)
    saved = _state(whole)
    old = {key: saved[1][key] for key in ("step", "masks")}
    again = _begin(name)
    again[0].load_state_dict(saved[0])
    again[2].load_state_dict(saved[2])
    again[1].load_state_dict(old)
    assert again[1].step == 7 and again[1].masks == whole[1].masks
    _train(whole, 7, END)
    _train(again, 7, END)
    assert again[1].masks == whole[1].masks and same(again[0], whole[0])  # neither draws any more


def test_a_state_survives_a_file(tmp_path) -> None:
    run = _begin("rigl")
    _train(run, 0, 4)
    torch.save(run[1].state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = _begin("rigl", seed=5)
    again[1].load_state_dict(state)
    assert again[1].masks == run[1].masks and again[1].step == 4


def test_states_that_do_not_fit_are_refused_and_change_nothing() -> None:
    run = _begin("rigl")
    state = run[1].state_dict()
    without = Pruner(mlp(), METHODS["rigl"]())
    with pytest.raises(SecateurError, match=r"pass generator=torch\.Generator\(\)"):
        without.load_state_dict(state)
    smaller = {"0.weight": torch.ones(20, 12, dtype=torch.bool)}
    bent = smaller | {"2.weight": torch.ones(20, 3, dtype=torch.bool)}
    for wrong, kind in (
        ({"masks": state["masks"]}, SecateurError),
        (state | {"epoch": 3}, SecateurError),
        (state | {"masks": smaller}, MaskError),
        (state | {"masks": bent}, MaskError),
        (state | {"evidence": {"fisher": {}}}, SecateurError),
    ):
        before, masks = weights(run[0]), run[1].masks
        with pytest.raises(kind):
            run[1].load_state_dict(wrong)
        assert run[1].masks == masks and run[1].step == 0
        assert all(torch.equal(p, before[name]) for name, p in run[0].named_parameters())


@pytest.mark.parametrize("name", ["rigl", "set"])
def test_online_methods_are_refused_without_training(name: str) -> None:
    from secateur import prune

    model = mlp()
    with pytest.raises(SecateurError, match=r"pruner = Pruner\(model, method\)"):
        prune(model, METHODS[name](), [batch(0)])
    assert same(model, mlp())


@pytest.mark.parametrize("name", METHODS)
def test_leaving_a_with_block_lets_go_of_everything(name: str) -> None:
    model, plain = mlp(), mlp()
    keys = list(model.state_dict())
    with Pruner(model, METHODS[name](), generator=seeded(0)):
        assert held(model)
    assert not held(model) and list(model.state_dict()) == keys
    plain.load_state_dict(model.state_dict())
    optimizers = [adam(model), adam(plain)]
    for t in range(3):
        train(model, optimizers[0], t)
        train(plain, optimizers[1], t)
    assert same(model, plain)


def test_a_second_pruner_on_the_same_weights_is_refused() -> None:
    model = mlp()
    with Pruner(model, METHODS["rigl"](), generator=seeded(0)), pytest.raises(MaskError, match="is held already"):
        Pruner(model, METHODS["set"](), generator=seeded(0))
    Pruner(model, METHODS["set"](), generator=seeded(0)).release()


def test_the_dense_gradients_are_kept_only_where_somebody_looks() -> None:
    run = _begin("rigl")
    hold = run[1]._hold
    for t in range(1, END):
        train(run[0], run[2], t)
        assert hold.gradients() == {}  # let go of after each step
        wanted = t + 1 in (3, 6, 9)
        assert all(slot.asked is wanted for slot in hold._slots), f"before step {t + 1}"
