"""What changes while a pruned network is trained again: how much is dropped, and which layers stand still."""

from __future__ import annotations

from secateur.retraining._dropout import dropout_rates, rescaled_dropout
from secateur.retraining._frozen import convolutional, frozen, fully_connected, local_parts
from secateur.retraining._retrained import retrained

__all__ = [
    "convolutional",
    "dropout_rates",
    "frozen",
    "fully_connected",
    "local_parts",
    "rescaled_dropout",
    "retrained",
]
