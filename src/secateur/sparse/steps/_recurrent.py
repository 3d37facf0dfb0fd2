"""The fused step of recurrent classifiers: forward, loss, gradients through time and update in one native call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base import door
from secateur._base.errors import SecateurError
from secateur.masks import Masks
from secateur.sparse.calls import addresses, plain
from secateur.sparse.programs import RecurrentProgram, UnsupportedError, recurrent_program_of
from secateur.sparse.steps._base import CompiledStep
from secateur.sparse.steps._batches import refuse_inputs, refuse_targets
from secateur.sparse.steps._optimizers import refuse_optimizer, steps_of
from secateur.sparse.steps._recurrent_compact import Placed, place
from secateur.sparse.steps._slices import Loss, Slice, refuse_loss, refuse_parameter
from secateur.sparse.steps._watch import Watch

__all__ = ["RecurrentStep", "supported_recurrent"]


def supported_recurrent(model: nn.Module, masks: Masks, loss: Loss, optimizer: Optimizer) -> RecurrentProgram:
    """Return the program of a recurrent classifier whose fused step is exact, or raise the reason why there is none."""
    if door.native is None:
        raise UnsupportedError(f"the compiled kernels are not in use: {door.why_not}")
    masks.check(model)
    program = recurrent_program_of(model)
    refuse_loss(loss)
    layers = [layer for layer in (program.project, program.cell, program.head) if layer is not None]
    own = [p for layer in layers for p in layer.parameters()]
    if len({id(p) for p in own}) < sum(len(list(layer.parameters())) for layer in layers):
        raise UnsupportedError("two layers share their weights")
    names = {id(p): n for n, p in model.named_parameters()}
    for key, name in names.items():
        if key not in {id(p) for p in own}:
            raise UnsupportedError(f"the parameter {name!r} is not part of the classifier that was traced")
    for name, parameter in model.named_parameters():
        refuse_parameter(name, parameter)
    for name, buffer in program.cell.named_buffers():
        if buffer.dtype is not torch.float32 or not buffer.is_cpu:
            raise UnsupportedError(f"{name!r} must be float32 on cpu, got {buffer.dtype} on {buffer.device.type}")
    refuse_optimizer(optimizer, names)
    steps_of(optimizer, list(model.parameters()))
    return program


class RecurrentStep(CompiledStep):
    """A compiled training step of a recurrent classifier; call it with a batch. Made by `compile_step`.

    Units from which no surviving weight leads to an output are left out: exact, since nothing depends on them.
    """

    def __init__(self, model: nn.Module, masks: Masks, optimizer: Optimizer, program: RecurrentProgram) -> None:
        super().__init__(model, masks, optimizer)
        self._program = program
        self._lay_out(masks)
        self._watch = Watch(model, self._watched())
        self.read_back()

    def __call__(self, x: Tensor, targets: Tensor) -> float:
        """Take one optimizer step on a batch; return its mean loss, computed before the update.

        Args:
            x: float32 on the CPU, [batch, step, feature], or images [batch, channel, row, column] where the
                model reads them row by row.
            targets: class numbers, int64, [batch].
        """
        with self._lock:
            self._refuse_outside_changes()
            batch, x = x, self._inputs(x)
            samples, times, features = x.shape
            refuse_targets(targets, samples)
            if self._holds.asked:
                return self._step_by_torch(batch, targets)
            self._send_options()
            try:
                loss = self._engine.step(
                    x.data_ptr(), x.stride(0), x.stride(1), features, *addresses(targets), samples, times,
                    torch.get_num_threads(),
                )  # fmt: skip
            except ValueError as error:  # labels that are no class
                raise SecateurError(str(error)) from None
            self._note_step()
            return loss

    @property
    def training_bytes(self) -> int:
        """Bytes of weights, their gradients, optimizer state and indices."""
        return sum(len(piece.places) * (8 + 4 * len(piece.state) + 20) for piece in self._trained)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the outputs for a batch with the weights as they are now, [batch, classes]."""
        with self._lock:
            self._watch.refuse_other_parameters()
            x = self._inputs(x)
            samples, times, features = x.shape
            out = torch.empty(samples, self._program.head.out_features, dtype=torch.float32, device="cpu")
            self._engine.predict(
                x.data_ptr(), x.stride(0), x.stride(1), features, samples, times, *addresses(out),
                torch.get_num_threads(),
            )  # fmt: skip
            return out

    @property
    def _trained(self) -> list[Slice]:
        return [piece for piece, _ in self._placed.slices]

    def _lay_out(self, masks: Masks) -> None:
        kept = {id(p): masks[name] for name, p in masks.parameters(self.model).items()}
        self._placed = place(self._program, kept, len(self._slots))
        self._engine = self._build(self._placed)
        self._sent = [None] * len(self.optimizer.param_groups)

    def _take_up(self, steps: int) -> None:
        for constant in self._placed.constants:
            values = constant.module.get_buffer(constant.name)[constant.rows].tolist()
            for target, value in zip(constant.places.tolist(), values, strict=True):
                self._engine.set_constant(target, value)
        self._engine.steps = steps

    def _watched(self) -> list[Tensor]:
        return [*super()._watched(), *self._program.cell.buffers()]

    def _build(self, placed: Placed) -> Any:
        engine = placed.engine
        groups = self._group_of()
        for piece, targets in placed.slices:
            tensors = [piece.value, *piece.state, None, None][:3]
            engine.add_parameter(addresses(*tensors), targets.numpy(), groups[id(piece.parameter)])
        return engine

    def _inputs(self, x: Tensor) -> Tensor:
        """Return the sequences as [batch, step, feature], features side by side."""
        refuse_inputs(x)
        features = self._program.features
        rank, shape = x.dim(), tuple(x.shape)
        if rank == 4 and self._program.images:
            x = x.squeeze(1) if shape[1] == 1 else x.permute(0, 2, 1, 3).flatten(2)
        if x.dim() != 3 or (rank == 3 and not self._program.sequences) or x.shape[2] != features or not x.numel():
            kinds = " or ".join(
                name
                for name, takes in (
                    (f"[batch, step, {features}]", self._program.sequences),
                    (f"images whose rows have {features} numbers", self._program.images),
                )
                if takes
            )
            raise SecateurError(f"the inputs must be {kinds}, at least one sample and step, got the shape {shape}")
        return x if x.stride(2) == 1 and not x.is_neg() else plain(x)
