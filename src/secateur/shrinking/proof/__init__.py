"""The proof: outputs and gradients of the smaller model and of the masked one, side by side."""

from secateur.shrinking.proof._compare import Comparison, compare, difference, inputs_like

__all__ = ["Comparison", "compare", "difference", "inputs_like"]
