"""What adversarial pruning is made of: soft masks moved by FISTA, where they stand, and who tells networks apart."""

from __future__ import annotations

from secateur.programs.adversarial._adversary import Pace, inputs_in, masks_from, train_student
from secateur.programs.adversarial._places import places_of
from secateur.programs.adversarial._soft_masks import Place, SoftMasks, momentum

__all__ = ["Pace", "Place", "SoftMasks", "inputs_in", "masks_from", "momentum", "places_of", "train_student"]
