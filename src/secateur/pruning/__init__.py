"""What runs a method: `prune` before or after training, a `Pruner` during it, and the sanity checks on masks."""

from secateur.pruning._choose import choose, emptied_layers, report_empty
from secateur.pruning._prune import prune, reusable, scores
from secateur.pruning._pruner import Pruner
from secateur.pruning._transforms import reinit, shuffle

__all__ = ["Pruner", "choose", "emptied_layers", "prune", "reinit", "report_empty", "reusable", "scores", "shuffle"]
