"""Which examples a network forgets while it learns, and on which two networks disagree: the critical ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError

__all__ = ["Forgetting", "predicted"]

_AT_ONCE = 1000


class Forgetting:
    """Counts forgetting events: an example that was classified rightly is not any more at the next look.

    Args:
        count: how many examples there are.

    Source: Toneva et al., arXiv 1812.05159, as used by PrAC (Zhang et al., ICML 2021).

    >>> seen = Forgetting(3)
    >>> for right in ([True, False, True], [False, False, True], [True, False, True]):
    ...     seen.look(torch.tensor(right))
    >>> seen.events.tolist(), seen.critical().tolist()  # the second was never learned
    ([1, 0, 0], [True, True, False])
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise SecateurError(f"`count` must be at least 1 example, got {count}.")
        self.events = torch.zeros(count, dtype=torch.long)
        self._right = torch.zeros(count, dtype=torch.bool)
        self._ever = torch.zeros(count, dtype=torch.bool)

    def look(self, right: Tensor) -> None:
        """Take in which examples are classified rightly now.

        Raises:
            SecateurError: not one bit per example.
        """
        if right.shape != self._right.shape or right.dtype != torch.bool:
            raise SecateurError(
                f"`right` must be {len(self._right)} booleans, one per example, got {right.dtype} of shape "
                f"{tuple(right.shape)}."
            )
        right = right.cpu()
        self.events += self._right & ~right
        self._right, self._ever = right.clone(), self._ever | right

    def critical(self) -> Tensor:
        """Which examples were forgotten at least once, or never learned."""
        return (self.events > 0) | ~self._ever


@torch.no_grad()
def predicted(model: nn.Module, inputs: Tensor) -> Tensor:
    """The classes that a model gives the inputs, in eval mode; its modes are put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return torch.cat([model(some).argmax(1).cpu() for some in inputs.split(_AT_ONCE)])
    finally:
        for module, mode in modes.items():
            module.training = mode
