"""What a `Pruner` promises of every method that can act while a network trains."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from secateur._base.errors import SecateurError, UnfitModelError
from secateur.axes import Method
from secateur.masks import Masks, prunable
from secateur.measures import Needs
from secateur.pruning import Pruner, prune
from secateur.testing._cases import STEPS, Case, Factory, calm, case, check_count, made, models_of, tied
from secateur.testing._snapshot import Snapshot


def check_trains(factory: Factory, *, density: float, model: str) -> None:
    """A Pruner leaves names, modes and hooks as they were, the count as asked for, and zeros where its masks say."""
    run = _Run.begin(case(model), made(factory, density))
    if run is None:
        return
    before = Snapshot.of(case(model).model)
    run.train(0, STEPS)
    masks = run.finish()
    after, method = Snapshot.of(run.given.model), made(factory, density)
    for what in ("modes", "hooks", "requires_grad", "keys"):
        assert getattr(before, what) == getattr(after, what), f"{model}: {what} changed"
    names = prunable(run.given.model, biases=method.structure.biases)
    assert masks.keys() == names.keys(), f"{model}: the masks cover {sorted(masks)}, expected {sorted(names)}"
    if method.density is not None and method.schedule.milestones[-1].step <= STEPS:
        check_count(masks, tied(method, run.given), method.density, model)
    for name, mask in masks.items():
        pruned = run.given.model.get_parameter(name)[~mask]
        assert bool((pruned == 0).all()), f"{model}: a pruned weight of {name} is not zero"


def check_serves(factory: Factory, *, density: float) -> None:
    """A method that can act in training serves one of the models at least: it may not refuse them all as unfit."""
    method = made(factory, density)
    if method.regrow is None or method.regrow.online:
        models = models_of(factory, density=density)
        runs = (_Run.begin(case(model), made(factory, density)) for model in models)
        assert any(run is not None for run in runs), f"{method.name} refuses all of {', '.join(models)}"


def check_resumes(factory: Factory, *, density: float, model: str) -> None:
    """Stopped at any step and continued elsewhere, training ends in the same masks and the same bits."""
    whole = _Run.begin(case(model), made(factory, density))
    if whole is None:
        return
    whole.train(0, STEPS)
    for stop in (1, STEPS // 2 + 1):
        first = _Run.begin(case(model), made(factory, density))
        assert first is not None
        first.train(0, stop)
        second = _Run.begin(case(model), made(factory, density))
        assert second is not None
        second.load(copy.deepcopy(first.state()))
        second.train(stop, STEPS)
        assert second.pruner.masks == whole.pruner.masks, f"{model}: other masks after a stop at step {stop}"
        for name, parameter in whole.given.model.named_parameters():
            again = second.given.model.get_parameter(name)
            assert torch.equal(parameter, again), f"{model}: {name} differs after a stop at step {stop}"
    first, second = whole.finish(), second.finish()
    assert first == second, f"{model}: other masks in the end"


def check_online_is_refused_offline(factory: Factory, *, density: float, model: str) -> None:
    """A method that needs training says so when it is asked to prune without, and changes nothing."""
    given, method = case(model), made(factory, density)
    if not method.online:
        return
    before = copy.deepcopy(given.model.state_dict())
    try:
        prune(given.model, method, [given.batch])
    except SecateurError as error:
        assert "Pruner" in str(error), f"{model}: the refusal does not name the Pruner: {error}"
    else:
        raise AssertionError(f"{model}: {method.name} acts while a network trains, but pruned without")
    after = given.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), f"{model}: a refused prune changed the model"


@dataclass
class _Run:
    """A small training under a Pruner."""

    given: Case
    pruner: Pruner
    optimizer: torch.optim.Optimizer

    @staticmethod
    def begin(given: Case, method: Method) -> _Run | None:
        """Begin one, or return None for a method that no training serves, or that this model does not fit."""
        if method.regrow is not None and not method.regrow.online:
            return None
        batches = None if _serves_itself(method) and not method.held_out else [given.batch]
        generator = torch.Generator().manual_seed(3)
        before = Snapshot.of(given.model)
        try:
            with calm(), torch.random.fork_rng():
                torch.manual_seed(11)
                pruner = Pruner(given.model, tied(method, given), batches, generator=generator)
        except UnfitModelError:  # it says that the model lacks what the method is about
            assert Snapshot.of(given.model).same(before), f"{method.name} changed a model that it refuses"
            return None
        optimizer = torch.optim.SGD(given.model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        pruner.adopt(optimizer)
        return _Run(given, pruner, optimizer)

    def train(self, begin: int, end: int) -> None:
        for step in range(begin, end):
            with calm(), torch.random.fork_rng():
                torch.manual_seed(step)  # dropout and gates draw from here
                self.optimizer.zero_grad()
                inputs, targets = self.given.batch
                nn.functional.cross_entropy(self.given.model(inputs), targets).backward()
                self.optimizer.step()

    def state(self) -> tuple[object, ...]:
        return self.given.model.state_dict(), self.optimizer.state_dict(), self.pruner.state_dict()

    def load(self, state: tuple[object, ...]) -> None:
        weights, optimizer, pruner = state
        self.given.model.load_state_dict(weights)  # type: ignore[arg-type]
        self.optimizer.load_state_dict(optimizer)  # type: ignore[arg-type]
        self.pruner.load_state_dict(pruner)  # type: ignore[arg-type]

    def finish(self) -> Masks:
        with calm():
            return self.pruner.finish()


def _serves_itself(method: Method) -> bool:
    """Whether the steps of training are evidence enough, or a batch must be brought."""
    acts_at_once = method.relax is None and method.schedule(0) is not None
    start = method.regrow is not None and method.regrow.start is not None
    return method.online or not (acts_at_once and not start and method.needs is not Needs.NOTHING)
