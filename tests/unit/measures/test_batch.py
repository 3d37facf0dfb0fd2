"""From a batch to the loss: one rule for every measure, and a sentence for what it cannot read."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import methods, prune, scores
from secateur._base.errors import SecateurError

X, Y = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
SNIP = methods.snip(0.3)
Pair = namedtuple("Pair", "left right")


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


class Two(nn.Module):
    """Adds its second input to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.net = classifier()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.net(left + right)


class Named(nn.Module):
    """Takes labels if it is told to, and returns an output of some kind."""

    def __init__(self, kind: type = SimpleNamespace) -> None:
        super().__init__()
        self.net, self.kind = classifier(), kind

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.net(x)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return self.kind(loss=loss, logits=logits)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found.values(), expected.values(), strict=True))


# --- calling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    [(X / 2, X / 2), [X / 2, X / 2], Pair(X / 2, X / 2), {"left": X / 2, "right": X / 2}],
    ids=["tuple", "list", "named tuple", "mapping"],
)
def test_several_inputs_reach_the_model(inputs: Any) -> None:
    assert same(scores(Two(), SNIP, [(inputs, Y)]), scores(classifier(), SNIP, [(X, Y)]))


def test_a_model_of_one_argument_gets_a_list_as_it_is() -> None:
    class Joins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = classifier()

        def forward(self, parts: list[Tensor]) -> Tensor:
            return self.net(torch.cat(list(parts), 1))

    halves = [X[:, :3], X[:, 3:]]
    for inputs in (halves, tuple(halves)):
        assert same(scores(Joins(), SNIP, [(inputs, Y)]), scores(classifier(), SNIP, [(X, Y)]))


def test_labels_go_only_to_models_that_take_them() -> None:
    class Bare(Named):
        def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return self.net(x)

    assert same(scores(Bare(), SNIP, [{"x": X, "labels": Y}]), scores(classifier(), SNIP, [(X, Y)]))


def test_synaptic_flow_takes_several_inputs() -> None:
    flow = scores(Two(), methods.synflow(0.3), [((X / 2, X / 2), Y)])
    one = scores(classifier(), methods.synflow(0.3), [(X, Y)])
    for found, expected in zip(flow.values(), one.values(), strict=True):
        torch.testing.assert_close(found, 2 * expected)  # an input of ones, twice


# --- which loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SimpleNamespace, dict, OrderedDict])
@pytest.mark.parametrize("plan", [methods.snip(0.3), methods.grasp(0.3), methods.obd(0.3)], ids=str)
def test_a_given_loss_is_the_one_that_is_differentiated(kind: type, plan: Any) -> None:
    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, weight=torch.tensor([50.0, 1.0, 1.0]))

    generators = (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1))
    found = scores(Named(kind), plan, [{"x": X, "labels": Y}], loss=weighted, generator=generators[0])
    expected = scores(classifier(), plan, [(X, Y)], loss=weighted, generator=generators[1])
    assert same(found, expected)


@pytest.mark.parametrize("kind", [SimpleNamespace, dict])
def test_without_a_loss_it_is_the_models_own(kind: type) -> None:
    class Doubled(Named):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            output = super().forward(x, labels)
            loss = 2 * (output["loss"] if kind is dict else output.loss)
            return self.kind(loss=loss, logits=self.net(x))

    own = scores(Doubled(kind), SNIP, [{"x": X, "labels": Y}])
    plain = scores(classifier(), SNIP, [(X, Y)])
    for found, expected in zip(own.values(), plain.values(), strict=True):
        torch.testing.assert_close(found, 2 * expected)


def test_pairs_of_a_model_with_logits_in_its_output() -> None:
    assert same(scores(Named(), SNIP, [(X, Y)]), scores(classifier(), SNIP, [(X, Y)]))
    assert same(scores(Named(dict), SNIP, [(X, Y)]), scores(classifier(), SNIP, [(X, Y)]))


def test_a_loss_inside_the_model_cannot_be_tempered() -> None:
    with pytest.raises(SecateurError, match=r"temperature=200, and the model computes its loss inside.*Pass loss="):
        prune(Named(), methods.grasp(0.3), [{"x": X, "labels": Y}])


def test_other_outputs_are_refused_by_what_they_are() -> None:
    class Returns(Named):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            return self.kind((self.net(x), x))

    with pytest.raises(SecateurError, match=r"returns a tuple of 2: expected a tensor of logits.*output\[0\]"):
        scores(Returns(tuple), SNIP, [(X, Y)])
    with pytest.raises(SecateurError, match=r"returns a dict with the keys \['a'\]"):
        scores(Returns(lambda pair: {"a": pair[0]}), SNIP, [(X, Y)])  # pyright: ignore[reportArgumentType]
    first = scores(Returns(tuple), SNIP, [(X, Y)], loss=lambda output, target: F.cross_entropy(output[0], target))
    assert same(first, scores(classifier(), SNIP, [(X, Y)]))


# --- the default loss, and what it does not fit -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "targets", "why"),
    [
        (1, torch.zeros(12, 1), "one column, over which cross-entropy is 0"),
        (1, torch.zeros(12, dtype=torch.long), "one column, over which cross-entropy is 0"),
        (3, torch.rand(12), "one probability for each output"),
        (3, torch.randn(12, 3), "probabilities that add up to 1"),
        (3, torch.zeros(12, 1, dtype=torch.long), r"class numbers of shape \(12,\)"),
    ],
)
def test_targets_that_the_default_loss_does_not_fit(outputs: int, targets: Tensor, why: str) -> None:
    model = nn.Linear(6, outputs)
    before = copy.deepcopy(model.state_dict())
    for plan in (methods.snip(0.3), methods.grasp(0.3), methods.obd(0.3)):
        with pytest.raises(SecateurError, match=f"cross-entropy, does not fit.*{why}.*Pass `loss`"):
            prune(model, plan, [(X, targets)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_language_models_get_no_wrong_axis() -> None:
    for vocabulary in (30, 12):  # 12 is also the number of positions
        model = nn.Sequential(nn.Embedding(vocabulary, 8), nn.Linear(8, vocabulary))
        ids = torch.randint(0, vocabulary, (4, 12), generator=torch.Generator().manual_seed(0))
        with pytest.raises(SecateurError, match="cross-entropy, does not fit"):
            prune(model, SNIP, [(ids, ids)])


def test_segmentation_and_soft_labels_and_short_integers_fit() -> None:
    images, classes = X.reshape(2, 1, 6, 6)[:, :, :5], torch.arange(2 * 5 * 6).reshape(2, 5, 6) % 3
    assert scores(nn.Conv2d(1, 3, 1), SNIP, [(images, classes)])
    soft = torch.softmax(torch.randn(12, 3), 1)
    expected = scores(classifier(), SNIP, [(X, soft)], loss=F.cross_entropy)
    assert same(scores(classifier(), SNIP, [(X, soft)]), expected)
    for dtype in (torch.uint8, torch.int32):
        assert same(scores(classifier(), SNIP, [(X, Y.to(dtype))]), scores(classifier(), SNIP, [(X, Y)]))
    ignored = torch.where(torch.arange(12) < 3, -100, Y)
    expected = scores(classifier(), SNIP, [(X, ignored)], loss=F.cross_entropy)
    assert same(scores(classifier(), SNIP, [(X, ignored)]), expected)


def test_labels_out_of_range_are_named() -> None:
    with pytest.raises(SecateurError, match=r"class numbers in \[0, 3\).*got 3 \(4 of 12 labels\)"):
        prune(classifier(), SNIP, [(X, Y + 1)])
    with pytest.raises(SecateurError, match=r"got -1 \(4 of 12 labels\)"):
        prune(classifier(), SNIP, [(X, Y - 1)])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output, target: F.cross_entropy(output.detach(), target), "does not depend on the weights"),
        (lambda output, target: 0.5, "must return a tensor that the weights can be differentiated by, got float"),
        (lambda output, target: F.cross_entropy(output, target, reduction="none"), r"a scalar, got shape \(12,\)"),
        (lambda output, target: F.cross_entropy(output, target) * float("nan"), "loss of a scoring batch is nan"),
    ],
    ids=["detached", "a number", "not reduced", "nan"],
)
def test_losses_that_score_nothing(loss: Any, message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        prune(classifier(), SNIP, [(X, Y)], loss=loss)


def test_a_loss_that_is_constant_in_the_weights() -> None:
    with pytest.raises(SecateurError, match=r"All scores are equal \(0\).*constant in the weights"):
        prune(classifier(), SNIP, [(X, Y)], loss=lambda output, target: (output * 0).sum())


# --- inference mode ---------------------------------------------------------------------------------------------------


def test_inference_mode_around_or_in_the_batch_changes_nothing() -> None:
    model, other = classifier(), classifier()
    expected = prune(classifier(), SNIP, [(X, Y)])
    with torch.inference_mode():
        inside, targets = X * 1, Y * 1
        around = prune(model, SNIP, [(X, Y)])
    assert around == expected and prune(other, SNIP, [(inside, targets)]) == expected
    assert not any(mask.is_inference() for mask in around.values())
    F.cross_entropy(model(X), Y).backward()  # it can still be trained


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = classifier()
    with pytest.raises(SecateurError, match=r"made under torch\.inference_mode.*copy\.deepcopy"):
        prune(model, SNIP, [(X, Y)])
    assert prune(copy.deepcopy(model), SNIP, [(X, Y)]).kept
