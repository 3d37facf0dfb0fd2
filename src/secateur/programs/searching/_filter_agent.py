"""An agent that says of each filter of one layer how likely it stays, and learns from what its proposals were worth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.axes.structure import filters
from secateur.masks import Layout, Masks
from secateur.programs.searching._search import Trial

_HIDDEN = 32
_BEGIN = 2.0  # the logit of staying at first: 0.88


def policy_loss(log_probabilities: Tensor, rewards: Tensor) -> Tensor:
    """REINFORCE: −mean_k A_k log π(a_k), the advantage A a reward less the mean of its round, by their deviation.

    One sample, and rewards that are all equal, teach nothing: the loss has no gradient then.
    """
    spread = rewards.std(correction=0)
    advantages = (rewards - rewards.mean()) / spread if float(spread) > 0 else torch.zeros_like(rewards)
    return -(advantages * log_probabilities).mean()


class FilterAgent:
    """A policy over one layer's filters: N numbers from its N × M matrix of filters, tried by Bernoulli draws.

    logit_n = ⟨tanh(A w_n), v_n⟩ + c_n, w_n filter n, standardised over the layer.
    """

    def __init__(
        self, name: str, weight: Tensor, masks: Masks, layout: Layout | None, rate: float, generator: torch.Generator
    ) -> None:
        self.name, self.masks, self.layout = name, masks, layout
        rows = (weight if layout is None else layout.to_canonical(weight)).detach().float()
        self.shape, rows = rows.shape, rows.flatten(1)
        self.rows = (rows - rows.mean()) / rows.std(correction=0).clamp(min=1e-12)
        first = torch.randn(rows.shape[1], _HIDDEN, generator=generator) / math.sqrt(rows.shape[1])
        self.inward = nn.Parameter(first.to(rows.device))
        self.outward = nn.Parameter(rows.new_zeros(len(rows), _HIDDEN))
        self.bias = nn.Parameter(rows.new_full((len(rows),), _BEGIN))
        self.optimizer = torch.optim.Adam([self.inward, self.outward, self.bias], lr=rate)
        self.actions: list[Tensor] = []

    def logits(self) -> Tensor:
        """How likely each filter stays, as a logit."""
        return (torch.tanh(self.rows @ self.inward) * self.outward).sum(1) + self.bias

    def propose(self, generator: torch.Generator) -> Masks:
        """Draw which filters stay; where none would, the likeliest."""
        likely = torch.sigmoid(self.logits().detach())
        stays = torch.rand(len(likely), generator=generator).to(likely.device) < likely
        if not bool(stays.any()):
            stays[likely.argmax()] = True
        self.actions.append(stays)
        return self.with_filters(stays)

    def with_filters(self, stays: Tensor) -> Masks:
        """The masks of the network in which these filters of the layer stay."""
        bits = filters().expand({self.name: stays}, {self.name: self.shape})[self.name]
        bits = bits if self.layout is None else self.layout.from_canonical(bits)
        return Masks({**self.masks, self.name: bits & self.masks[self.name]})

    @torch.enable_grad()
    def feedback(self, trials: Sequence[Trial]) -> None:
        """One step of Adam on the policy loss of these trials."""
        actions, self.actions = torch.stack(self.actions).float(), []
        apart = nn.functional.binary_cross_entropy_with_logits(
            self.logits().expand_as(actions), actions, reduction="none"
        )
        loss = policy_loss(-apart.sum(1), torch.tensor([trial.value for trial in trials], device=actions.device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
