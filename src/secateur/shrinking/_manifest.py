"""Writing down a cut."""

from __future__ import annotations

from torch import nn

from secateur.shrinking._reasons import Reasons, places_of, records_of
from secateur.shrinking.cuts import Plan, kept_indices, ratios, scalings
from secateur.shrinking.manifests import Manifest

__all__ = ["manifest_of"]


def manifest_of(model: nn.Module, small: nn.Module, plan: Plan, reasons: Reasons) -> Manifest:
    """Write down a cut.

    Args:
        model: of full size.
        small: the same after the cut.
        plan: the cut.
        reasons: by which it was chosen.
    """
    before = {**dict(model.named_buffers(remove_duplicate=False)), **model.state_dict(keep_vars=True)}
    kept = {
        name: {dim: tuple(index.tolist()) for dim, index in dims}
        for names, dims in kept_indices(plan).items()
        for name in names
    }
    numbers = {str(attribute): (attribute.value, value) for attribute, value in plan.numbers.items()}
    rescaled = {
        f"{norm.module}.{norm.weight}".lstrip("."): (ratio**0.5, norm.plus_one) for norm, ratio in ratios(plan).items()
    }
    rescaled |= {name: (factor, False) for name, factor in scalings(plan).items()}
    epsilons = {
        f"{norm.module}.{norm.epsilon}".lstrip("."): tuple(
            getattr(each.get_submodule(norm.module), norm.epsilon) for each in (model, small)
        )
        for norm in ratios(plan)
    }
    places, words = places_of(plan.coupling)
    return Manifest(
        {name: tuple(before[name].shape) for name in kept if name in before},
        kept,
        numbers,
        rescaled,
        records_of(plan.coupling, plan, reasons),
        tuple(sorted(set(small.state_dict()) - set(before))),
        epsilons,
        places,
        words,
        plan.removed,
    )
