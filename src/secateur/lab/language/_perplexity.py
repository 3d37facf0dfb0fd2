"""Perplexity: how surprised a language model is by a text."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@torch.no_grad()
def perplexity(model: nn.Module, rows: Tensor, *, size: int = 4) -> float:
    """exp of the mean −log p(token | those before it in its window), over all tokens of the windows but the first.

    Args:
        model: called with `input_ids=`, returns an output with `.logits`.
        rows: token ids, (windows, length).
        size: windows that are run at once.
    """
    total, count = 0.0, 0
    device = next(model.parameters()).device
    for part in rows.split(size):
        logits = model(input_ids=part.to(device)).logits[:, :-1].float()
        targets = part[:, 1:].to(device)
        total += float(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))
        count += targets.numel()
    return math.exp(total / count)
