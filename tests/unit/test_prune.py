"""prune: what is chosen, what is written, what is refused."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from secateur import Masks, Method, invert, method, methods, prune, schedule, scope, scores, structure
from secateur._base.errors import EmptyLayerWarning, ScoreError, SecateurError, TiedScoresWarning
from secateur.axes import ScoreFunction


@pytest.fixture
def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(16, 12), torch.arange(16) % 3


# --- what is written -------------------------------------------------------------------------------------------------


def test_masks_are_written_and_returned(mlp: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    masks = prune(mlp, methods.snip(density=0.1), [batch])
    assert isinstance(masks, Masks)
    alive = sum(int((mlp.get_parameter(name) != 0).sum()) for name in masks)
    assert alive == masks.kept == round(0.1 * masks.numel)


def test_wrapped_models_get_masks_with_inner_names(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    plain = nn.Sequential(nn.Linear(12, 3))
    wrapped = nn.DataParallel(copy.deepcopy(plain))
    assert prune(wrapped, methods.snip(density=0.5), [batch]) == prune(plain, methods.snip(density=0.5), [batch])


def test_a_failure_in_the_last_round_changes_nothing(mlp: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    calls = 0

    def fragile(weight: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return grad * float("nan") if calls > 5 else (weight * grad).abs()  # 3 tensors a round: breaks in round 2

    broken = method(
        "fragile",
        fragile,
        structure=structure.weights(),
        scope=scope.everywhere(),
        schedule=schedule.exponential(0.1, rounds=3),
    )
    before = copy.deepcopy(mlp.state_dict())
    with pytest.raises(ScoreError, match=r"'4.weight'"):
        prune(mlp, broken, [batch])
    assert all(torch.equal(before[key], value) for key, value in mlp.state_dict().items())


def test_frozen_weights_are_pruned_when_asked_for_and_stay_frozen(
    mlp: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    mlp[0].weight.requires_grad_(False)
    assert "0.weight" not in prune(copy.deepcopy(mlp), methods.snip(density=0.2), [batch])
    masks = prune(mlp, methods.snip(density=0.2), [batch], only="*.weight")
    assert masks["0.weight"].any() and not mlp[0].weight.requires_grad


# --- emptied layers --------------------------------------------------------------------------------------------------


def _lopsided() -> nn.Module:
    model = nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 3))
    with torch.no_grad():
        model[1].weight.mul_(1e-6)
    return model


def test_an_emptied_layer_is_never_silent() -> None:
    with pytest.warns(EmptyLayerWarning, match=r"1 of 2 tensors lost all their weights: 1.weight"):
        prune(_lopsided(), methods.magnitude(density=0.1))


def test_allow_empty_false_refuses_before_anything_is_written() -> None:
    model = _lopsided()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SecateurError, match="allow_empty=False: 1 of 2 tensors"):
        prune(model, methods.magnitude(density=0.1), allow_empty=False)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


# --- bad input -------------------------------------------------------------------------------------------------------


def test_missing_batches_are_named(mlp: nn.Module) -> None:
    with pytest.raises(
        SecateurError, match=r"measures 'grad' and needs `batches`: a list of \(inputs, targets\) pairs"
    ):
        prune(mlp, methods.snip(density=0.1))
    with pytest.raises(SecateurError, match=r"of which only the shape is used"):
        prune(mlp, methods.synflow(density=0.1))


def test_a_single_batch_instead_of_a_list(mlp: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(SecateurError, match=r"Did you mean batches=\[batch\]\?"):
        prune(mlp, methods.snip(density=0.1), batch)


def test_empty_batches(mlp: nn.Module) -> None:
    with pytest.raises(SecateurError, match="`batches` is empty"):
        prune(mlp, methods.snip(density=0.1), [])


def test_a_batch_without_targets(mlp: nn.Module) -> None:
    with pytest.raises(SecateurError, match=r"A batch must be \(inputs, targets\)"):
        prune(mlp, methods.snip(density=0.1), [torch.ones(2, 12)])


def test_a_loss_that_is_not_finite(mlp: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    bad = (batch[0] * float("inf"), batch[1])
    with pytest.raises(SecateurError, match="The loss of a scoring batch is nan"):
        prune(mlp, methods.snip(density=0.1), [bad])


def test_a_loss_that_is_not_a_scalar(mlp: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(SecateurError, match=r"`loss` must return a scalar, got shape \(16,\)"):
        prune(mlp, methods.snip(density=0.1), [batch], loss=nn.CrossEntropyLoss(reduction="none"))


def test_meta_models_are_refused(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(SecateurError, match="has no data"):
        prune(nn.Linear(12, 3, device="meta"), methods.magnitude(density=0.5))


# --- batches ---------------------------------------------------------------------------------------------------------


def test_one_shot_iterators_serve_all_rounds(mlp: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    again = copy.deepcopy(mlp)
    plan = methods.iter_snip(density=0.1, rounds=3)
    assert prune(mlp, plan, iter([batch])) == prune(again, plan, [batch])


def test_mapping_batches_use_the_models_own_loss() -> None:
    class Output:
        def __init__(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
            self.logits, self.loss = logits, nn.functional.cross_entropy(logits, labels)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> Output:
            return Output(self.fc(pixels), labels)

    model, x, y = Named(), torch.randn(5, 6), torch.arange(5) % 3
    named = scores(model, methods.snip(density=0.5), [{"pixels": x, "labels": y}])
    plain = scores(model.fc, methods.snip(density=0.5), [(x, y)])
    assert torch.equal(named["fc.weight"], plain["weight"])
    with pytest.raises(SecateurError, match=r"temperature=200.*Pass loss="):  # logits out of reach
        scores(model, methods.grasp(density=0.5), [{"pixels": x, "labels": y}])
    own_loss = nn.functional.cross_entropy
    tempered = scores(model, methods.grasp(density=0.5), [{"pixels": x, "labels": y}], loss=own_loss)
    assert torch.equal(tempered["fc.weight"], scores(model.fc, methods.grasp(density=0.5), [(x, y)])["weight"])


@pytest.mark.parametrize("plan", [methods.snip(0.2), methods.grasp(0.2), methods.synflow(0.2, rounds=3)], ids=str)
def test_the_callers_no_grad_and_autocast_change_nothing(
    plan: Method, mlp: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    plain = prune(copy.deepcopy(mlp), plan, [batch])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert prune(copy.deepcopy(mlp), plan, [batch]) == plain
        assert not torch.is_grad_enabled()


# --- scores that name unknown evidence -------------------------------------------------------------------------------


def test_unknown_evidence_is_a_type_error_at_definition() -> None:
    def score(weight: torch.Tensor, gard: torch.Tensor) -> torch.Tensor:
        return weight * gard

    with pytest.raises(TypeError, match=r"unknown evidence 'gard'. Did you mean 'grad'\? Known: weight, noise, grad"):
        method("typo", score, structure=structure.weights(), scope=scope.everywhere(), schedule=schedule.once(0.5))


def _filters(score: ScoreFunction) -> Method:
    return method("flat", score, structure=structure.filters(), scope=scope.everywhere(), schedule=schedule.once(0.5))


def test_a_score_of_the_wrong_shape_is_named(mlp: nn.Module) -> None:
    with pytest.raises(
        ScoreError,
        match=r"the weight's shape \(20, 12\) for '0.weight', or one entry for each of its 20 filters, got \(12,\)",
    ):
        prune(mlp, _filters(lambda weight: weight.abs().sum(0)))


def test_a_score_may_be_given_for_each_unit(mlp: nn.Module) -> None:
    twin = copy.deepcopy(mlp)
    per_unit = prune(mlp, _filters(lambda weight: weight.abs().sum(1)))
    assert per_unit == prune(twin, _filters(lambda weight: weight.abs()))


# --- a density that emerges ------------------------------------------------------------------------------------------


def test_a_density_that_emerges_is_none_and_what_is_kept_is_what_passes(mlp: nn.Module) -> None:
    weights = {name: p.detach().clone() for name, p in mlp.named_parameters() if name.endswith("weight")}
    cut = method(
        "cut",
        lambda weight: weight.abs(),
        structure=structure.weights(),
        scope=scope.threshold(0.1),
        schedule=schedule.once(None),
    )
    masks = prune(mlp, cut)
    assert cut.density is None
    assert all(torch.equal(masks[name], weight.abs() >= 0.1) for name, weight in weights.items())


# --- structures and inversion ----------------------------------------------------------------------------------------


def test_filters_are_kept_whole(mlp: nn.Module) -> None:
    rows = method(
        "neurons",
        lambda weight: weight.square(),
        structure=structure.filters(),
        scope=scope.layerwise(),
        schedule=schedule.once(0.5),
    )
    masks = prune(mlp, rows)
    for mask in masks.values():
        assert ((mask.sum(1) == 0) | (mask.sum(1) == mask.shape[1])).all()
        assert mask.any(1).sum() == int(0.5 * mask.shape[0] + 0.5)


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_invert_is_disjoint_from_the_method_itself(scale: float) -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 3))
    with torch.no_grad():
        model[0].weight.mul_(scale)  # with scale 0 most scores tie
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyLayerWarning)
        warnings.simplefilter("ignore", TiedScoresWarning)
        top = prune(copy.deepcopy(model), methods.magnitude(density=0.4))
        bottom = prune(copy.deepcopy(model), invert(methods.magnitude(density=0.4)))
    assert bottom.kept == top.kept and (top & bottom).kept == 0
