"""A cut that is planned and made, and what it takes to be handed back: the proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn
from torch.optim import Optimizer

from secateur._base.errors import SecateurError
from secateur.costing import Call, count
from secateur.coupling import Outputs, settle, trace
from secateur.holding import held, hold
from secateur.shrinking._asked import Asked
from secateur.shrinking._constants import fold_
from secateur.shrinking._cutting import Cutting, whole
from secateur.shrinking._manifest import manifest_of
from secateur.shrinking._optimizer import continue_, drifts, left_of, released
from secateur.shrinking._result import Certificate, Shrunk
from secateur.shrinking._timing import timing
from secateur.shrinking.cuts import Plan, cut_, scalings
from secateur.shrinking.manifests import Manifest
from secateur.shrinking.proof import Comparison, compare

__all__ = ["Draft", "Terms"]


@dataclass(frozen=True, eq=False)
class Terms:
    """On which terms a model is shrunk; as the arguments of `shrink`."""

    outputs: Outputs | None = None
    inexact: tuple[str, ...] = ()
    close: bool = True
    fold: bool = True
    modes: tuple[str, ...] = ("eval", "train")
    draws: int = 1
    optimizer: Optimizer | None = None
    timed: bool = False


@dataclass(frozen=True, eq=False)
class Draft:
    """A smaller model that is made, and not proved yet.

    Attributes:
        model: as it was given.
        free: the same without holds.
        cutting: the cut, and the masked model that it has to equal.
        call: example inputs.
        about: the terms.
    """

    model: nn.Module
    free: nn.Module
    cutting: Cutting
    call: Call
    about: Terms

    @staticmethod
    def of(model: nn.Module, asked: Asked, call: Call, about: Terms) -> Draft:
        """Trace, choose and cut.

        Raises:
            SecateurError: as `shrink`, but for two models that differ.
        """
        free = released(model)
        slim, gone, asked = asked.without_blocks(free, call, close=about.close)
        found = trace(slim, *call.inputs, kwargs=call.kwargs, outputs=about.outputs, inexact=about.inexact)
        fold = about.fold and about.optimizer is None  # a constant of eval mode is none while the model trains
        cutting = asked.cutting(slim, found, call, about.outputs, about.inexact, close=about.close, fold=fold)
        return Draft(model, free, whole(free, gone, cutting, call, about.outputs), call, about)

    @cached_property
    def small(self) -> nn.Module:
        """The smaller model."""
        return self.cutting.build(self.cutting.masked)

    @cached_property
    def manifest(self) -> Manifest:
        """Old and new index of everything."""
        return manifest_of(self.free, self.small, self.cutting.plan, self.cutting.reasons)

    def proved(self) -> Shrunk:
        """Compare, and hand back a copy, or with an optimizer the model itself, cut; what was held is held again.

        Raises:
            SecateurError: the two models differ. Nothing is changed then.
        """
        certificate, manifest, made, small = self._certificate(), self.manifest, self.cutting.plan, self.small
        left = None if self.cutting.masks is None else left_of(self.cutting.masks, made)
        before = [each.masks for each in held(self.model)]
        if self.about.optimizer is not None:
            small = _in_place(self.model, self.cutting, self.about.optimizer)
        for masks in before:
            if (still := left_of(masks, made)) is not None:
                hold(small, still)
        return Shrunk(small, certificate, manifest, left)

    def _certificate(self) -> Certificate:
        cutting, call, about, made = self.cutting, self.call, self.about, self.cutting.plan
        folded = len(cutting.folds)
        asked = [mode for mode in about.modes if mode == "eval" or not folded]
        comparisons = compare(cutting.masked, cutting.build, made, call, about.outputs, asked, about.draws)
        waived = {kind for kind, ids in made.coupling.waived if made.gone[ids].any()}
        if not waived:
            _require(comparisons, made)
        not_claimed = [f"{folded} constants of eval mode stand in biases: train mode"] if folded else []
        not_claimed += _of_training(made, about.optimizer)
        before, after = count(self.free, call), count(self.small, call)
        return Certificate(
            tuple(comparisons),
            before,
            after,
            cutting.closing,
            folded,
            tuple(dict.fromkeys(each.why for each in made.frozen)),
            tuple(f"{op}: {where}" for op, where in made.coupling.unknown.items()),
            tuple(sorted(waived)),
            tuple(not_claimed),
            timing(self.free, self.small, call, before, after) if about.timed else None,
            tuple(map(str, made.removed)),
        )


def _of_training(made: Plan, optimizer: Optimizer | None) -> list[str]:
    if optimizer is None:
        return []
    found = [text for text in (drifts(optimizer),) if text]
    if made.coupling.rescaled and any(made.gone[ids].any() for _, ids in made.coupling.rescaled):
        found.append("weights of root mean square norms were scaled: the optimizer's next step of these")
    if scalings(made):
        found.append("weights of queries were scaled: the optimizer's next step of these")
    return found


def _require(comparisons: Sequence[Comparison], made: Plan) -> None:
    wrong = next((each for each in comparisons if not each.holds), None)
    if wrong is None:
        return
    unknown = "".join(f" No rule is known for {op} ({where})." for op, where in made.coupling.unknown.items())
    raise SecateurError(
        f"`shrink`: the smaller model does not compute what the masked one does: {wrong}. Nothing was changed."
        f"{unknown} modes=('eval',) leaves train mode out of the proof; docs/shrink.md says how a rule is written."
    )


def _in_place(model: nn.Module, cutting: Cutting, optimizer: Optimizer) -> nn.Module:
    """Do to the model what was proved of its copy."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for each in held(model):
        each.release()
    if cutting.masks is not None:
        cutting.masks.apply_(model)
    replaced = cut_(model, cutting.plan)
    fold_(model, cutting.plan, cutting.folds)
    settle(model)
    continue_(optimizer, cutting.plan, replaced, names)
    return model
