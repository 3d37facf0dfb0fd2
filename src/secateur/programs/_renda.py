"""Fine-tuning, weight rewinding, learning-rate rewinding: the three ways to train on after a cut."""

from __future__ import annotations

from torch import nn

from secateur.masks import Masks
from secateur.programs.rounds import retrained
from secateur.tickets import Staged


def fine_tuning(
    model: nn.Module, *, train: Staged, steps: int, density: float, rounds: int = 1, retrain: int | None = None
) -> Masks:
    """Train, cut the smallest weights of all, train on at the last learning rate; again, until few remain.

    Args:
        model: the network at its starting values; trained afterwards.
        train: your training for one `tickets.Stage`; returns what its optimizer remembers.
        steps: T, the length of training.
        density: ρ, the fraction that stays after the last round; ρ^{r/R} after round r.
        rounds: R; the paper cuts 20 % a round.
        retrain: t, the steps of training after each cut; T by default.

    Ends: trained.
    Family: lottery tickets.
    Source: Renda, Frankle & Carbin, ICLR 2020, arXiv 2003.02389, §2; Han et al., arXiv 1506.02626.
    Deviates: counts are exact. The optimizer remembers what it did at the end of training, as in the authors' code.
    """
    return retrained(model, train, steps, density=density, rounds=rounds, span=retrain, rate=max(0, steps - 1))


def weight_rewinding(
    model: nn.Module, *, train: Staged, steps: int, density: float, rounds: int = 1, retrain: int | None = None
) -> Masks:
    """Train, cut the smallest weights, go back t steps in weights, optimizer and schedule, train these again; repeat.

    Survivors, biases, batch norms' statistics and the optimizer's memory are those of step T − t of the dense training.

    Args as of `fine_tuning`; t is `retrain`.

    Ends: trained.
    Family: lottery tickets.
    Source: Renda, Frankle & Carbin, ICLR 2020, arXiv 2003.02389, §2, and the authors' code.
    Deviates: counts are exact.
    """
    return retrained(model, train, steps, density=density, rounds=rounds, span=retrain, rewinds=True)


def learning_rate_rewinding(
    model: nn.Module, *, train: Staged, steps: int, density: float, rounds: int = 1, retrain: int | None = None
) -> Masks:
    """Train, cut the smallest weights, train on with the learning rates of the last t steps again; repeat.

    Args as of `fine_tuning`; t is `retrain`. The paper proposes t = T and 20 % a round.

    Ends: trained.
    Family: lottery tickets.
    Source: Renda, Frankle & Carbin, ICLR 2020, arXiv 2003.02389, §2 and §5.
    Deviates: counts are exact. The optimizer remembers what it did at the end of training, as in the authors' code.
    """
    return retrained(model, train, steps, density=density, rounds=rounds, span=retrain)
