"""Late rewinding: tickets that go back to a little after the start, where larger networks have become stable."""

from __future__ import annotations

from torch import nn

from secateur.axes import Scope
from secateur.masks import Masks, Only
from secateur.programs.rounds import check, check_step, rounds_of, scope_of, staged
from secateur.tickets import Stage, Staged, snapshot


def late_rewinding(
    model: nn.Module,
    *,
    train: Staged,
    steps: int,
    density: float,
    rounds: int = 5,
    step: int | None = None,
    layerwise: bool = False,
    scope: Scope | None = None,
    only: Only = None,
) -> Masks:
    """Search for a ticket that starts at step k of the dense training, not at its beginning.

    Train k steps to θ_k. Then as `imp`, with θ_k for θ₀: in each round from θ_k ⊙ m, along the schedule from step k to
    its end T, with a fresh optimizer; cut; put the survivors back to θ_k. Afterwards the model holds θ_k ⊙ m_R.
    With k = 0 it is `imp`.

    Args:
        model: the network at its starting values.
        train: your training for one `tickets.Stage`; returns what its optimizer remembers.
        steps: T.
        density: ρ, the fraction that stays after the last round.
        rounds: R.
        step: k; by default 3 % of T (ResNet-20 in the paper: 2,000 of 63,000).
        layerwise: see `imp`.
        scope: who competes; everywhere by default.
        only: which tensors, see `prunable`.

    Family: lottery tickets.
    Source: Frankle, Dziugaite, Roy & Carbin, "Stabilizing the lottery ticket hypothesis", arXiv 1903.01611, §3.
    Deviates: exact counts. The optimizer's memory is not rewound with the weights, as in open_lth (`weight_rewinding`
    does that).
    """
    check(density, rounds)
    scope_of(1, scope, layerwise=layerwise)
    begin = round(0.03 * steps) if step is None else step
    check_step("step", begin, steps)
    staged(train, model, None, Stage(0, begin, steps))

    def between(masks: Masks | None) -> None:
        staged(train, model, masks, Stage(begin, steps, steps))

    start = snapshot(model)
    return rounds_of(
        model, between, density=density, rounds=rounds, start=start, among=scope, layerwise=layerwise, only=only
    )
