"""What is run in a setting: every method at every density, dense networks, and two controls of each cell.

A control is a run like any other. *Random at the same densities* keeps, in each layer, as many weights as the method
kept there, drawn at random before training: what it leaves of a method's lead is not the method's choice of weights.
*Smaller and dense* is a narrow network of as many weights, trained as long: what it leaves is not sparsity's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from secateur._catalogue import catalogue
from secateur.lab.experiment import DENSE, Experiment, suited, takes_density
from secateur.lab.referee._setting import Setting

#: The names of lines that are no methods.
DENSE_TWIN, SLIM, SAME_LAYERS = DENSE, "smaller dense", "random, same layers"

#: Magnitude pruning of the trained network, which is then trained again: what methods for trained networks must beat.
TRAINED_MAGNITUDE = "magnitude, trained"
CONTROLS = (SLIM, SAME_LAYERS)

_BASELINES = ("magnitude", "random")


@dataclass(frozen=True)
class Plan:
    """One run to be made.

    Args:
        method: a name of the catalogue, or of a control.
        asked: the density asked for; None where the method decides, and for dense networks.
        of: of which method's layers a control of that kind is drawn.
        experiment: the run.
    """

    method: str
    asked: float | None
    experiment: Experiment
    of: str = ""


def plans(setting: Setting, methods: Sequence[str], densities: Sequence[float], seeds: int) -> list[Plan]:
    """Return the runs of methods and dense networks in a setting, seed by seed: what is there early covers the sheet.

    Magnitude and random pruning, which all others are compared with, are among them in any case.

    Raises:
        SecateurError: there is no such method.
    """
    wanted = list(dict.fromkeys([*_BASELINES, *methods]))
    return [plan for seed in range(seeds) for plan in _of_seed(setting, wanted, densities, seed)]


def _of_seed(setting: Setting, methods: Sequence[str], densities: Sequence[float], seed: int) -> Iterator[Plan]:
    whole = Experiment(setting.model, setting.data, DENSE, 1.0, setting.recipe, seed=seed)
    yield Plan(DENSE_TWIN, None, whole)
    for density in densities:
        if density in setting.slim:
            yield Plan(SLIM, density, replace(whole, model=setting.slim[density]))
    for density in densities:
        trained = replace(whole, method="magnitude", density=density, pretrain=setting.recipe)
        yield Plan(TRAINED_MAGNITUDE, density, trained)
    for name in methods:
        told = takes_density(catalogue()[name].factory) if name in catalogue() else True
        for density in densities if told else (None,):
            base = replace(whole, method=name, density=density or 1.0)
            yield Plan(name, density, suited(base))


def controls(plan: Plan, layers: Sequence[tuple[int, int]]) -> Plan | None:
    """Return the random control of a finished run, of which (kept, all) is known layer by layer.

    None for dense networks and for random pruning, which is its own control; and where a layer is empty, which cannot
    be trained and says nothing.
    """
    if plan.method in (DENSE_TWIN, SLIM, "random") or not layers or any(kept == 0 for kept, _ in layers):
        return None
    fractions = tuple(kept / whole for kept, whole in layers)
    density = sum(kept for kept, _ in layers) / sum(whole for _, whole in layers)
    run = plan.experiment
    drawn = Experiment(run.model, run.data, "random", density, run.recipe, seed=run.seed, layers=fractions)
    return Plan(SAME_LAYERS, plan.asked, drawn, of=plan.method)


def runs_of(planned: Iterable[Plan]) -> list[Experiment]:
    """Return the experiments of some plans, each once."""
    return list(dict.fromkeys(plan.experiment for plan in planned))
