"""What `prune` promises of every method that works without training."""

from __future__ import annotations

import copy

import torch

from secateur._base.errors import SecateurError, UnfitModelError
from secateur.axes import Method
from secateur.masks import Masks, prunable
from secateur.measures import Needs
from secateur.pruning import prune
from secateur.testing._cases import Case, Factory, calm, case, check_count, made, tied
from secateur.testing._snapshot import Snapshot


def check_exact_count(factory: Factory, *, density: float, model: str) -> None:
    """κ = ⌊density·N + ½⌋ weights or units stay, of all together or of each layer, no more and no fewer."""
    given = case(model)
    method = made(factory, density, full=True)
    if method.density is None:
        return
    masks = _prune(given, method)
    if masks is None:
        return
    names = prunable(given.model, biases=method.structure.biases)
    size = sum(p.numel() for p in names.values())
    assert masks.numel == size, f"{model}: masks cover {masks.numel} weights, the prunable set has {size}"
    check_count(masks, tied(method, given), density, model)


def check_deterministic(factory: Factory, *, density: float, model: str) -> None:
    """The same model, batch and generator seed give the same masks."""
    first, second = (_prune(case(model), made(factory, density)) for _ in range(2))
    assert first == second, f"{model}: two runs from the same seed give different masks"


def check_left_as_found(factory: Factory, *, density: float, model: str) -> None:
    """But for the zeros, nothing about the model or the global random state changes."""
    given = case(model)
    given.model.train()
    next(iter(given.model.children())).eval()  # a mixture of modes must come back as a mixture
    before = Snapshot.of(given.model)
    state = torch.get_rng_state()
    _prune(given, made(factory, density))
    after = Snapshot.of(given.model)
    assert torch.equal(state, torch.get_rng_state()), f"{model}: the global random state changed"
    for what in ("modes", "hooks", "requires_grad", "keys"):
        assert getattr(before, what) == getattr(after, what), f"{model}: {what} changed"
    for what in ("buffers", "grads"):
        old, new = getattr(before, what), getattr(after, what)
        assert old.keys() == new.keys(), f"{model}: {what} appeared or vanished"
        for name in old:
            assert torch.equal(old[name], new[name]), f"{model}: {what} of {name} changed"


def check_zeros(factory: Factory, *, density: float, model: str) -> None:
    """Weights are 0 where the mask is False; survivors and all other parameters keep their bits (without repair)."""
    given = case(model)
    method = made(factory, density)
    before = {name: p.detach().clone() for name, p in given.model.named_parameters()}
    masks = _prune(given, method)
    for name, parameter in given.model.named_parameters():
        mask = None if masks is None else masks.get(name)
        kept = torch.ones_like(parameter, dtype=torch.bool) if mask is None else mask
        assert bool((parameter[~kept] == 0).all()), f"{model}: a pruned weight of {name} is not zero"
        if method.repair is None:
            assert torch.equal(parameter[kept], before[name][kept]), f"{model}: a surviving weight of {name} changed"


def check_refusal_changes_nothing(factory: Factory, *, density: float, model: str) -> None:
    """Without the batches it needs, a method raises an error that names them, and the model is untouched."""
    given = case(model)
    method = made(factory, density)
    if method.needs is Needs.NOTHING:
        return
    before = copy.deepcopy(given.model.state_dict())
    try:
        prune(given.model, method)
    except SecateurError as error:
        assert "batches" in str(error), f"{model}: the error does not name `batches`: {error}"
    else:
        raise AssertionError(f"{model}: the method needs {method.needs} but pruned without any batch")
    after = given.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), f"{model}: a refused prune changed the model"


def check_goes_on_from_masks(factory: Factory, *, density: float, model: str) -> None:
    """From masks that exist, nothing that they cut returns, also where survivors are 0, unless the method says so."""
    given = case(model)
    method = made(factory, density)
    if method.regrow is not None:
        return
    names = prunable(given.model, biases=method.structure.biases)
    before = Masks({name: torch.arange(p.numel()).reshape(p.shape) % 5 != 2 for name, p in names.items()})
    with torch.no_grad():
        for p in names.values():
            p.flatten()[::7] = 0
    after = _prune(given, method, before) or {}
    for name, bits in after.items():
        assert not bool((bits & ~before[name]).any()), f"{model}: a weight of {name} returned from being pruned"


def _prune(given: Case, method: Method, masks: Masks | None = None) -> Masks | None:
    """Prune; None where the method refuses the model for lack of what it is about, and leaves it as it was."""
    before = copy.deepcopy(given.model.state_dict())
    try:
        with calm():
            drawn = torch.Generator().manual_seed(1)
            return prune(given.model, tied(method, given), [given.batch], masks=masks, generator=drawn)
    except UnfitModelError:
        after = given.model.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before), f"{method.name} changed what it refuses"
        return None
