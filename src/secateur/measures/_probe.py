"""What a collector may ask of one batch, or of one training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.measures._batch import Batch, Loss, call, inputs_of, loss_of

HALVES = (torch.float16, torch.bfloat16)
Evidence = dict[str, Tensor]
Params = Mapping[str, nn.Parameter]


@dataclass
class Probe:
    """One batch seen through the model: what a collector may ask for. Nothing is computed before it is asked for.

    Attributes:
        model: the model, in the mode the measure asked for.
        params: the prunable parameters by name.
        batch: (inputs, targets), a mapping of keyword arguments, or inputs alone; None online.
        loss: (output, target) → scalar; None: the output's own, or cross-entropy (`_batch` has the rule).
        generator: source of randomness for measures that draw.
        pass_: which pass over the batches this is, from 0.
        given_grads: gradients that somebody else computed (a training step); then no batch is run.
        dense: the weights as they would be without masks, where they are not those in the model.
    """

    model: nn.Module
    params: Params
    batch: Batch | None
    loss: Loss | None
    generator: torch.Generator | None = None
    pass_: int = 0
    given_grads: Mapping[str, Tensor] | None = None
    dense: Mapping[str, Tensor] | None = None
    _grads: Evidence | None = field(default=None, repr=False)
    _grads_owned: bool = field(default=False, repr=False)

    def evaluate(self, *, temperature: float = 1.0) -> Tensor:
        """Return the scalar loss of the batch, with its graph; logits are divided by `temperature`."""
        return loss_of(self.model, self.batch, self.loss, temperature=temperature)

    @property
    def inputs(self) -> Any:
        """The model's input alone (the first element of a pair, all keyword arguments of a mapping)."""
        return None if self.batch is None else inputs_of(self.batch)

    def run(self) -> Any:
        """Return what the model makes of the inputs; labels are not needed."""
        return call(self.model, self.inputs)

    @property
    def weights(self) -> Evidence:
        """The weights w that scores are about: the dense ones where they are known, else the model's own."""
        dense = self.dense or {}
        return {name: dense.get(name, parameter).detach() for name, parameter in self.params.items()}

    @property
    def grads(self) -> Mapping[str, Tensor]:
        """∂L/∂w of the batch for each parameter that a gradient reaches, computed once and shared by all collectors."""
        if self.given_grads is not None:
            return self.given_grads
        if self._grads is None:
            self._grads = self.differentiate(self.evaluate())
        return self._grads

    @property
    def absent(self) -> set[str]:
        """Names of the parameters that no gradient reaches: that is not the same as a gradient of zero."""
        return self.params.keys() - self.grads.keys()

    def differentiate(self, loss: Tensor, *, create_graph: bool = False) -> Evidence:
        """Return ∂loss/∂w for each parameter that the loss depends on, in float32 at least."""
        if not loss.requires_grad:
            return {}
        tensors = list(self.params.values())
        found = torch.autograd.grad(loss, tensors, create_graph=create_graph, allow_unused=True)
        return {name: at_least_float32(grad) for name, grad in zip(self.params, found, strict=True) if grad is not None}

    def own_grads(self) -> Evidence:
        """Like `grads`, but the caller may keep and overwrite them: the first gets the buffers, others copies."""
        if self.given_grads is None and not self._grads_owned:
            self._grads_owned = True
            return dict(self.grads)
        return {name: grad.clone() for name, grad in self.grads.items()}


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor itself, or its values in float32: products and sums of halves underflow, or round away."""
    return tensor.float() if tensor.dtype in HALVES else tensor
