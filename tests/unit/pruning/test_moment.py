"""One moment of a method: evidence that several read, scores per unit, and masks to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from online_cases import batch, best, mlp, seeded, weights
from secateur import Masks, methods, prune, schedule, scope, scores, structure
from secateur._base.errors import MaskError, ScoreError, SecateurError, TiedScoresWarning
from secateur.axes import Method, Moment, all_alive, measured, method
from secateur.axes.regrow import constant, drop_and_grow
from secateur.measures import Measure, gather
from secateur.pruning import choose


def saliency(weight: Tensor, grad: Tensor) -> Tensor:
    return (weight * grad).abs()


def growth(grad: Tensor) -> Tensor:
    return grad.abs()


def _method(score: Any, density: float | None = 0.3, **choices: Any) -> Method:
    parts = {"structure": structure.weights(), "scope": scope.layerwise(), "schedule": schedule.once(density)}
    return method("toy", score, **{**parts, **choices})


def _moment(model: nn.Module, asked: Method, alive: dict[str, Tensor] | None = None, step: int = 3) -> Moment:
    params = {name: p for name, p in model.named_parameters() if "weight" in name}
    measures: list[Measure] = list(asked.measures)
    evidence = gather(model, [batch(0)], measures, params=params)
    return Moment(step, asked.density, params, alive or all_alive(params), evidence=evidence)


# --- evidence ---------------------------------------------------------------------------------------------------------


def test_a_second_score_on_the_same_evidence_sees_what_the_first_saw() -> None:
    model = mlp()
    alive = prune(mlp(), methods.magnitude(0.4, scope=scope.layerwise()))
    asked = _method(saliency, 0.4, regrow=drop_and_grow(measured(growth), constant(0.25)))
    moment = _moment(model, asked, dict(alive))
    grads = {name: tensor.clone() for name, tensor in moment.evidence["grad"].items()}
    found = choose(asked, moment)
    for name, bits in alive.items():
        moved = int(0.25 * int(bits.sum()))
        stay = bits & ~best((model.get_parameter(name) * grads[name]).abs(), bits, moved, smallest=True)
        assert torch.equal(found[name], stay | best(grads[name].abs(), ~stay, moved))
        assert torch.equal(moment.evidence["grad"][name], grads[name])


def test_evidence_is_given_to_everybody_as_it_is() -> None:
    seen = []

    def first(weight: Tensor, grad: Tensor) -> Tensor:
        seen.append(grad)
        return weight.abs()

    def second(grad: Tensor) -> Tensor:
        seen.append(grad)
        return grad.abs()

    model = mlp()
    asked = _method(first, regrow=drop_and_grow(measured(second), constant(0.5)))
    alive = {n: torch.arange(p.numel()).reshape(p.shape) % 2 == 0 for n, p in weights(model).items() if "weight" in n}
    choose(asked, _moment(model, asked, alive))
    assert len(seen) == 4 and {id(t) for t in seen[:2]} == {id(t) for t in seen[2:]}


def test_one_name_for_two_kinds_of_evidence_is_refused() -> None:
    from secateur.measures import grad_average

    one = measured(saliency)
    other = measured(growth, {"grad": Measure("grad", grad_average().begin)})
    with pytest.raises(SecateurError, match="measures 'grad' in two ways"):
        _ = _method(one, regrow=drop_and_grow(other, constant(0.5))).measures


# --- units ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PerFilter:
    """‖row‖₂, one number per filter."""

    def __call__(self, weight: Tensor) -> Tensor:
        return weight.flatten(1).norm(dim=1)


def test_a_score_may_be_per_unit() -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 4, 2))
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[0].weight)
    norms = torch.cat([layer.weight.detach().flatten(1).norm(dim=1) for layer in model])
    asked = _method(PerFilter(), 0.5, structure=structure.filters(), scope=scope.everywhere())
    assert [tuple(t.shape) for t in scores(model, asked).values()] == [(6,), (4,)]
    masks = prune(model, asked)
    kept = torch.cat([mask.flatten(1).all(1) for mask in masks.values()])
    assert torch.equal(kept, best(norms, torch.ones_like(kept), 5))
    assert torch.equal(kept, torch.cat([mask.flatten(1).any(1) for mask in masks.values()]))
    fewer = _method(PerFilter(), 0.4, structure=structure.filters(), scope=scope.everywhere())
    again = prune(model, fewer, masks=masks)
    assert sum(bool(row.any()) for bits in again.values() for row in bits) == 4
    assert all(bool((bits <= masks[name]).all()) for name, bits in again.items())


def test_a_score_of_a_shape_that_fits_neither_is_named() -> None:
    model = mlp()
    for asked, units in ((structure.filters(), "20 filters"), (structure.columns(), "12 columns")):
        wrong = _method(lambda weight: weight.abs().sum().reshape(1), structure=asked)
        with pytest.raises(ScoreError, match=rf"\(20, 12\) for '0.weight', or one entry for each of its {units}, got"):
            prune(model, wrong)
    with pytest.raises(ScoreError, match=r"must return a tensor of scores for '0\.weight', got float"):
        prune(model, _method(lambda weight: 1.0))


# --- masks to go on from ----------------------------------------------------------------------------------------------


def test_pruning_goes_on_from_masks_whatever_the_values_are() -> None:
    model = mlp()
    with torch.no_grad():  # survivors at zero, and huge values behind the mask
        model[0].weight[:, ::2] = 0
    masks = Masks({"0.weight": torch.arange(240).reshape(20, 12) % 3 > 0})
    with torch.no_grad():
        model[0].weight[~masks["0.weight"]] = 1e6
    with pytest.warns(TiedScoresWarning, match=r"40 of 80 units .* 0\.weight \(40 of 80\)"):
        again = prune(model, methods.magnitude(0.5, scope=scope.layerwise()), masks=masks)
    assert not bool((again["0.weight"] & ~masks["0.weight"]).any()) and int(again["0.weight"].sum()) == 120
    assert int(again["2.weight"].sum()) == 30  # not named by the masks: whole so far
    assert bool((model[0].weight[~again["0.weight"]] == 0).all())


def test_data_is_seen_through_the_masks() -> None:
    """Evidence is that of the network as pruned so far."""
    model, twin = mlp(), mlp()
    masks = prune(twin, methods.magnitude(0.5))  # writes the zeros
    found = prune(model, methods.snip(0.2), [batch(0)], masks=masks)
    grads = torch.autograd.grad(
        nn.functional.cross_entropy(twin(batch(0)[0]), batch(0)[1]), [twin[0].weight, twin[2].weight]
    )
    worth = torch.cat([(p * g).abs().flatten() for p, g in zip((twin[0].weight, twin[2].weight), grads, strict=True)])
    among = torch.cat([mask.flatten() for mask in masks.values()])
    assert torch.equal(torch.cat([mask.flatten() for mask in found.values()]), best(worth.detach(), among, 60))


def test_the_masks_already_there_at_the_same_density_change_nothing() -> None:
    for scope_ in (scope.everywhere(), scope.layerwise()):
        model = mlp()
        masks = prune(model, methods.magnitude(0.4, scope=scope_))
        assert prune(model, methods.magnitude(0.4, scope=scope_), masks=masks) == masks


def test_masks_that_do_not_fit_are_refused_and_nothing_is_written() -> None:
    whole = torch.ones(20, 12, dtype=torch.bool)
    cases: list[tuple[dict[str, Tensor], dict[str, Any], type[Exception], str]] = [
        ({"9.weight": whole}, {}, MaskError, "9.weight"),
        ({"0.weight": whole[:5]}, {}, MaskError, "0.weight"),
        ({"0.weight": whole}, {"only": "2.*"}, SecateurError, "`masks` cover '0.weight', which this prune does not"),
        ({"0.weight": ~whole}, {}, SecateurError, "`masks` keep 60 of 300 weights, fewer than density=0.5"),
    ]
    for tensors, options, kind, text in cases:
        model = mlp()
        with pytest.raises(kind, match=text):
            prune(model, methods.magnitude(0.5), masks=Masks(tensors), **options)
        assert all(torch.equal(p, mlp().get_parameter(name)) for name, p in model.named_parameters())
    # FORCE brings weights back, so that it may start from fewer than it ends with
    masks = Masks({"0.weight": whole & (torch.arange(240).reshape(20, 12) < 30), "2.weight": torch.ones(3, 20) > 0})
    assert prune(mlp(), methods.force(0.5), [batch(0)], masks=masks, generator=seeded(0)).kept == 150


def test_a_moment_turns_tensors_to_outputs_first_and_back() -> None:
    from secateur.masks import layouts

    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=2), nn.Linear(2, 2))
    params = {name: p for name, p in model.named_parameters() if "weight" in name}
    moment = Moment(0, None, params, all_alive(params), layouts=layouts(model))
    assert moment.shapes == {"0.weight": torch.Size([6, 2, 3]), "1.weight": torch.Size([2, 2])}
    for name, p in params.items():
        assert torch.equal(moment.stored(name, moment.canonical(name, p)), p)
