"""Which classes can go together: what products, equal counts and frozen classes leave of a wish."""

from __future__ import annotations

import numpy as np

from secateur.coupling._coupling import Coupling
from secateur.coupling.labels import Ids, Product

__all__ = ["complete", "removable", "spread"]


def removable(coupling: Coupling, wish: np.ndarray, frozen: np.ndarray) -> np.ndarray:
    """Return the largest set found within `wish` that can be cut, one bool per class.

    It only takes wishes back, so it ends. A list that would become shorter than those it must be as long as keeps some
    of its dead units as padding; a dimension keeps at least one index.

    Args:
        coupling: what is tied to what.
        wish: one bool per class.
        frozen: classes that must stay, one bool per class.
    """
    gone = wish & ~frozen
    while True:
        _keep_products(coupling, gone)
        back = [ids[:1] for ids in _never_empty(coupling) if gone[ids].all()]
        for parts in coupling.equal:
            alive = [int((~gone[ids]).sum()) for ids in parts]
            longest = max(alive)
            back += [ids[np.flatnonzero(gone[ids])[: longest - n]] for ids, n in zip(parts, alive, strict=True)]
        back = [ids for ids in back if ids.size]
        if not back:
            return gone
        gone[np.concatenate(back)] = False


def _never_empty(coupling: Coupling) -> list[Ids]:
    own = [entry.ids for entry in coupling.entries]
    return own + [ids for product in coupling.products for ids in product.factors if ids is not None]


def _keep_products(coupling: Coupling, gone: np.ndarray) -> None:
    """Take back an entry all of whose factors stay, and an index with an entry that stays, until nothing changes."""
    changed = True
    while changed:
        changed = False
        for product in coupling.products:
            merged = gone[product.merged]
            either = np.zeros(merged.shape, bool)
            for _, ids, shape, others in product.axes():
                whole = merged.all(axis=others)
                wrong = gone[ids] & ~whole
                if wrong.any():
                    changed = True
                    gone[ids[wrong]] = False
                either |= (gone[ids] & whole).reshape(shape)
            wrong = merged & ~either
            if wrong.any():
                changed = True
                gone[product.merged[wrong]] = False


def spread(coupling: Coupling, seeds: np.ndarray, gone: np.ndarray | None = None) -> np.ndarray:
    """Return everything that goes with `seeds`, one bool per class.

    An index of a factor takes its entries along; an entry that goes by itself takes the last factor that is free: a
    single channel of a head is a place in all heads.

    Args:
        coupling: what is tied to what.
        seeds: one bool per class.
        gone: what went before, with all that goes with it.
    """
    gone = seeds.copy() if gone is None else gone | seeds
    fresh = seeds
    while fresh.any():
        before = gone.copy()
        for product, classes in coupling.touching:
            if fresh[classes].any():
                _spread_one(coupling, product, gone)
        fresh = gone & ~before
    return gone


def _spread_one(coupling: Coupling, product: Product, gone: np.ndarray) -> None:
    axes, merged = product.axes(), product.merged
    either = np.zeros(merged.shape, bool)
    for _, ids, shape, _ in axes:
        either |= gone[ids].reshape(shape)
    gone[merged[either]] = True
    now = gone[merged]
    for _, ids, _, others in axes:
        gone[ids[now.all(axis=others) & ~now.all()]] = True
    free = [(axis, ids) for axis, ids, _, _ in axes if not coupling.stays[ids].all()]
    if free:
        axis, ids = free[-1]
        gone[ids[np.argwhere(now & ~either)[:, axis]]] = True


def complete(coupling: Coupling, dead: np.ndarray) -> np.ndarray:
    """Return `dead` with every index of a factor that is dead, and all its entries, one bool per class.

    An index is dead where all its entries are, in every product that parameters make: of a head the queries, the keys
    and the values. What is made of these (what an attention gives out) has no say, and goes along. A head is dead
    besides, be its queries and keys as they may, where nothing is left of its values, or of what reads it; with grouped
    queries a group is, where nothing is left of its values or all its heads are dead.
    """
    made, read = (coupling.mark([e.ids for e in coupling.entries if e.reads == side]) for side in (False, True))
    sides = [(bool(made[p.merged].any()), bool(read[p.merged].any())) for p in coupling.products]
    widths = [_beside(p, coupling.every_head) for p in coupling.products]
    given = {width for width, (_, is_read) in zip(widths, sides, strict=True) if is_read}
    gone, before = dead.copy(), -1
    while before != (before := int(gone.sum())):
        verdicts = by_makers, by_values, by_readers = tuple(_Index(coupling.count) for _ in range(3))
        for product, width, (is_made, is_read) in zip(coupling.products, widths, sides, strict=True):
            now, of_heads = gone[product.merged], bool(coupling.every_head[product.merged].all())
            for _, ids, _, others in product.axes():
                here = np.asarray(now.all(axis=others))
                by_makers.hear(ids, here, denies=is_made)
                if not coupling.every_head[ids].all():
                    continue
                if is_made and width and width in given:
                    by_values.hear(ids, here, denies=True)
                if (is_read and width) or of_heads:
                    by_readers.hear(ids, here, denies=True)
        found = np.logical_or.reduce([each.dead for each in verdicts])
        gone |= found
        found |= gone & coupling.every_head  # the heads of a group
        for product in coupling.products:
            for _, ids, shape, _ in product.axes():
                along = np.broadcast_to(found[ids].reshape(shape), product.merged.shape)
                gone[product.merged[along]] = True
    return gone & ~coupling.stays


def _beside(product: Product, heads: np.ndarray) -> bytes:
    """The width of heads in a product, as a key; empty where it has none, or no heads."""
    factors = [ids for ids in product.factors if ids is not None]
    widths = [ids for ids in factors if not heads[ids].any()]
    return b"".join(ids.tobytes() for ids in widths) if len(widths) < len(factors) else b""


class _Index:
    """Whether all entries of an index are gone in some product, and in none that denies it some are left."""

    def __init__(self, count: int) -> None:
        self._whole, self._denied = np.zeros(count, bool), np.zeros(count, bool)

    def hear(self, ids: Ids, here: np.ndarray, *, denies: bool) -> None:
        self._whole[ids[here]] = True
        self._denied[ids[~here]] |= denies

    @property
    def dead(self) -> np.ndarray:
        return self._whole & ~self._denied
