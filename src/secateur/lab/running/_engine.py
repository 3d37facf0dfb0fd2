"""Who computes a training step. The loop knows only this seam, so that a faster engine is a drop-in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur._base.errors import LeakError
from secateur.holding import Hold, hold
from secateur.lab.experiment import BF16, Adam, Engine, Sgd, misfit
from secateur.lab.running._optimizer import (
    build_optimizer,
    pull_to_zero,
    restore_optimizer,
    set_rate,
    state_of_optimizer,
)
from secateur.masks import Masks
from secateur.pruning import Pruner
from secateur.sparse import compile_step, why_no_fused_step

#: Begins the pruning of a network that is about to be trained.
Begin = Callable[[nn.Module], Pruner]

#: `auto` leaves runs that keep more than this fraction of their weights to torch: large networks, recurrent ones, and
#: small ones, which spend much of torch's time between its kernels. Where they meet was measured on one core with
#: VGG-like, LSTM-s and both LeNets; it is fixed here, so that a run takes the same engine on every machine.
SPARSE_BELOW, RECURRENT_BELOW, SMALL_BELOW = 0.25, 0.4, 0.9

_SMALL = 1_000_000  # parameters


@dataclass(frozen=True)
class Choice:
    """The engine that runs, and why it was chosen."""

    engine: Engine
    why: str


@runtime_checkable
class Stepper(Protocol):
    """One optimizer step after another, on a model whose zeros stay zero."""

    choice: Choice
    pruner: Pruner | None

    def step(self, inputs: Tensor, targets: Tensor, rate: float) -> Tensor:
        """Take one optimizer step at this learning rate; return the batch's mean loss, without a gradient."""
        ...

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the network's outputs as they are now, in eval mode, without a gradient."""
        ...

    def sync(self) -> None:
        """Bring the model's own parameters up to date, for a checkpoint or at the end."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer's memory: `"<slot>/<parameter>"` → tensor."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up a memory that `state` returned. The model's parameters have been loaded already."""
        ...

    def verify(self) -> None:
        """Raise a `LeakError` if a pruned weight is not zero."""
        ...

    def close(self) -> None:
        """Let go of the model, leaving no hook on it."""
        ...


class TorchStepper:
    """Eager torch: the model's own forward and backward, `torch.optim`, and `hold` or a `Pruner` to keep the zeros.

    With `bf16` the forward, and the backward with it, runs under autocast, images and kernels in channels_last: the
    layout in which a GPU's matrix units compute convolutions. Parameters, gradients, optimizer and loss are float32.
    """

    def __init__(
        self,
        choice: Choice,
        model: nn.Module,
        masks: Masks | None,
        optimizer: Sgd | Adam,
        *,
        bf16: bool = False,
        begin: Begin | None = None,
    ) -> None:
        self.choice = choice
        self.model = model
        self.bf16 = bf16
        self.precision: torch.autocast | nullcontext[None] = nullcontext()
        if bf16:
            # Of 4-d weights only; and now, since the optimizer's memory takes it over. torch's own hints lack it.
            model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            self.precision = torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16)
        self.pruner = None if begin is None else begin(model)  # before the optimizer, which has to see its gates
        self.optimizer = build_optimizer(model, optimizer)
        self.l1 = optimizer.l1 if isinstance(optimizer, Sgd) else 0.0
        if self.pruner is not None:
            self.pruner.adopt(self.optimizer)
        self.hold: Hold | None = None if masks is None else hold(model, masks)

    def step(self, inputs: Tensor, targets: Tensor, rate: float) -> Tensor:
        """Take one step: forward, cross-entropy, backward, update."""
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(self._outputs(inputs), targets)
        loss.backward()
        pull_to_zero(self.model, self.l1)
        self.optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def predict(self, inputs: Tensor) -> Tensor:
        """Run the model in eval mode; its mode is put back."""
        mode = self.model.training
        self.model.eval()
        try:
            return self._outputs(inputs)
        finally:
            self.model.train(mode)

    def _outputs(self, inputs: Tensor) -> Tensor:
        if self.bf16 and inputs.dim() == 4:
            inputs = inputs.to(memory_format=torch.channels_last)
        with self.precision:
            outputs = self.model(inputs)
        return outputs.float() if self.bf16 else outputs

    def sync(self) -> None:
        """Do nothing: torch trains the model's own parameters."""

    def state(self) -> dict[str, Tensor]:
        """Flatten the optimizer's per-parameter state."""
        return state_of_optimizer(self.optimizer, self.model)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put the per-parameter state back where `state` found it."""
        restore_optimizer(self.optimizer, self.model, state)

    def verify(self) -> None:
        """Check that no pruned weight came back."""
        if self.hold is not None:
            self.hold.check()

    def close(self) -> None:
        """Remove the hooks, and gates that have not been folded."""
        for handle in (self.hold, self.pruner):
            if handle is not None:
                handle.release()


class SparseStepper:
    """`secateur.sparse.compile_step`: the whole step on surviving weights only, in one native call."""

    def __init__(self, choice: Choice, model: nn.Module, masks: Masks, optimizer: Sgd | Adam) -> None:
        self.choice = choice
        self.pruner: Pruner | None = None
        self.model = model
        self.masks = masks
        self.optimizer = build_optimizer(model, optimizer)
        self.fused = compile_step(model, masks, cross_entropy, self.optimizer)

    def step(self, inputs: Tensor, targets: Tensor, rate: float) -> Tensor:
        """Take one step inside the engine; the model's parameters stay as they are until `sync`."""
        set_rate(self.optimizer, rate)
        return torch.tensor(self.fused(inputs, targets), dtype=torch.float64)

    def predict(self, inputs: Tensor) -> Tensor:
        """Run the engine's own forward, on surviving weights only."""
        return self.fused.predict(inputs)

    def sync(self) -> None:
        """Write the engine's weights and optimizer memory into the model and the torch optimizer."""
        self.fused.write_back()

    def state(self) -> dict[str, Tensor]:
        """Flatten the optimizer's per-parameter state, in torch's dense form."""
        self.fused.write_back()
        return state_of_optimizer(self.optimizer, self.model)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up the model's weights and this optimizer memory."""
        restore_optimizer(self.optimizer, self.model, state)
        self.fused.read_back()

    def verify(self) -> None:
        """Check that what was written back kept the zeros."""
        self.fused.write_back()
        for name, parameter in self.masks.parameters(self.model).items():
            if bool(parameter.detach()[~self.masks[name]].any()):
                raise LeakError(f"{name!r} holds a weight that its mask says is pruned, after training.")

    def close(self) -> None:
        """Do nothing: what the engine has hung on the model goes with it."""


def choose(
    wanted: Engine, model: nn.Module, masks: Masks | None, optimizer: Sgd | Adam, *, bf16: bool = False
) -> Choice:
    """Decide which engine runs, from the run alone, so that the same run chooses the same engine every time.

    `auto` takes the sparse engine where it computes exactly this step and few enough weights stay (`sparse_below`).

    Raises:
        SecateurError: when `sparse` is asked for and cannot compute this step.
    """
    if wanted is Engine.TORCH:
        return Choice(Engine.TORCH, "asked for")
    reason = BF16 if bf16 else _why_not_sparse(model, masks, optimizer)
    if wanted is Engine.SPARSE:
        if reason is not None:
            raise misfit(reason)
        return Choice(Engine.SPARSE, "asked for")
    limit = sparse_below(model)
    if reason is None and masks is not None and masks.density > limit:
        reason = f"more than {limit:.0%} of the weights stay".replace("%", " %")
    return Choice(Engine.SPARSE, "it computes this step") if reason is None else Choice(Engine.TORCH, reason)


def sparse_below(model: nn.Module) -> float:
    """Return the fraction of kept weights up to which the sparse engine trains this network faster than torch.

    >>> sparse_below(nn.Linear(10, 10)), sparse_below(nn.LSTM(10, 10))
    (0.9, 0.4)
    """
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return RECURRENT_BELOW
    small = sum(parameter.numel() for parameter in model.parameters()) < _SMALL
    return SMALL_BELOW if small else SPARSE_BELOW


def start(
    choice: Choice,
    model: nn.Module,
    masks: Masks | None,
    optimizer: Sgd | Adam,
    *,
    bf16: bool = False,
    begin: Begin | None = None,
) -> Stepper:
    """Build the chosen engine around a model that has been pruned already, or that `begin` begins to prune."""
    if choice.engine is Engine.SPARSE and masks is not None:
        return SparseStepper(choice, model, masks, optimizer)
    return TorchStepper(choice, model, masks, optimizer, bf16=bf16, begin=begin)


def _why_not_sparse(model: nn.Module, masks: Masks | None, optimizer: Sgd | Adam) -> str | None:
    if masks is None:
        return "nothing was pruned"
    if isinstance(optimizer, Sgd) and optimizer.l1:
        return "its recipe has an L1 penalty, which the sparse engine does not know"
    return why_no_fused_step(model, masks, cross_entropy, build_optimizer(model, optimizer))
