"""What must go together when a part of a model goes: traced in one forward, one short rule per operation.

Over-uniting is safe, under-uniting never; an operation that is not known freezes what it touches, and says so.
"""

from secateur.coupling._coupling import Coupling, Group
from secateur.coupling._removal import complete, removable, spread
from secateur.coupling._single_layers import SingleLayers, single_layers
from secateur.coupling._sizes import Refused, solve_sizes
from secateur.coupling._trace import Outputs, follow, steps_of, tensors_of, trace
from secateur.coupling._tracer import Compute, Step
from secateur.coupling._worth import worth_of
from secateur.coupling.attention import OwnHeads, OwnPositions, OwnWindows, hold_own_widths, settle
from secateur.coupling.blocks import ResidualBlock, Shortcut, dead_blocks, lies_in, remove_, residual_blocks
from secateur.coupling.copies import on_meta, undisturbed
from secateur.coupling.labels import Frozen, Ids, Product, Row
from secateur.coupling.numbers import Attribute
from secateur.coupling.rules import Entry, Op, Rms

__all__ = [
    "Attribute",
    "Compute",
    "Coupling",
    "Entry",
    "Frozen",
    "Group",
    "Ids",
    "Op",
    "Outputs",
    "OwnHeads",
    "OwnPositions",
    "OwnWindows",
    "Product",
    "Refused",
    "ResidualBlock",
    "Rms",
    "Row",
    "Shortcut",
    "SingleLayers",
    "Step",
    "complete",
    "dead_blocks",
    "follow",
    "hold_own_widths",
    "lies_in",
    "on_meta",
    "removable",
    "remove_",
    "residual_blocks",
    "settle",
    "single_layers",
    "solve_sizes",
    "spread",
    "steps_of",
    "tensors_of",
    "trace",
    "undisturbed",
    "worth_of",
]
