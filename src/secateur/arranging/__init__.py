"""Channels in another order, the same function: so that patterns along the inputs (N:M) keep more."""

from secateur.arranging._arrange import Arrangement, arrange_
from secateur.arranging._search import kept_by, order_for

__all__ = ["Arrangement", "arrange_", "kept_by", "order_for"]
