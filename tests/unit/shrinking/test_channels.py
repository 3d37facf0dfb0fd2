"""Structure `channels`: methods that cut whole units of a coupled model, and end in a smaller one."""

from __future__ import annotations

import torch
from torch import Tensor

import attention_nets
import coupling_nets
from secateur import coupling, method, prune, schedule, scope, shrink, structure
from secateur.axes.structure import mean


def size(weight: Tensor) -> Tensor:
    return weight.abs()


def test_its_masks_are_those_of_shrink_by_the_same_score() -> None:
    net, x = coupling_nets.residual()
    units = structure.channels(coupling.trace(net, *x))
    l1 = method("l1", size, structure=units, scope=scope.layerwise(), schedule=schedule.once(0.5))
    direct = shrink(net, 0.5, x, draws=0, modes=("eval",)).manifest

    masks = prune(net, l1)
    found = shrink(net, masks, x, draws=0, modes=("eval",)).manifest

    # A pool has the name of the first tensor that makes its units, so half of each group is half of each pool here.
    assert found.kept == direct.kept
    assert masks["3.2.weight"].all()  # the classifier's outputs do not compete
    assert torch.equal(masks["0.weight"].flatten(1).any(1), masks["1.two.weight"].flatten(1).any(1))


def test_a_unit_is_scored_by_all_that_write_it() -> None:
    net, x = coupling_nets.residual()
    units = structure.channels(coupling.trace(net, *x), reduce=mean)
    rows = {name: torch.arange(p.shape[0]).double() for name, p in net.named_parameters() if p.dim() > 1}

    pooled = units.pool(rows)

    assert torch.equal(pooled["0.weight"], 2 * rows["0.weight"])  # the stem, and the first block's end
    assert torch.equal(pooled["1.one.weight"], rows["1.one.weight"])
    assert torch.equal(pooled["2.two.weight"], 2 * rows["2.two.weight"])  # with the shortcut
    assert "3.2.weight" not in pooled


def test_global_competition_and_heads() -> None:
    net, x = attention_nets.CASES["llama"]()
    units = structure.channels(coupling.trace(net, *x))
    chosen = method("l1", size, structure=units, scope=scope.everywhere(), schedule=schedule.once(0.7))

    masks = prune(net, chosen)
    certificate = shrink(net, masks, x, draws=0).certificate

    assert certificate.after.params < certificate.before.params
    assert certificate.comparisons[0].outputs < 1e-10
