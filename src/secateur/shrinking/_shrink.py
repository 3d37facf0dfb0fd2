"""The verb: from masks or a density to a smaller model, with a proof."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from secateur._base.arguments import named, refuse_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError
from secateur.axes import Method
from secateur.costing import call_of
from secateur.coupling import Outputs
from secateur.masks import Masks, unwrap
from secateur.measures import Batch, Loss
from secateur.shrinking._asked import Asked
from secateur.shrinking._draft import Draft, Terms
from secateur.shrinking._optimizer import check_optimizer
from secateur.shrinking._result import Shrunk
from secateur.shrinking.units import Select, UnitScore, l1

__all__ = ["draft", "shrink"]

_MODES = ("eval", "train")


def shrink(
    model: nn.Module,
    what: Masks | Method | float | Mapping[str, float],
    example_inputs: Any,
    *,
    of: str = "units",
    score: UnitScore = l1,
    only: Select = None,
    multiples: int = 1,
    minimum: int = 1,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    outputs: Outputs | None = None,
    inexact: Sequence[str] = (),
    close: bool = True,
    fold: bool = True,
    modes: Sequence[str] = _MODES,
    draws: int = 1,
    timed: bool = False,
) -> Shrunk:
    """Make a model really smaller, and prove that it still computes what the masked one does.

    Traces what is coupled (`coupling.trace`), plans the largest cut that the model's own code accepts, cuts a copy, and
    compares it with the masked model of full size: outputs and gradients at everything kept, on the example and on
    random inputs, in eval and in train mode, in float64 where there are kernels. Where the two differ, nothing is
    changed and the error says so.

    Args:
        model: the model. It stays as it is, unless an `optimizer` is given.
        what: masks; a method that ranks filters, such as `methods.nisp(0.5)`, which then chooses among whole units, or
            whole residual blocks, such as `methods.depth(0.5)`; the density of whole units that stays, in (0, 1]; or
            several densities, `{"params": 0.5, "macs": 0.4}`, all of which hold.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a mapping of named ones.
        of: of what the density is a fraction: "units" (of each group as much), or "params", "macs", "bytes", "memory"
            (the peak of a forward, as `cost` computes it) or "ms" (measured here, in turns with the model of full
            size): of each group as much as keeps the whole within the budget.
        score: what one weight is worth to the units it makes; a unit is worth the sum. By default the L1 norm.
        only: whose units may go: names or globs of modules or parameters, types of modules, several of these, or a
            function of a name and a parameter. A unit that others write as well stays, unless they are selected too.
        multiples: of each group a multiple of this stays, or all of it: widths of 8 or 16 are faster on most devices.
            Of what a method chose, the nearest: its next best stay, or its worst go.
        minimum: at least so many units of each group stay.
        batches, loss: what the method looks at, as in `prune`. If it has a `repair`, what stays makes up for the units
            that go before they go, and the proof is that of the repaired model.
        optimizer: shrinks the model and this optimizer in place, in the middle of a run.
        outputs: picks from what the model returns the part that must keep its shape, and is compared.
        inexact: what may go although it changes the function, "layer_norm" or "attention_scale"; the certificate says
            by how much.
        close: whether a unit of which the masks leave no weight loses its shift and bias too, so that it can go. This
            changes what a unit behind batch norm gives out, and the certificate says by how much. False cuts only what
            is dead as it stands.
        fold: whether constants of dead units go into biases, which is exact in eval mode only.
        modes: in which the proof must hold.
        draws: how many random inputs to compare on, besides the example.
        timed: whether to measure, in turns, how long a forward on the example takes before and after, for about a
            second: `certificate.timing`. Where it is no faster, that says why.

    Returns:
        `Shrunk`: model, certificate and manifest.

    Raises:
        SecateurError: a model that does not run, masks of another model, a budget out of reach, or two models that
            differ. Nothing is changed then.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> small, certificate, _ = shrink(net, 0.5, torch.zeros(2, 4))
    >>> small[0].out_features, certificate.after.params
    (4, 30)
    >>> shrink(net, {"params": 0.6, "macs": 0.5}, torch.zeros(2, 4)).certificate.after.macs
    48
    """
    asked = Asked(what, of, score, only, multiples, minimum, batches, loss)
    about = Terms(outputs, tuple(inexact), close, fold, tuple(modes), draws, optimizer, timed)
    return draft(model, asked, example_inputs, about).proved()


def draft(model: nn.Module, asked: Asked, example_inputs: Any, about: Terms) -> Draft:
    """Check what was asked for, and plan the cut: a smaller model of which nothing is proved yet.

    Args:
        model: the model.
        asked: what is to go.
        example_inputs: what the model is called with.
        about: everything else.
    """
    require_model(model, "shrink(model, what, example_inputs)")
    refuse_sparsified(model, "`shrink`")
    model = unwrap(model)
    catch_up(model)
    call = call_of(example_inputs)
    _check(model, asked.what, about.optimizer, about.modes)
    asked.check()
    return Draft.of(model, asked, call, about)


def _check(model: nn.Module, what: object, optimizer: Optimizer | None, modes: Sequence[str]) -> None:
    if isinstance(what, Masks):
        what.check(model)
    elif not isinstance(what, int | float | Method | Mapping) or isinstance(what, bool):
        raise SecateurError(
            f"`what` must be secateur.Masks, a Method, a density in (0, 1] or several by name, got {named(what)}. "
            "Masks are what secateur.prune returns, and Masks.from_zeros finds in a pruned model."
        )
    if not modes or not set(modes) <= set(_MODES):
        raise SecateurError(f"`modes` must be some of {', '.join(_MODES)}, got {tuple(modes)}.")
    if any(p.is_meta for p in model.parameters()):
        raise SecateurError(
            "`model` must have values to be proved equal, got parameters on meta. `coupling.trace` works on meta."
        )
    if optimizer is not None:
        check_optimizer(optimizer, model)
        if isinstance(what, Method) and what.repair is not None:
            raise SecateurError(
                f"`what`: {what.name} repairs what stays, and an optimizer goes on from the weights that there are: "
                "leave out its repair, or shrink without `optimizer`."
            )
