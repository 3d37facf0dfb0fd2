"""Try-and-learn: an agent for each layer learns by trying which filters a network can do without."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from secateur._base.arguments import require_model
from secateur._base.errors import SecateurError
from secateur.axes import all_alive
from secateur.holding import hold
from secateur.masks import Masks, Only, layouts, prunable, unwrap
from secateur.programs.searching import FilterAgent, search


def reward(quality: float, dense: float, *, drop: float, filters: int, kept: int) -> float:
    """R = ψ·φ: ψ = (b − (p* − p̂))/b falls from 1 to 0 at the allowed drop b and below it beyond, φ = log(N/kept)."""
    return (drop - (dense - quality)) / drop * math.log(filters / kept)


def try_and_learn(
    model: nn.Module,
    *,
    train: Callable[[nn.Module], None],
    evaluate: Callable[[nn.Module], float],
    drop: float = 0.02,
    rounds: int = 20,
    samples: int = 5,
    rate: float = 1e-2,
    only: Only = None,
    generator: torch.Generator | None = None,
) -> Masks:
    """Let an agent per layer try which filters can go, each try trained briefly and rewarded by R = ψ·φ.

    ψ = (b − (p* − p̂))/b, p* the quality of the network as given, p̂ that of the pruned one, b the allowed `drop`;
    φ = log(N/kept) of the layer's N filters. Layer by layer the agent π(a|W; θ) draws `samples` actions a round and
    learns by REINFORCE; the best action whose reward is above 0 (that of keeping all) stays, and the network trains on.

    Args:
        model: a trained network.
        train: your brief training, of each try and after each layer; what was cut is held at zero meanwhile.
        evaluate: the quality p of a network, higher is better: accuracy on images that are not the test set.
        drop: b, in the unit of `evaluate`.
        rounds: feedbacks that each agent gets.
        samples: tries for each feedback, at least 2.
        rate: of the agents' Adam.
        only: which tensors, see `prunable`; for `shrink`, leave the outputs' layer out.
        generator: for actions and agents; the global seed by default.

    Family: after training.
    Source: Huang, Zhou, You & Neumann, "Learning to prune filters in convolutional neural networks", arXiv 1801.07365,
    its constants from memory.
    Deviates: the agent has one hidden layer that its filters share; the best action stays, not a draw of the policy.
    """
    require_model(model, "try_and_learn(model, train=…, evaluate=…)")
    if not 0 < drop < math.inf or samples < 2 or not rate > 0:
        raise SecateurError(f"`drop` and `rate` must be above 0, `samples` 2 at least: got {drop}, {rate}, {samples}.")
    params, turned = prunable(model, only), layouts(unwrap(model))
    masks, dense = Masks(all_alive(params)), float(evaluate(model))
    drawn = generator if generator is not None else torch.Generator().manual_seed(torch.initial_seed())
    for name, parameter in params.items():
        agent = FilterAgent(name, parameter, masks, turned.get(name), rate, drawn)

        def worth(network: nn.Module, tried: Masks, agent: FilterAgent = agent) -> float:
            kept = int(agent.actions[-1].sum())
            return reward(float(evaluate(network)), dense, drop=drop, filters=agent.shape[0], kept=kept)

        asked = partial(search, rounds=rounds, samples=samples, generator=drawn)
        best = max(asked(model, proposer=agent, evaluate=worth, train=train), key=lambda trial: trial.value)
        if best.value > 0:
            masks = best.masks
            with hold(model, masks):
                train(model)
    masks.apply_(unwrap(model))
    return masks
