"""Which of several models is returned: layers that gain one by one need not gain together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from secateur.sparse.convert._inputs import Inputs
from secateur.sparse.convert._report import REPORT, Choice, Report, report_of
from secateur.sparse.convert._situation import Situation
from secateur.sparse.convert._timed import crashes_channels_last
from secateur.sparse.convert._whole import whole_verdict
from secateur.sparse.layers import in_one_call

Convert = Callable[[Situation], nn.Module]


def fastest(situation: Situation, chosen: nn.Module, inputs: Inputs, convert: Convert) -> nn.Module:
    """Return the fastest of several models: as the layers chose one by one, all sparse, and dense in two layouts.

    Args:
        situation: the dense model and what is wanted of it.
        chosen: the model as its layers chose.
        inputs: what the models are called with.
        convert: makes a model in which all layers run in one way.
    """
    choices = {line.choice for line in report_of(chosen).layers} - {Choice.UNTOUCHED}
    leaves = [module for module in situation.model.modules() if not any(True for _ in module.children())]
    on_cpu = all(parameter.is_cpu for parameter in situation.model.parameters())
    if not choices or not on_cpu:  # a call on an accelerator returns before it is done
        return chosen
    sparse = replace(situation, wanted=Choice.SPARSE)
    others = {} if choices == {Choice.SPARSE} else {"all sparse": sparse}
    others["all dense"] = replace(situation, wanted=Choice.DENSE, as_is=True)
    risky = situation.model.training and any(crashes_channels_last(leaf) for leaf in leaves)
    if any(isinstance(leaf, nn.Conv2d) for leaf in leaves) and not risky:
        others["all dense, channels-last"] = replace(situation, wanted=Choice.DENSE, channels_last=True)
    best, name, told, training = chosen, "as its layers chose", [], situation.model.training
    candidates: dict[str, Callable[[], nn.Module | None]] = {}
    candidates |= {other: partial(convert, wanted) for other, wanted in others.items()}
    candidates["all sparse, in one call"] = partial(_joined, sparse, inputs, convert)
    for other, make in candidates.items():
        if (candidate := make()) is None:
            continue
        verdict = whole_verdict(best, candidate, inputs, training=training)
        told.append(f"{other} takes {verdict.ratio:.2f} of the time {name}")
        best, name = (candidate, other) if verdict.second_is_faster else (best, name)
    if told:
        whole = f"whole model, {'training' if training else 'inference'}: {'; '.join(told)}"
        setattr(best, REPORT, Report(report_of(best).layers, whole))
    return best


def _joined(situation: Situation, inputs: Inputs, convert: Convert) -> nn.Module | None:
    """Return the model in one call, if it can be and its convolutions are not joined already, as a Sequential's are."""
    x = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
    leaves = [module for module in situation.model.modules() if not any(True for _ in module.children())]
    joined = type(situation.model) is nn.Sequential and len(leaves) == len(situation.model)
    if joined or situation.model.training or not any(isinstance(leaf, nn.Conv1d | nn.Conv2d) for leaf in leaves):
        return None
    return in_one_call(convert(situation), situation.model, x)
