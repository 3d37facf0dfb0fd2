"""What a model says of its labels: a distribution, from which labels are drawn, and the curvature of its logarithm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur._base.errors import SecateurError
from secateur.measures import Probe, logits_of

__all__ = ["Likelihood", "categorical", "drawn_from", "gaussian", "likelihood_of"]


@dataclass(frozen=True)
class Likelihood:
    """The distribution p(y | x) that a model's output is the parameter of.

    Attributes:
        name: as printed.
        draw: (output, generator) → labels y drawn from p, one row for each sample.
        loss: (output, labels) → −log p(y | x), summed over samples and positions: a scalar.
        roots: output → tensors s like the output's, one after the other, whose Σ s sᵀ is the Hessian of the loss by the
            output, sample by sample.
    """

    name: str
    draw: Callable[[Any, torch.Generator | None], Tensor]
    loss: Callable[[Any, Tensor], Tensor]
    roots: Callable[[Any], Iterator[Tensor]]


def categorical() -> Likelihood:
    """Classes by softmax: p(y) = softmax(z)_y, at each position for itself; the likelihood of cross-entropy.

    Classes lie in dimension 1 of an output that is a tensor, (samples, classes, positions…), and in the last dimension
    of an output's `.logits`, (samples, positions…, classes).
    """
    return Likelihood("categorical", _draw_class, _class_loss, _class_roots)


def gaussian() -> Likelihood:
    """Numbers with an error of variance 1: p(y) = N(y; f, 1); the likelihood of ½‖f − y‖², summed over outputs."""
    return Likelihood("gaussian", _draw_normal, _normal_loss, _normal_roots)


def likelihood_of(probe: Probe, given: Likelihood | None) -> Likelihood:
    """The likelihood asked for, or that of cross-entropy where the loss is that.

    Raises:
        SecateurError: another loss, of which nothing is known.
    """
    if given is not None:
        return given
    if probe.loss is None or probe.loss is F.cross_entropy or isinstance(probe.loss, nn.CrossEntropyLoss):
        return categorical()
    raise SecateurError(
        "This curvature is of the model's own distribution over labels, which is known where `loss` is cross-entropy. "
        "Say which it is: likelihood=curvature.gaussian() for a squared error, or a curvature.Likelihood of your own."
    )


def drawn_from(likelihood: Likelihood, probe: Probe) -> Probe:
    """The same inputs with labels drawn from what the model says of them, and the loss that belongs to them."""
    with torch.no_grad():
        output = probe.run()
        labels = likelihood.draw(output, probe.generator)
    return replace(probe, batch=(probe.inputs, labels), loss=likelihood.loss, _grads=None, _grads_owned=False)


def _rows_of_logits(output: Any) -> tuple[Tensor, torch.Size]:
    """Logits as (samples · positions, classes), and the shape of the labels."""
    logits = logits_of(output)
    if logits.dim() < 2:
        raise SecateurError(
            f"Labels are drawn from (samples, classes), got an output of shape {tuple(logits.shape)}: it has no "
            "dimension of classes. Say likelihood=curvature.gaussian() for numbers."
        )
    last = logits if isinstance(output, Mapping) or not isinstance(output, Tensor) else logits.movedim(1, -1)
    if last.shape[-1] == 1:
        raise SecateurError(
            f"The output of shape {tuple(logits.shape)} has one class, which is certain: nothing can be drawn. Say "
            "which likelihood it is: likelihood=curvature.gaussian(), or a curvature.Likelihood of your own."
        )
    return last.reshape(-1, last.shape[-1]), last.shape[:-1]


def _draw_class(output: Any, generator: torch.Generator | None) -> Tensor:
    rows, shape = _rows_of_logits(output)
    if not bool(torch.isfinite(rows).all()):
        raise SecateurError("The model's logits are not finite: no labels can be drawn from them. Check the batch.")
    where = generator.device if generator is not None else torch.device("cpu")
    chances = rows.double().softmax(-1).to(where)
    return torch.multinomial(chances, 1, generator=generator).reshape(shape).to(rows.device)


def _class_loss(output: Any, labels: Tensor) -> Tensor:
    rows, _ = _rows_of_logits(output)
    return F.cross_entropy(rows, labels.reshape(-1), reduction="sum")


def _class_roots(output: Any) -> Iterator[Tensor]:
    # H = diag(p) − p pᵀ = Σ_c p_c (e_c − p)(e_c − p)ᵀ, at one position after the other.
    rows, shape = _rows_of_logits(output)
    chances = rows.detach().softmax(-1)
    samples = shape[0] if shape else 1
    by_place = chances.reshape(samples, -1, chances.shape[-1])
    for place in range(by_place.shape[1]):
        for c in range(by_place.shape[2]):
            p = by_place[:, place]
            unit = torch.zeros_like(p)
            unit[:, c] = 1
            root = torch.zeros_like(by_place)
            root[:, place] = p[:, c : c + 1].sqrt() * (unit - p)
            yield _as_output(root.reshape(*shape, -1), output)


def _as_output(values: Tensor, output: Any) -> Tensor:
    return values.movedim(-1, 1) if isinstance(output, Tensor) else values


def _draw_normal(output: Any, generator: torch.Generator | None) -> Tensor:
    mean = logits_of(output)
    where = generator.device if generator is not None else torch.device("cpu")
    return mean + torch.randn(mean.shape, generator=generator, device=where).to(mean)


def _normal_loss(output: Any, labels: Tensor) -> Tensor:
    return 0.5 * (logits_of(output) - labels).square().sum()


def _normal_roots(output: Any) -> Iterator[Tensor]:
    mean = logits_of(output).detach()
    flat = mean.reshape(len(mean), -1)
    for k in range(flat.shape[1]):
        root = torch.zeros_like(flat)
        root[:, k] = 1
        yield root.reshape(mean.shape)
