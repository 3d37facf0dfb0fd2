"""N:M: the largest N of every M consecutive inputs of a trained network, once."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def n_of_m(n: int = 2, m: int = 4) -> Method:
    """Keep the `n` largest |w| of every `m` consecutive inputs of each output; train the survivors as before.

    Of a convolution the groups lie along its input channels, position by position. 2:4 is what sparse tensor cores
    multiply. A layer whose number of inputs `m` does not divide stays whole (often the first one). The order of hidden
    channels is free: `secateur.arranging.arrange_(model, inputs, n=…, m=…)` first finds one in which more magnitude
    stays (Pool & Yu, NeurIPS 2021). Other scores take the pattern as a scope, `wanda(0.5, scope=scope.n_of_m(2, 4))`,
    or as a `pattern`, `sparsegpt` and `obc`.

    Args:
        n: how many of each group stay.
        m: the size of a group.

    Family: after training.
    Source: Mishra et al., "Accelerating sparse deep neural networks", arXiv 2104.08378, §3 and §4.
    Deviates: equal weights go to the lower index. The authors' tool (ASP) also leaves layers whole whose outputs do not
    suit their kernels; here only the inputs count.

    >>> import torch
    >>> from secateur import prune
    >>> layer = torch.nn.Linear(8, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.arange(16.0).reshape(2, 8))
    >>> prune(layer, n_of_m())["weight"].int().tolist()
    [[0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1]]
    """
    return method(
        "n_of_m",
        score,
        structure=weights(),
        scope=scope.n_of_m(n, m, rest_whole=True),
        schedule=once(n / m),
    )
