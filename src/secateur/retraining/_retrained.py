"""Everything that holds while survivors are retrained, at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from secateur.holding import hold
from secateur.masks import Masks
from secateur.measures import Batch
from secateur.retraining._dropout import rescaled_dropout
from secateur.retraining._frozen import frozen


@contextmanager
def retrained(
    model: nn.Module, masks: Mapping[str, Tensor], *, still: Sequence[str] = (), batch: Batch | None = None
) -> Iterator[None]:
    """Train inside with what was cut held at zero, dropout rescaled, and some layers standing still.

    Args:
        model: the network.
        masks: what is left of it (`hold`); where nothing has been cut yet, dropout stays as it is as well.
        still: what stands still (`frozen`); nothing by default.
        batch: the inputs that show which layer each dropout feeds (`rescaled_dropout`); None leaves dropout alone.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> with retrained(net, {}, still="0.*"):
    ...     print(net[0].weight.requires_grad)
    False
    """
    with ExitStack() as during:
        if masks:
            during.enter_context(hold(model, Masks(dict(masks))))
            if batch is not None:
                during.enter_context(rescaled_dropout(model, masks, batch))
        if still:
            during.enter_context(frozen(model, still))
        yield
