"""The fused step of convolutional networks: forward, loss, gradients and update in one native call."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base import door
from secateur._base.errors import SecateurError
from secateur.masks import Masks
from secateur.sparse.calls._build import Network, build_network, positions_of
from secateur.sparse.programs._network import Kind, Program, program_of
from secateur.sparse.programs._trace import UnsupportedError
from secateur.sparse.steps._base import CompiledStep, refuse_inputs, refuse_targets
from secateur.sparse.steps._optimizers import refuse_optimizer, steps_of
from secateur.sparse.steps._slices import Loss, Slice, make_slice, refuse_loss, refuse_parameter

__all__ = ["NetworkStep", "supported_network"]


def supported_network(model: nn.Module, masks: Masks, loss: Loss, optimizer: Optimizer) -> Program:
    """Return the program of a network whose fused step is exact, or raise the reason why there is none."""
    if door.native is None:
        raise UnsupportedError(f"the compiled kernels are not in use: {door.why_not}")
    owned = masks.parameters(model)
    program = program_of(model)
    if not program.flat:
        raise UnsupportedError("the network must end with a linear layer, not with an image")
    layers = [o.module for o in program.layers if o.module is not None]
    maskable = {id(p) for layer in layers for p in layer.parameters(recurse=False)}
    for name, parameter in owned.items():
        if id(parameter) not in maskable:
            raise UnsupportedError(f"{name!r} is masked but belongs to no convolution or linear layer")
    refuse_loss(loss)
    names = {id(p): n for n, p in model.named_parameters()}
    known = maskable | {id(p) for norm in program.norms for p in norm.parameters(recurse=False)}
    for key, name in names.items():
        if key not in known:
            raise UnsupportedError(f"the parameter {name!r} is not part of the network that was traced")
    for name, parameter in model.named_parameters():
        refuse_parameter(name, parameter)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and (buffer.dtype is not torch.float32 or not buffer.is_cpu):
            raise UnsupportedError(f"{name!r} must be float32 on cpu, got {buffer.dtype} on {buffer.device.type}")
    refuse_optimizer(optimizer, names)
    steps_of(optimizer, list(model.parameters()))
    return program


class NetworkStep(CompiledStep):
    """A compiled training step of a convolutional network; call it with a batch. Made by `compile_step`.

    It trains the surviving weights, the biases and the normalisation's γ and β. Running statistics are kept in
    the model itself, at every step, with torch's momentum and its unbiased variance.
    """

    def __init__(self, model: nn.Module, masks: Masks, optimizer: Optimizer, program: Program) -> None:
        super().__init__(model, masks, optimizer)
        self._program = program
        self._masks = {id(p): masks[name] for name, p in masks.parameters(model).items()}
        self._slices = _cut(program, self._masks, len(self._slots))
        self._keep = {id(p): self._masks[id(p)].float() for p in self._slices_of_masked_biases()}
        self._networks: dict[tuple[int, ...], Network] = {}
        self._engine_shape: tuple[int, ...] | None = None
        self._steps = 0
        self._running: list[Tensor | None] = []
        self.read_back()

    def __call__(self, x: Tensor, targets: Tensor) -> float:
        """Take one optimizer step on a batch; return its mean loss, computed before the update.

        The model must be in training mode.

        Args:
            x: float32 on the CPU, [batch, channels, rows, columns] for a network of 2-d layers.
            targets: class numbers, int64, [batch].
        """
        x = self._check(x, targets)
        engine = self._engine_for(tuple(x.shape[1:]))
        self._send_options()
        loss = engine.step(x.data_ptr(), targets.data_ptr(), x.shape[0], torch.get_num_threads())
        for norm in self._program.norms:
            norm.get_buffer("num_batches_tracked").add_(1)
        self._note_step()
        return loss

    @property
    def steps(self) -> int:
        """How many steps the optimizer has taken, those before `compile_step` included (SGD forgets those)."""
        return self._steps if self._engine is None else self._engine.steps

    @property
    def training_bytes(self) -> int:
        """Bytes of weights, gradients, optimizer state and indices."""
        return sum(len(piece.places) * (8 + 4 * len(piece.state) + 12) for piece in self._trained)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the outputs in evaluation mode for a batch with the weights as they are now, [batch, classes]."""
        x = _plain(x)
        network = self._network_for(tuple(x.shape[1:]))
        native, samples = network.native, x.shape[0]
        work = torch.zeros(native.work_floats(samples, False), dtype=torch.float32, device="cpu")
        out = torch.empty(samples, *network.shape, dtype=torch.float32, device="cpu")
        slots = [self._address(module, name) for module, name in network.slots]
        native.forward(slots, x.data_ptr(), samples, False, work.data_ptr(), out.data_ptr(), torch.get_num_threads())
        return out

    @property
    def _trained(self) -> Collection[Slice]:
        return self._slices.values()

    def _take_up(self, steps: int) -> None:
        self._steps = steps
        if self._engine is not None:
            self._engine.steps = steps

    def _slices_of_masked_biases(self) -> list[Tensor]:
        biases = [None if o.module is None else o.module._parameters.get("bias") for o in self._program.layers]
        return [b for b in biases if b is not None and id(b) in self._masks]

    def _network_for(self, shape: tuple[int, ...]) -> Network:
        if shape not in self._networks:
            self._networks[shape] = build_network(self._program, shape, self._masks, flat=True)
        return self._networks[shape]

    def _engine_for(self, shape: tuple[int, ...]) -> Any:
        """Return the native step for inputs of this shape, with the tensors that it trains in their slots."""
        if shape != self._engine_shape:
            network = self._network_for(shape)
            steps, native = self.steps, door.native
            assert native is not None, "supported_network has looked"
            engine = native.NetStep(network.native)
            groups = self._group_of()
            for slot, (module, name) in enumerate(network.slots):
                parameter = module._parameters.get(name)
                if parameter is not None:
                    piece, keep = self._slices[id(parameter)], self._keep.get(id(parameter))
                    addresses = [piece.value.data_ptr(), *(t.data_ptr() for t in piece.state), 0, 0][:3]
                    place = 0 if keep is None else keep.data_ptr()
                    engine.set_parameter(slot, *addresses, place, len(piece.places), groups[id(parameter)])
            engine.steps = steps
            self._engine, self._engine_shape, self._running = engine, shape, []
            self._sent = [None] * len(self.optimizer.param_groups)
        self._point_to_statistics()
        return self._engine

    def _point_to_statistics(self) -> None:
        """Tell the engine where the model's running statistics are, wherever someone has moved them."""
        assert self._engine_shape is not None
        slots = self._networks[self._engine_shape].slots
        running = [module._buffers.get(name) for module, name in slots]
        if len(running) != len(self._running) or any(a is not b for a, b in zip(running, self._running, strict=True)):
            for slot, tensor in enumerate(running):
                if tensor is not None:
                    self._engine.set_constant(slot, tensor.data_ptr())
            self._running = running

    def _address(self, module: nn.Module, name: str) -> int:
        parameter = module._parameters.get(name)
        if parameter is not None:
            return self._slices[id(parameter)].value.data_ptr()
        buffer = module._buffers.get(name)
        return 0 if buffer is None else buffer.data_ptr()

    def _check(self, x: Tensor, targets: Tensor) -> Tensor:
        self._refuse_outside_changes()
        for norm in self._program.norms:
            if not norm.training:
                raise SecateurError("the model is in evaluation mode; call model.train() before a training step")
        x = _plain(x)
        samples = x.shape[0]
        refuse_targets(targets, samples)
        if samples == 1 and self._program.norms:
            raise SecateurError("batch normalisation needs more than one sample in a training step, got 1")
        return x


def _plain(x: Tensor) -> Tensor:
    refuse_inputs(x)
    if x.dim() < 2 or x.shape[0] == 0:
        raise SecateurError(f"the inputs must be a batch of at least one sample, got the shape {tuple(x.shape)}")
    return x.detach().contiguous()


def _cut(program: Program, masks: dict[int, Tensor], slots: int) -> dict[int, Slice]:
    """Make room for every parameter of the network, by its id: of masked weights only what survives."""
    pieces: dict[int, Slice] = {}
    for operation in program.operations:
        module = operation.module
        for name, parameter in [] if module is None else module._parameters.items():
            if parameter is None:
                continue
            if name == "weight" and operation.kind is not Kind.NORM and module is not None:
                places = positions_of(module, masks.get(id(parameter)))
            else:
                places = torch.arange(parameter.numel())
            pieces[id(parameter)] = make_slice(parameter, places, len(places), slots)
    return pieces
