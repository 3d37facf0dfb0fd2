"""Where evidence comes from: what a measure is, and what it may ask of a batch.

A `Measure` is a frozen description; `begin` starts a `Collector` that is updated once per batch and computes one tensor
per prunable parameter. The same collectors serve offline (`gather`, which runs the batches itself) and online
(`observe`, which shows them the gradients that training left behind).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from secateur._base.errors import SecateurError

Batch = tuple[Any, ...] | list[Any] | Mapping[str, Any] | Tensor
Loss = Callable[[Any, Any], Tensor]
Evidence = dict[str, Tensor]
Params = Mapping[str, nn.Parameter]


@dataclass
class Probe:
    """One batch seen through the model: what a collector may ask for. Nothing is computed before it is asked for.

    Attributes:
        model: the model, in the mode the measure asked for.
        params: the prunable parameters by name.
        batch: (inputs, targets), or a mapping of keyword arguments whose model output has a `.loss`; None online.
        loss: (output, target) → scalar.
        generator: source of randomness for measures that draw.
        pass_: which pass over the batches this is, from 0.
        given_grads: gradients that somebody else computed (a training step); then no batch is run.
    """

    model: nn.Module
    params: Params
    batch: Batch | None
    loss: Loss
    generator: torch.Generator | None = None
    pass_: int = 0
    given_grads: Evidence | None = None
    _grads: Evidence | None = field(default=None, repr=False)
    _grads_owned: bool = field(default=False, repr=False)

    def evaluate(self, *, temperature: float = 1.0) -> Tensor:
        """Return the scalar loss of the batch, with its graph; logits are divided by `temperature`."""
        batch = self.batch
        if isinstance(batch, Mapping):
            output = self.model(**batch)
            if temperature == 1.0 and getattr(output, "loss", None) is not None:
                return _scalar(output.loss)
            if "labels" not in batch:
                raise SecateurError("A mapping batch needs 'labels' or a model whose output has a `.loss`.")
            return _scalar(self.loss(output.logits / temperature, batch["labels"]))
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise SecateurError(
                f"A batch must be (inputs, targets) or a mapping with labels, got {type(batch).__name__}. "
                "Scores of the loss need targets."
            )
        inputs, targets = batch
        output = self.model(inputs)
        return _scalar(self.loss(output if temperature == 1.0 else output / temperature, targets))

    @property
    def inputs(self) -> Any:
        """The model's input alone (the first element of a pair, all keyword arguments of a mapping)."""
        return self.batch[0] if isinstance(self.batch, tuple | list) else self.batch

    @property
    def grads(self) -> Evidence:
        """∂L/∂w of the batch for each prunable parameter, computed once and shared by all collectors."""
        if self.given_grads is not None:
            return self.given_grads
        if self._grads is None:
            tensors = list(self.params.values())
            with torch.enable_grad():
                found = torch.autograd.grad(self.evaluate(), tensors, allow_unused=True)
            self._grads = {
                name: torch.zeros_like(parameter) if grad is None else grad
                for (name, parameter), grad in zip(self.params.items(), found, strict=True)
            }
        return self._grads

    def own_grads(self) -> Evidence:
        """Like `grads`, but the caller may keep and overwrite them: the first gets the buffers, others copies."""
        if self.given_grads is None and not self._grads_owned:
            self._grads_owned = True
            return self.grads
        return {name: grad.clone() for name, grad in self.grads.items()}


@runtime_checkable
class Collector(Protocol):
    """Evidence in the making. `passes` says how often it wants to see the batches."""

    passes: int

    def update(self, probe: Probe) -> None:
        """Take in one batch."""
        ...

    def compute(self) -> Evidence:
        """Return one tensor per parameter; the tensors belong to the caller, who may overwrite them."""
        ...


Reduction = Callable[[Tensor], None]


def all_sum(tensor: Tensor) -> None:
    """Add the evidence of all ranks, in place: what a single process would have measured on all their batches."""
    dist.all_reduce(tensor)


def from_first_rank(tensor: Tensor) -> None:
    """Give every rank the evidence of rank 0, in place (for evidence that is drawn at random)."""
    dist.broadcast(tensor, src=0)


def reduced(evidence: Evidence, reduction: Reduction | None) -> Evidence:
    """Combine evidence over the ranks of a process group, in place; without one, nothing happens."""
    if reduction is not None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for tensor in evidence.values():
            reduction(tensor)
    return evidence


@dataclass(frozen=True)
class Measure:
    """A kind of evidence: what it is called in a score's signature, how it is collected, and what it needs.

    Attributes:
        name: the argument name by which a score asks for it.
        begin: parameters → a fresh `Collector`.
        needs: what a user must bring: "nothing", "inputs" (only their shape, for data-free measures) or "labels".
        train: mode of the model while measuring: True (batch statistics in BN), False (running statistics), or
            None (as found).
        reduction: how evidence is combined over ranks, in place; None where all ranks hold the same.
        online: whether the gradients that a training step left behind are enough, without a batch of its own.
    """

    name: str
    begin: Callable[[Params], Collector] = field(repr=False)
    needs: str = "labels"
    train: bool | None = None
    reduction: Reduction | None = field(default=all_sum, repr=False)
    online: bool = False


def _scalar(loss: Tensor) -> Tensor:
    if loss.numel() != 1:
        raise SecateurError(f"`loss` must return a scalar, got shape {tuple(loss.shape)}. Take its mean.")
    if not torch.isfinite(loss.detach()).all():
        raise SecateurError(
            f"The loss of a scoring batch is {loss.item()}: scores would be meaningless. Check the batch."
        )
    return loss.reshape(())
