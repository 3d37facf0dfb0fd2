"""Attention that holds the width of its heads, in place of modules that compute it from the width of their input.

`nn.MultiheadAttention`, the windows of torchvision's Swin and timm's BEiT divide the width of the stream by the number
of heads. With fewer heads over the same stream that is another width, so such a module could lose none. Here it becomes
one of another class: same tensors, same names, same function, and integers of its own that a cut can set.
"""

from __future__ import annotations

from secateur.coupling.attention._heads import OwnHeads
from secateur.coupling.attention._positions import OwnPositions
from secateur.coupling.attention._standing import hold_own_widths, settle
from secateur.coupling.attention._windows import OwnWindows

__all__ = ["OwnHeads", "OwnPositions", "OwnWindows", "hold_own_widths", "settle"]
