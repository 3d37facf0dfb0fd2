"""Matrix similarity: of two filters that point the same way one is enough; how many go, follows from the layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.axes import Method, Structure, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import threshold
from secateur.axes.structure import filters


@dataclass(frozen=True)
class _Unlike:
    """1 for filters that stay, 0 for those that are like others."""

    most: float

    def __call__(self, rows: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(rows.double(), dim=1)
        alike = (unit @ unit.T).abs().fill_diagonal_(0)
        if not bool(torch.isfinite(alike).all()):
            return unit.sum(1)  # not finite either: whoever chooses refuses it by the tensor's name
        stays = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        while float(alike.max()) > self.most:
            pair = divmod(int(alike.argmax()), len(rows))
            goes = max(pair, key=lambda one: (float(alike[one].sum()), one))
            stays[goes] = False
            alike[goes, :] = alike[:, goes] = 0
        return stays.to(rows.dtype)


def matrix_similarity(*, similarity: float = 0.9, structure: Structure | None = None) -> Method:
    """Take filters away until no two of a layer are more alike than τ, |cos(F_i, F_j)| ≤ τ. The density emerges.

    While max |cos| > τ: of the most similar pair the one goes that is more like all the others in sum. Unlike distances
    (FPGM, arXiv 1811.00250), cosines know no norm, and layers without redundancy stay whole.

    Args:
        similarity: τ, the largest cosine that may stay.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.

    Family: after training.
    Source: Shao, Dai, Kuang & Meng, "Filter pruning based on matrix similarity", SIViP 15:381, 2021 (abstract only).
    Deviates: the rule by which they choose is not known to us; this one is ours.
    """
    if not 0 < similarity < 1:
        raise SecateurError(f"`similarity` must be in (0, 1), got {similarity}: the largest |cosine| that may stay.")
    return method(
        "matrix_similarity",
        measured(_Unlike(similarity)),
        structure=structure or filters(),
        scope=threshold(0.5),
        schedule=once(None),
    )
