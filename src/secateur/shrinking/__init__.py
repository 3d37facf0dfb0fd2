"""Really smaller: whole units leave a model, and the smaller one is proved to compute what the masked one does."""

from secateur.costing import Call, Cost
from secateur.shrinking._asked import Asked
from secateur.shrinking._close import Closing, closed
from secateur.shrinking._draft import Draft, Terms
from secateur.shrinking._result import Certificate, Shrunk
from secateur.shrinking._shrink import draft, shrink
from secateur.shrinking._timing import Timing
from secateur.shrinking.files import Loaded, load, save
from secateur.shrinking.manifests import Manifest, Span, UnitRecord
from secateur.shrinking.proof import Comparison
from secateur.shrinking.units import Limits, Select, UnitScore, l1, unit_scores

__all__ = [
    "Asked",
    "Call",
    "Certificate",
    "Closing",
    "Comparison",
    "Cost",
    "Draft",
    "Limits",
    "Loaded",
    "Manifest",
    "Select",
    "Shrunk",
    "Span",
    "Terms",
    "Timing",
    "UnitRecord",
    "UnitScore",
    "closed",
    "draft",
    "l1",
    "load",
    "save",
    "shrink",
    "unit_scores",
]
