"""The fused step of recurrent classifiers: forward, loss, gradients through time and update in one native call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur import _native_api
from secateur.errors import SecateurError
from secateur.masks import Masks
from secateur.sparse.feedforward import UnsupportedError
from secateur.sparse.optimizers import options_reader, refuse_optimizer, send_changes, slots_of, steps_of
from secateur.sparse.pieces import Loss, Slice, read_slices, refuse_loss, refuse_parameter, write_slices
from secateur.sparse.recurrent_compact import Placed, place
from secateur.sparse.recurrent_program import RecurrentProgram, recurrent_program_of

__all__ = ["RecurrentStep", "supported_recurrent"]


def supported_recurrent(model: nn.Module, masks: Masks, loss: Loss, optimizer: Optimizer) -> RecurrentProgram:
    """Return the program of a recurrent classifier whose fused step is exact, or raise the reason why there is none."""
    if _native_api.native is None:
        raise UnsupportedError(f"the compiled kernels are not in use: {_native_api.why_not}")
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


class RecurrentStep:
    """A compiled training step of a recurrent classifier; call it with a batch. Made by `compile_step`.

    Units from which no surviving weight leads to an output are left out: exact, since nothing depends on them.
    """

    def __init__(self, model: nn.Module, masks: Masks, optimizer: Optimizer, program: RecurrentProgram) -> None:
        self.model, self.masks, self.optimizer = model, masks, optimizer
        self._program = program
        self._slots = slots_of(optimizer)
        self._options_of = options_reader(optimizer)
        kept = {id(p): masks[name] for name, p in masks.parameters(model).items()}
        self._placed = place(program, kept, len(self._slots))
        self._engine = self._build(self._placed)
        self._sent: list[tuple[Any, ...] | None] = [None] * len(optimizer.param_groups)
        self._versions: list[tuple[Tensor, int]] = []
        self.read_back()

    def __call__(self, x: Tensor, targets: Tensor) -> float:
        """Take one optimizer step on a batch; return its mean loss, computed before the update.

        Args:
            x: float32 on the CPU, [batch, step, feature], or images [batch, channel, row, column] where the
                model reads them row by row.
            targets: class numbers, int64, [batch].
        """
        for tensor, version in self._versions:
            if tensor._version != version:
                raise SecateurError(
                    "the model's weights were changed outside the fused step; call read_back() to take them up"
                )
        x = self._inputs(x)
        _check_targets(targets, x.shape[0])
        send_changes(self._engine, self.optimizer, self._options_of, self._sent)
        loss = self._engine.step(
            x.data_ptr(), x.stride(0), x.stride(1), targets.data_ptr(), x.shape[0], x.shape[1], torch.get_num_threads()
        )
        # Schedulers ask whether the optimizer has stepped.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        return loss

    @property
    def steps(self) -> int:
        """How many steps the optimizer has taken, those before `compile_step` included (SGD forgets those)."""
        return self._engine.steps

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the weights and biases that the engine trains."""
        return sum(4 * len(piece.places) for piece in self._slices)

    @property
    def training_bytes(self) -> int:
        """Bytes of weights, their gradients, optimizer state and indices."""
        return sum(len(piece.places) * (8 + 4 * len(piece.state) + 20) for piece in self._slices)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the outputs for a batch with the weights as they are now, [batch, classes]."""
        x = self._inputs(x)
        out = torch.empty(x.shape[0], self._program.head.out_features, dtype=torch.float32, device="cpu")
        self._engine.predict(
            x.data_ptr(), x.stride(0), x.stride(1), x.shape[0], x.shape[1], out.data_ptr(), torch.get_num_threads()
        )
        return out

    @torch.no_grad()
    def write_back(self) -> None:
        """Bring the model's parameters and the optimizer's state up to date, for an evaluation or a checkpoint."""
        write_slices(self._slices, self.optimizer, self._slots, self.steps)
        self._note_versions()

    @torch.no_grad()
    def read_back(self) -> None:
        """Take up the model's parameters, constants and the optimizer's state, after something was loaded into them."""
        steps = steps_of(self.optimizer, [piece.parameter for piece in self._slices])
        self.masks.apply_(self.model)
        read_slices(self._slices, self.optimizer, self._slots)
        for constant in self._placed.constants:
            for target, value in zip(constant.places.tolist(), constant.tensor[constant.rows].tolist(), strict=True):
                self._engine.set_constant(target, value)
        self._engine.steps = steps
        self._note_versions()

    @property
    def _slices(self) -> list[Slice]:
        return [piece for piece, _ in self._placed.slices]

    def _build(self, placed: Placed) -> Any:
        engine = placed.engine
        groups = {id(p): i for i, g in enumerate(self.optimizer.param_groups) for p in g["params"]}
        for piece, targets in placed.slices:
            addresses = [piece.value.data_ptr(), *(t.data_ptr() for t in piece.state), 0, 0][:3]
            group = groups[id(piece.parameter)]
            engine.add_parameter(*addresses, targets.numpy(), len(piece.places), group)
        return engine

    def _note_versions(self) -> None:
        parameters = [piece.parameter for piece in self._slices]
        self._versions = [(t, t._version) for t in (*parameters, *self._program.cell.buffers())]

    def _inputs(self, x: Tensor) -> Tensor:
        """Return the sequences as [batch, step, feature], features side by side."""
        if x.dtype is not torch.float32 or not x.is_cpu:
            kind = str(x.dtype).removeprefix("torch.")
            raise SecateurError(f"the inputs must be float32 on cpu, got {kind} on {x.device.type}")
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
        return x if x.stride(2) == 1 else x.contiguous()


def _check_targets(targets: Tensor, samples: int) -> None:
    if targets.dtype is not torch.int64 or not targets.is_cpu or targets.shape != (samples,):
        raise SecateurError(
            f"`targets` must be {samples} class numbers, int64 on cpu, got {targets.dtype} of shape "
            f"{tuple(targets.shape)} on {targets.device.type}"
        )
    if not targets.is_contiguous():
        raise SecateurError("`targets` must be contiguous; call targets.contiguous()")
