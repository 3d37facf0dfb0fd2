"""What a user must bring, what is said when it is not there, and what is never reached."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Pruner, methods, prunable, prune
from secateur._base.errors import ScoreError, SecateurError
from secateur.measures import KNOWN, Level, Needs, activity, flow, gather, grad, hessian_grad, input_norm, weight

X, Y = torch.randn(6, 4), torch.arange(6) % 3


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


class _Keywords(nn.Module):
    """Called with keywords, as the networks of transformers are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _model()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.inner(x)


NOTHING = {"weight", "noise", "norm_scale", "rows", "kernels"}


def test_needs_are_ordered_and_speak() -> None:
    assert [str(needs) for needs in sorted(Needs)] == ["nothing", "input shapes", "inputs", "labels"]
    assert f"{Needs.SHAPES}" == "input shapes"
    needs = {name: factory().needs for name, factory in KNOWN.items()}
    assert {name for name, need in needs.items() if need is Needs.NOTHING} == NOTHING
    assert {name for name, need in needs.items() if need is Needs.SHAPES} == {"flow"}
    assert {name for name, need in needs.items() if need is Needs.INPUTS} == {
        "input_norm",
        "input_variance",
        "activity",
        "gram",
    }
    assert methods.snip(0.5).needs > methods.synflow(0.5).needs > methods.magnitude(0.5).needs


def test_every_measure_is_known_by_its_own_name_and_keeps_its_shape() -> None:
    model = _model()
    params = prunable(model)
    for name, factory in KNOWN.items():
        measure = factory()
        assert measure.name == name and measure == factory() and hash(measure) == hash(factory())
        evidence = gather(model, [(X, Y)], [measure], params=params)[name]
        assert evidence.keys() == params.keys()
        for parameter, tensor in evidence.items():
            shape = params[parameter].shape
            if measure.level is Level.ENTRY:
                assert torch.broadcast_shapes(tensor.shape, shape) == shape
            elif measure.level is Level.UNIT:
                assert tensor.shape == shape[:1]


@pytest.mark.parametrize("measure", [input_norm(), activity(), flow()], ids=lambda measure: measure.name)
def test_labels_are_not_needed_and_change_nothing(measure) -> None:
    model = _model()
    wanted = gather(model, [(X, Y)], [measure], params=prunable(model))[measure.name]
    for batch in (X, (X,), [X]):
        found = gather(model, [batch], [measure], params=prunable(model))[measure.name]
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    keywords = _Keywords()
    keywords.inner.load_state_dict(model.state_dict())
    for batch in ({"x": X}, {"x": X, "labels": Y}):
        found = gather(keywords, [batch], [measure], params=prunable(keywords))[measure.name]
        assert all(torch.equal(found[f"inner.{name}"], wanted[name]) for name in wanted)


@pytest.mark.parametrize("batch", [X, (X,)], ids=["tensor", "alone"])
def test_missing_labels_are_named(batch) -> None:
    model = _model()
    with pytest.raises(SecateurError, match="this score is of the loss and needs labels"):
        gather(model, [batch], [grad()], params=prunable(model))
    keywords = _Keywords()
    with pytest.raises(SecateurError, match=r"needs 'labels' .*Got only \['x'\]"):
        gather(keywords, [{"x": X}], [grad()], params=prunable(keywords))


def test_missing_batches_are_named_by_what_is_needed() -> None:
    model = _model()
    for measure, what in ((input_norm(), r"inputs \(labels are not needed\)"), (flow(), "only the shape is used")):
        with pytest.raises(SecateurError, match=what):
            gather(model, None, [measure], params=prunable(model))


def test_a_loader_is_read_no_further_than_needed() -> None:
    model, read = _model(), []

    class Loader:
        def __iter__(self):
            for number in range(5):
                read.append(number)
                yield X, Y

    for measure, count in ((weight(), 0), (flow(), 1), (input_norm(), 5), (hessian_grad(), 10)):
        read.clear()
        gather(model, Loader(), [measure], params=prunable(model))
        assert len(read) == count, measure.name


# --- absent evidence is not zero -------------------------------------------------------------------------------------


def test_a_pruner_does_not_act_on_gradients_that_do_not_exist_yet() -> None:
    with pytest.raises(SecateurError, match="before the first backward"):
        Pruner(_model(), methods.snip(0.5))


class _Branches(nn.Module):
    """A branch that the loss does not see, or sees only for inputs of positive sum."""

    def __init__(self, *, sometimes: bool) -> None:
        super().__init__()
        self.used, self.other, self.sometimes = nn.Linear(4, 3), nn.Linear(4, 3), sometimes

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) + self.other(x) if self.sometimes and x.sum() > 0 else self.used(x)


@pytest.mark.parametrize("name", ["grad", "fisher", "movement", "hessian_grad", "hessian_diag", "flow", "input_norm"])
def test_an_unused_branch_is_named(name: str) -> None:
    model = _Branches(sometimes=False)
    with pytest.raises(ScoreError, match=rf"There is no '{name}' of other\.weight: .*`only=`"):
        gather(model, [(X, Y)], [KNOWN[name]()], params=prunable(model))
    kept = gather(model, [(X, Y)], [KNOWN[name]()], params=prunable(model, only="used.weight"))
    assert kept[name].keys() == {"used.weight"}


def test_a_backbone_without_gradients_is_named() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                hidden = self.backbone(x)
            return self.head(hidden)

    model = Detached()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ScoreError, match=r"no 'grad' of backbone\.weight"):
        prune(model, methods.snip(0.3), [(X, Y)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(SecateurError, match="does not depend on the weights"):
        gather(model, [(X, Y)], [grad()], params=prunable(model), loss=lambda out, y: out.detach().sum())


def test_a_branch_used_by_some_batches_has_their_evidence() -> None:
    model = _Branches(sometimes=True)
    batches = [(X - 100, Y), (X.abs(), Y), (X - 100, Y)]
    found = gather(model, batches, [grad()], params=prunable(model))["grad"]
    loss = F.cross_entropy(model(X.abs()), Y)
    (wanted,) = torch.autograd.grad(loss, [model.other.weight])
    torch.testing.assert_close(found["other.weight"], wanted)


def test_a_linear_loss_has_no_curvature_and_that_is_a_zero() -> None:
    model = nn.Linear(4, 3)
    found = gather(
        model, [(X, Y)], [KNOWN["hessian_grad"](), KNOWN["hessian_diag"]()], params=prunable(model),
        loss=lambda out, y: out.sum(),
    )  # fmt: skip
    assert not found["hessian_grad"]["weight"].any() and not found["hessian_diag"]["weight"].any()


def test_gradients_that_share_a_buffer_do_not_add_up_twice() -> None:
    """Autograd may give two parameters one and the same tensor, expanded from a single number."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return (self.a + self.b).sum() + 0 * x.sum()

    model = Sum()
    found = gather(
        model, [(X, Y)] * 3, [grad()], params=dict(model.named_parameters()), loss=lambda out, y: out
    )["grad"]  # fmt: skip
    assert found["a"].tolist() == found["b"].tolist() == [3, 3, 3]
