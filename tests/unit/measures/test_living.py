"""Evidence that lives: collectors that begin once, see every step, compute again and again, and are saved."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from secateur import measures
from secateur._base.errors import ScoreError, SecateurError
from secateur.measures import Measure, Memory, Observer

SHAPES = {"a": (3, 4), "b": (2,)}
LIVING = [
    measures.grad(memory=Memory.RUN),
    measures.grad_magnitude(),
    measures.grad_average(decay=0.8),
    measures.fisher(),
    measures.movement(),
]


def _model() -> nn.Module:
    return nn.ParameterDict({name: nn.Parameter(torch.randn(shape)) for name, shape in SHAPES.items()})


def _observer(model: nn.Module, *wanted: Measure) -> Observer:
    return Observer(model, wanted, params=dict(model.named_parameters()))


def _steps(count: int) -> list[dict[str, Tensor]]:
    return [{name: torch.randn(shape) for name, shape in SHAPES.items()} for _ in range(count)]


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_evidence_adds_up_over_the_steps() -> None:
    model, steps = _model(), _steps(4)
    observer, weight = _observer(model, *LIVING), {n: p.detach().clone() for n, p in model.named_parameters()}
    moved: dict[str, Tensor] = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    for grads in steps:
        observer.update(grads)
        for name, parameter in model.named_parameters():
            moved[name] -= parameter.detach() * grads[name]
            with torch.no_grad():
                parameter -= 0.1 * grads[name]
    found = observer.compute({})
    for name in SHAPES:
        each = torch.stack([grads[name] for grads in steps])
        torch.testing.assert_close(found["grad"][name], each.sum(0))
        torch.testing.assert_close(found["grad_magnitude"][name], each.abs().sum(0))
        torch.testing.assert_close(found["fisher"][name], each.square().sum(0))
        torch.testing.assert_close(found["movement"][name], moved[name])
        weights = [0.8**3, 0.2 * 0.8**2, 0.2 * 0.8, 0.2]
        torch.testing.assert_close(
            found["grad_average"][name], sum(w * g for w, g in zip(weights, each, strict=True)), check_dtype=False
        )
        assert not torch.equal(weight[name], dict(model.named_parameters())[name])


def test_movement_is_the_straight_through_score_of_plain_sgd() -> None:
    """W′ = W ⊙ M(S) with ∂L/∂S := ∂L/∂W′ ⊙ W: S after SGD steps is the learning rate times the movement."""
    model, rate = nn.Linear(5, 3).double(), 0.1
    observer, score = _observer(model, measures.movement()), torch.zeros(3, 5, dtype=torch.float64)
    for _ in range(6):
        model.zero_grad()
        model(torch.randn(7, 5, dtype=torch.float64)).square().mean().backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        observer.update(grads)
        score -= rate * grads["weight"] * model.weight.detach()
        torch.optim.SGD(model.parameters(), lr=0.05).step()
    torch.testing.assert_close(rate * observer.compute({})["movement"]["weight"], score)


def test_computing_is_looking_and_what_was_lent_stays() -> None:
    steps, model = _steps(6), _model()
    looked, undisturbed = _observer(model, *LIVING), _observer(model, *LIVING)
    lent = []
    for grads in steps:
        looked.update(grads)
        undisturbed.update(grads)
        found = looked.compute({})
        lent.append((found, copy.deepcopy(found)))
    last = undisturbed.compute({})
    for now, then in lent:
        assert all(_equal(now[name], then[name]) for name in now)
    assert all(_equal(lent[-1][0][name], last[name]) for name in last)


def test_gradients_that_training_reuses_are_not_shared() -> None:
    """`zero_grad(set_to_none=False)` writes into the very tensors that were shown."""
    model, (grads,) = _model(), _steps(1)
    observer = _observer(model, *LIVING, measures.fisher())
    observer.update(grads)
    before = copy.deepcopy(observer.compute({}))
    for grad in grads.values():
        grad.zero_()
    after = observer.compute({})
    assert all(_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("cut", range(6))
def test_a_saved_observer_goes_on_in_the_same_bits(cut: int) -> None:
    model, steps = _model(), _steps(6)
    whole, first, second = (_observer(model, *LIVING) for _ in range(3))
    for grads in steps:
        whole.update(grads)
    for grads in steps[:cut]:
        first.update(grads)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for grads in steps[cut:]:
        first.update(grads)  # the original goes on as well: the file has its own tensors
        second.update(grads)
    wanted, found = whole.compute({}), second.compute({})
    assert all(_equal(wanted[name], found[name]) for name in wanted)


def test_a_state_is_a_snapshot() -> None:
    model, steps = _model(), _steps(2)
    observer = _observer(model, measures.fisher())
    observer.update(steps[0])
    state = observer.state_dict()
    before = copy.deepcopy(state)
    observer.update(steps[1])
    assert state["fisher"].keys() == before["fisher"].keys()
    assert all(
        torch.equal(torch.as_tensor(state["fisher"][k]), torch.as_tensor(v)) for k, v in before["fisher"].items()
    )


def test_what_is_remembered_at_a_milestone() -> None:
    model, steps = _model(), _steps(4)
    memories = [measures.grad(memory=memory) for memory in Memory]
    found = []
    for measure in memories:
        observer = _observer(model, measure)
        assert observer.remembers is (measure.online is not Memory.STEP)
        for number, grads in enumerate(steps):
            observer.update(grads)
            if number == 1:
                observer.compute(grads)  # an earlier milestone
        found.append(observer.compute(steps[-1])["grad"])
    for name in SHAPES:
        each = torch.stack([grads[name] for grads in steps])
        for evidence, wanted in zip(found, (each[3], each[2] + each[3], each.sum(0)), strict=True):
            torch.testing.assert_close(evidence[name], wanted)


def test_two_scores_may_ask_for_the_same_measure() -> None:
    observer = _observer(_model(), measures.fisher(), measures.grad(), measures.fisher())
    (grads,) = _steps(1)
    observer.update(grads)
    assert _equal(observer.compute(grads)["fisher"], {name: grad.square() for name, grad in grads.items()})
    with pytest.raises(SecateurError, match="Two different measures of one name"):
        _observer(_model(), measures.grad_average(decay=0.1), measures.grad_average(decay=0.2))


def test_a_state_of_other_measures_or_parameters_is_refused() -> None:
    observer = _observer(_model(), measures.fisher())
    with pytest.raises(SecateurError, match=r"of the measures \['grad'\], but this method measures \['fisher'\]"):
        observer.load_state_dict({"grad": {}})
    with pytest.raises(SecateurError, match=r"tensors of this model, got \['running.z'\]"):
        observer.load_state_dict({"fisher": {"updates": 1, "running.z": torch.zeros(1)}})


def test_weights_are_the_dense_ones_where_masks_hide_them() -> None:
    model = _model()
    dense = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    (grads,) = _steps(1)
    observer = _observer(model, measures.weight(), measures.movement())
    observer.update(grads, dense=dense)
    found = observer.compute(grads, dense=dense)
    for name in SHAPES:
        assert torch.equal(found["weight"][name], dense[name])
        torch.testing.assert_close(found["movement"][name], -dense[name] * grads[name])
    params = dict(model.named_parameters())
    for ask in (
        lambda **given: measures.observe(model, [measures.weight()], params=params, **given),
        lambda **given: measures.gather(model, None, [measures.weight()], params=params, **given),
    ):
        assert _equal(ask(dense=dense)["weight"], dense)
        assert _equal(ask()["weight"], {name: parameter.detach() for name, parameter in params.items()})


# --- what no gradient reached ----------------------------------------------------------------------------------------


def test_evidence_that_does_not_exist_yet_is_refused() -> None:
    model = _model()
    with pytest.raises(ScoreError, match=r"There is no 'grad' of a, b: .* absent evidence is not zero"):
        measures.observe(model, [measures.grad()], params=dict(model.named_parameters()))
    observer = _observer(model, measures.fisher())
    with pytest.raises(ScoreError, match="no 'fisher' of a, b"):
        observer.compute({})


def test_a_frozen_parameter_is_named_as_such() -> None:
    model = _model()
    model["a"].requires_grad_(False)
    (grads,) = _steps(1)
    del grads["a"]
    with pytest.raises(ScoreError, match=r"no 'grad' of a: .*Frozen \(requires_grad=False\): a\."):
        _observer(model, measures.grad()).compute(grads)


@pytest.mark.parametrize("measure", LIVING, ids=lambda measure: measure.name)
def test_a_tensor_reached_in_some_steps_counts_as_zero_in_the_others(measure: Measure) -> None:
    model, steps = _model(), _steps(4)
    some, zeros = _observer(model, measure), _observer(model, measure)
    for number, grads in enumerate(steps):
        reached = number in (1, 3)
        some.update(grads if reached else {"a": grads["a"]})
        zeros.update(grads if reached else {"a": grads["a"], "b": torch.zeros_like(grads["b"])})
    first, second = some.compute({})[measure.name], zeros.compute({})[measure.name]
    assert all(torch.equal(first[name], second[name]) for name in SHAPES)
