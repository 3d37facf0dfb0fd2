"""The cut itself: what a plan, or a manifest that was read, makes of a model."""

from secateur.shrinking.cuts._cut import Plan, cut, cut_, holder_of, kept_indices, ratios, scalings, sliced
from secateur.shrinking.cuts._resize import resize_

__all__ = ["Plan", "cut", "cut_", "holder_of", "kept_indices", "ratios", "resize_", "scalings", "sliced"]
