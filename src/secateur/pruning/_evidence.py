"""Evidence from training itself: collectors that live as long as their Pruner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import ScoreError
from secateur.measures import Evidence, Measure, Params


class Online:
    """Stub."""
