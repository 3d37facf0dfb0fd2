"""One milestone of a method: from evidence to scores, from scores to units, from units to masks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from secateur._base.alone import held_alone
from secateur._base.errors import EmptyLayerWarning, ScoreError, SecateurError
from secateur._base.warn import warn
from secateur._base.zeros import all_true
from secateur.axes import Method, Moment, Score, Structure
from secateur.axes.structure import Channels
from secateur.masks import Masks
from secateur.pruning._ties import report_ties

Scores = Mapping[str, Tensor]

_AS_SCORED = (torch.float32, torch.float64)  # evidence of these types is not converted before it is scored


def choose(method: Method, moment: Moment, *, last: bool = True) -> dict[str, Tensor]:
    """Say which weights stay after this moment, as one boolean tensor per parameter.

    Units compete by the method's score for the density of the moment, among those alive; where the method regrows, a
    part of what stays is then exchanged for what is worth more by the growth's score, or the dead compete as well.
    A regrowth may have a start of its own: the first choice is then by another score, and maybe in other pools.
    At the `last` moment there is a warning if equal scores leave the choice to the index.
    """
    regrow, structure = method.regrow, method.structure
    untouched = all(all_true(bits) for bits in moment.alive.values())
    start = regrow.start if regrow is not None and untouched else None
    scope = regrow.quota if start is not None and regrow is not None and regrow.quota else method.scope
    ranking = start or method.score
    if ranking is None:
        raise SecateurError(f"{method.name} has gates and no score: its masks come from the gates.")
    if regrow is not None and isinstance(structure, Channels):
        raise SecateurError(
            f"{method.name}: `regrow` grows single filters, and {structure.name} are tied: leave it out."
        )
    grows = regrow is not None and regrow.by is not None and start is None
    only_reader = not grows and method.repair is None
    scores = unit_scores(ranking, structure, moment, spend=only_reader)
    free = untouched or (regrow is not None and regrow.revives)
    alive = None if free else _living_units(structure, moment, scores)
    pooled = structure.pool(scores)
    living = None if alive is None else structure.pool_alive(alive)
    keep = scope(pooled, structure.shapes(pooled, moment.shapes), moment.density, alive=living)
    report_ties(pooled, keep, living, ranking, last=last)
    keep = structure.share(keep, scores)
    if grows and regrow is not None and regrow.by is not None:
        keep = regrow.exchange(moment, keep, scores, unit_scores(regrow.by, structure, moment))
    masks = {name: moment.stored(name, mask) for name, mask in structure.expand(keep, moment.shapes).items()}
    if alive is not None and regrow is None:  # a unit that stays does so with what it has left
        masks = {name: mask & moment.alive[name] for name, mask in masks.items()}
    return masks


def choose_by(method: Method, moment: Moment, worths: Scores) -> dict[str, Tensor]:
    """Say which weights stay by what gates say that they, or their units, are worth; as `choose` otherwise."""
    structure = method.structure
    scores = {name: _of_units(worth, structure, name, moment) for name, worth in worths.items()}
    pooled = structure.pool(scores)
    keep = method.scope(pooled, structure.shapes(pooled, moment.shapes), moment.density, alive=None)
    keep = structure.share(keep, scores)
    masks = structure.expand(keep, moment.shapes)
    return {name: moment.stored(name, mask) for name, mask in masks.items()}


def unit_scores(score: Score, structure: Structure, moment: Moment, *, spend: bool = False) -> dict[str, Tensor]:
    """Score every parameter's units: per weight and reduced by the structure, or given per unit.

    With `spend` the evidence of a parameter is let go of once it is scored, or the scores are made in its memory, so
    that they never need that of a second network: for whoever is the last to read it.
    """
    found = {}
    with torch.no_grad():
        for name in moment.params:
            scores = score(moment.evidence, name, out=_to_spend(score, moment, name) if spend else None)
            scores = placed(score, scores, name, moment)
            found[name] = _of_units(scores, structure, name, moment)
            for _, measure in score.measures if spend else ():
                moment.evidence[measure.name].pop(name, None)
    return found


def placed(score: Score, scores: Tensor, name: str, moment: Moment) -> Tensor:
    """Bring scores of a layer's matrix, from a function that asks for its `rows`, to the place of each weight."""
    shape = moment.shapes[name]
    of_rows = any(measure.name == "rows" for _, measure in score.measures)
    if of_rows and scores.shape == (shape[0], math.prod(shape[1:])):
        return moment.stored(name, scores.reshape(shape))
    return scores


def _to_spend(score: Score, moment: Moment, name: str) -> Tensor | None:
    """Evidence of this parameter that nobody else holds and that is like its scores; most often autograd's gradient."""
    if not score.takes_out:
        return None
    parts = [moment.evidence[measure.name] for _, measure in score.measures]
    kinds = {(part[name].shape, torch.promote_types(part[name].dtype, torch.float32)) for part in parts}
    if len(kinds) > 1:  # the result would be like none of them, or like one by rounding
        return None
    return next((part[name] for part in parts if held_alone(part, name) and part[name].dtype in _AS_SCORED), None)


def _of_units(scores: Tensor, structure: Structure, name: str, moment: Moment) -> Tensor:
    if scores.shape == moment.params[name].shape:
        return structure.scores(name, moment.canonical(name, scores))
    return _per_unit(scores, structure, name, moment)


def _per_unit(scores: Tensor, structure: Structure, name: str, moment: Moment) -> Tensor:
    units = structure.split(torch.empty(moment.shapes[name], device="meta")).shape[0]
    if scores.shape == (units,):
        return scores
    raise ScoreError(
        f"A score must have the weight's shape {tuple(moment.params[name].shape)} for {name!r}, or one entry for each "
        f"of its {units} {structure.name}, got {tuple(scores.shape)}."
    )


def _living_units(structure: Structure, moment: Moment, scores: Scores) -> dict[str, Tensor]:
    """Which units have a weight left."""
    found = {}
    for name, bits in moment.alive.items():
        here = moment.canonical(name, bits)
        found[name] = here if here.shape == scores[name].shape else structure.split(here).any(1)
    return found


def emptied_layers(masks: Masks) -> list[str]:
    """Names of the weights of which nothing is left. Biases are not among them: a layer does without."""
    return [name for name in masks.empty if masks[name].dim() > 1]


def report_empty(masks: Masks, *, allow_empty: bool) -> None:
    """Warn of layers without a weight left, or refuse them."""
    empty = emptied_layers(masks)
    if not empty:
        return
    what = (
        f"{len(empty)} of {len(masks)} tensors lost all their weights: {', '.join(empty)}. Their layers no longer pass "
        "any signal on."
    )
    if not allow_empty:
        raise SecateurError(
            f"allow_empty=False: {what} Keep more (a higher density), or choose per-layer quotas "
            "(scope.erk(), scope.layerwise()) or synflow, which empties no layer."
        )
    warn(what, EmptyLayerWarning)
