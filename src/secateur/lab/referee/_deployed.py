"""What a pruned network takes when it is used: milliseconds dense and sparsified, in turns, and bytes on disk."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from secateur._base.types import Tensor
from secateur.lab import data
from secateur.lab.comparing import quiet
from secateur.lab.experiment import Experiment, untrained
from secateur.lab.repeat import read_tensors
from secateur.lab.running import MASKS, WEIGHTS, Result
from secateur.masks import Masks
from secateur.sparse import sparsify
from secateur.turns import interleaved

_BATCH = 100
_SECONDS = 0.4


@dataclass(frozen=True)
class Deployed:
    """Milliseconds of a forward pass of 100 examples on one thread, in the thread's own processor time."""

    dense: float
    sparse: float


def deployed(result: Result) -> Deployed | None:
    """Time a finished run's network, dense and as `sparsify` makes it; None where it has no masks.

    The example inputs are random: what a forward takes does not depend on their values.
    """
    if not (result.directory / MASKS).exists():
        return None
    model = untrained(result.experiment)
    tensors, _ = read_tensors(result.directory / WEIGHTS)
    model.load_state_dict(tensors)
    model.eval()
    inputs = _inputs(result.experiment)
    with quiet(1), torch.no_grad():
        fast = sparsify(model, Masks.load(result.directory / MASKS), example_inputs=inputs)
        times = interleaved(
            {"dense": lambda: model(inputs), "sparse": lambda: fast(inputs)}, seconds=_SECONDS, clock=time.thread_time
        )
    return Deployed(1e3 * times["dense"], 1e3 * times["sparse"])


def _inputs(experiment: Experiment) -> Tensor:
    shape = data.catalogue()[experiment.data].shape
    return torch.randn(_BATCH, *shape, generator=torch.Generator().manual_seed(0))
