"""A repair on its own, for masks that somebody else chose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from secateur.axes import Moment, Repair, all_alive
from secateur.masks import Masks, layouts, unwrap
from secateur.measures import Batch, Loss, gather


@torch.inference_mode(mode=False)
def reconstruct(
    model: nn.Module,
    masks: Masks,
    repair: Repair,
    batches: Iterable[Batch] | None = None,
    *,
    loss: Loss | None = None,
) -> None:
    """Write the zeros of `masks` into a dense model, and let `repair` make up for them from what the batches say.

    What a method with that repair does after its choice, with masks chosen otherwise. If the repair fails, the model
    keeps the values that it had.

    Args:
        model: still with its dense weights: a weight that is zero already cannot be made up for.
        masks: what stays.
        repair: of `secateur.repairs`, or your own.
        batches: as `prune` takes them; the repair says what it needs.
        loss: as `prune` takes it.

    >>> from secateur import methods, prune, repairs
    >>> inputs = torch.eye(4) + 1.0
    >>> model = nn.Linear(4, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    >>> masks = Masks({"weight": torch.tensor([[True, True, False, False]])})
    >>> reconstruct(model, masks, repairs.least_squares_on(damping=0.0), [inputs])
    >>> [round(value, 3) for value in model.weight[0].tolist()]
    [5.385, 4.385, 0.0, 0.0]
    """
    network = unwrap(model)
    masks.check(network)
    params = {name: network.get_parameter(name) for name in masks}
    given = list(batches) if isinstance(batches, Iterator) else batches
    evidence = gather(network, given, repair.measures, params=params, loss=loss) if repair.measures else {}
    turned = layouts(network, params)
    moment = Moment(0, masks.density, params, all_alive(params), evidence, layouts=turned, batches=given, loss=loss)
    tensors = [*network.parameters(), *network.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        repair(network, masks, moment)
        masks.apply_(network)
    except BaseException:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        raise
