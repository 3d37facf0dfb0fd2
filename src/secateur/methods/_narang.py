"""Gradual thresholds (Narang): what falls below a rising threshold is cut while the network trains."""

from __future__ import annotations

from secateur.axes import Method, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.gates import rising


def narang(
    *, end: int, begin: int | None = None, ramp: int | None = None, every: int | None = None, aim: float = 0.1
) -> Method:
    """Cut weights below a threshold that rises slowly, then faster, while training goes on. The density emerges.

    Every f steps from t_s to t_e, m ← m where |w| > ε(t), with ε(t)·f = θ(t − t_s + 1) up to t_r, and
    θ(t_r − t_s + 1) + φ(t − t_r + 1) after it; φ = 3/2·θ and θ = 2qf/(2(t_r − t_s) + 3(t_e − t_r)), so that ε ends
    near q. What is cut stays cut: the masks are nested.

    Args:
        end: t_e; no weight goes at or after this step.
        begin: t_s; an eighth of `end` by default.
        ramp: t_r, where the threshold begins to rise faster; the middle by default.
        every: f; 100 steps, or less where that would be fewer than 20 cuts.
        aim: q is the magnitude that this share of each tensor exceeds at step t_s. Weights go on growing, so that more
            than `aim` stay where training is long.

    Family: during training.
    Source: Narang, Elsen, Diamos & Sengupta, "Exploring sparsity in recurrent neural networks", arXiv 1704.05119,
    algorithm 1 and equation 1, from memory, compared with an implementation by others.
    Deviates: q is read off the weights at t_s, tensor by tensor; the paper takes the 90th percentile of a network that
    was trained before, by kind of layer. Their start is the second epoch, their ramp a quarter and their end half of
    training; the lab's end is three quarters. φ may be up to 2θ there. Biases and norms stay, as there.
    """
    begin = end // 8 if begin is None else begin
    ramp = (begin + end) // 2 if ramp is None else ramp
    every = max(1, min(100, (end - begin) // 20)) if every is None else every
    return method(
        "narang",
        None,
        structure=weights(),
        scope=everywhere(),
        schedule=once(None, at=end),
        relax=rising(aim=aim, begin=begin, ramp=ramp, end=end, every=every),
    )
