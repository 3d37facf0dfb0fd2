"""The fused step of feed-forward networks: forward, loss, gradients and update in one native call."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base import door
from secateur._base.errors import SecateurError
from secateur._base.recent import remember
from secateur.masks import Masks
from secateur.sparse.calls import (
    SHAPES,
    Arena,
    Network,
    addresses,
    build_network,
    plain,
    positions_of,
    run_network,
    splits_products,
)
from secateur.sparse.programs import Kind, Program, UnsupportedError, program_of
from secateur.sparse.steps._base import CompiledStep
from secateur.sparse.steps._batches import refuse_inputs, refuse_targets
from secateur.sparse.steps._compact import compact
from secateur.sparse.steps._gradients import dense_gradients
from secateur.sparse.steps._optimizers import refuse_optimizer, steps_of
from secateur.sparse.steps._slices import Loss, Slice, make_slice, refuse_loss, refuse_parameter
from secateur.sparse.steps._statistics import Statistics
from secateur.sparse.steps._watch import Watch
from secateur.sparse.timing import Paces

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
    """A compiled training step of a feed-forward network; call it with a batch. Made by `compile_step`.

    It trains the surviving weights, the biases and the normalisation's γ and β. Running statistics are kept in
    the model itself, at every step, with torch's momentum and its unbiased variance. Units between two linear
    layers from which no surviving weight leads on are left out: exact, since nothing depends on them.
    """

    def __init__(self, model: nn.Module, masks: Masks, optimizer: Optimizer, program: Program) -> None:
        super().__init__(model, masks, optimizer)
        self._program, self._norms = program, program.norms
        self._features = _features_of(program)
        self._arena = Arena()  # of `predict`; a step has its own room
        self._statistics = Statistics(model, program.norms)
        self._steps = 0
        self._lay_out(masks)
        self._watch = Watch(model, self._watched())
        self.read_back()

    def __call__(self, x: Tensor, targets: Tensor) -> float:
        """Take one optimizer step on a batch; return its mean loss, computed before the update.

        The model must be in training mode.

        Args:
            x: float32 on the CPU, [batch, channels, rows, columns] for a network of 2-d layers, [batch, features]
                for one of linear layers.
            targets: class numbers, int64, [batch].
        """
        with self._lock:
            batch = x
            x, shape = self._check(x, targets)
            wanted = self._holds.asked
            seen = self._dense_gradients(x, targets, wanted) if wanted else {}
            if seen is None:
                return self._step_by_torch(batch, targets)
            self._prepare_engine(shape)
            self._send_options()
            samples, most, split = x.shape[0], torch.get_num_threads(), x.dim() > 2 and splits_products()
            threads = self._paces.settled.get((samples, most))
            try:
                if threads is None:
                    loss = self._try(
                        most, (x.data_ptr(), x.numel(), targets.data_ptr(), targets.numel(), samples), split
                    )
                else:  # spelled out: a call through a tuple takes longer
                    loss = self._engine.step(
                        x.data_ptr(), x.numel(), targets.data_ptr(), targets.numel(), samples, threads, split
                    )
            except ValueError as error:  # labels that are no class
                raise SecateurError(str(error)) from None
            if self._norms:
                self._statistics.count_batch()
            self._note_step(seen)
            return loss

    def _dense_gradients(self, x: Tensor, targets: Tensor, wanted: Collection[int]) -> dict[int, Tensor] | None:
        try:
            return dense_gradients(self._program, self._linear, self._slices, (x, targets), wanted)
        except IndexError as error:  # labels that are no class
            raise SecateurError(str(error)) from None

    def _try(self, most: int, where: tuple[int, ...], split: bool) -> float:
        """Step with all threads or with fewer, to find out which is faster: the results are the same with any."""
        engine, samples = self._engine, where[-1]
        worth = partial(engine.threads_worth, most, samples)
        return self._paces.run((samples, most), worth, lambda threads: engine.step(*where, threads, split))

    @property
    def steps(self) -> int:
        """How many steps the optimizer has taken, those before `compile_step` included (SGD forgets those)."""
        return self._steps if self._engine is None else self._engine.steps

    @property
    def training_bytes(self) -> int:
        """Bytes of weights, gradients, optimizer state and indices, with the full matrices of layers that have one."""
        linear = {key: layer.plan for key, layer in self._linear.items()}
        found = sum(plan.index_bytes for plan in linear.values())
        for key, piece in self._slices.items():
            found += len(piece.places) * (4 + 4 * len(piece.state) + (0 if key in linear else 16))
        full = self._full and self._features is not None
        return found + (self._network_for((self._features or 0,)).native.full_bytes if full else 0)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the outputs in evaluation mode for a batch with the weights as they are now, [batch, classes]."""
        with self._lock:
            self._watch.refuse_other_parameters()
            self._statistics.refuse_moved()
            x, shape = self._inputs(x)
            network = self._network_for(shape)
            if not x.shape[0]:
                return x.new_empty((0, *network.shape))
            return run_network(x, network, [self._tensor(*slot) for slot in network.slots], training=False)

    @property
    def _trained(self) -> Collection[Slice]:
        return self._slices.values()

    def _take_up(self, steps: int) -> None:
        self._steps = steps
        if self._engine is not None:
            self._engine.steps = steps

    def _lay_out(self, masks: Masks) -> None:
        self._masks = {id(p): masks[name] for name, p in masks.parameters(self.model).items()}
        biases = [p for o in self._program.layers if o.module and (p := o.module._parameters.get("bias")) is not None]
        self._keep = {id(p): self._masks[id(p)].cpu() for p in biases if id(p) in self._masks}
        # Runs on record were computed without full matrices if they have convolutions or masked biases.
        self._full = not self._keep and all(o.kind is Kind.LINEAR for o in self._program.operations)
        self._linear = compact(self._program, self._masks, full=self._full)
        self._slices = self._cut()
        self._kept = {key: keep[self._slices[key].places.listed()].float() for key, keep in self._keep.items()}
        for key, keep in self._kept.items():
            self._slices[key] = replace(self._slices[key], keep=keep)
        self._active = {key: piece.value[: piece.active] for key, piece in self._slices.items()}
        self._networks: dict[tuple[int, ...], Network] = {}
        self._engine_shape: tuple[int, ...] | None = None
        self._paces_of: dict[tuple[int, ...], Paces] = {}

    def _cut(self) -> dict[int, Slice]:
        """Make room for every parameter, by its id: of masked weights only what survives."""
        pieces: dict[int, Slice] = {}
        for operation in self._program.operations:
            parameters = {} if operation.module is None else operation.module._parameters
            weight, bias = parameters.get("weight"), parameters.get("bias")
            layer = self._linear.get(id(weight))
            for parameter in (weight, bias):
                if parameter is None:
                    continue
                if layer is not None:
                    places = layer.places if parameter is weight else layer.rows
                    active = layer.plan.kept if parameter is weight else layer.plan.rows
                else:
                    convolution = operation.module if operation.kind is Kind.CONVOLUTION else None
                    if convolution is not None and parameter is weight:
                        places = positions_of(convolution, self._masks.get(id(weight)))
                    else:
                        places = torch.arange(parameter.numel())
                    active = len(places)
                pieces[id(parameter)] = make_slice(parameter, places, active, len(self._slots))
        return pieces

    def _network_for(self, shape: tuple[int, ...]) -> Network:
        found = self._networks.get(shape)
        if found is None:
            plans = {key: layer.plan for key, layer in self._linear.items()}
            made = build_network(
                self._program, shape, self._masks, self._arena, plans=plans, full=self._full, flat=True
            )
            found = remember(self._networks, shape, made, most=SHAPES)
        return found

    def _prepare_engine(self, shape: tuple[int, ...]) -> None:
        """Have the native step for inputs of this shape, with the tensors that it trains in their slots."""
        if shape != self._engine_shape:
            network = self._network_for(shape)
            native: Any = door.native
            engine, groups = native.NetStep(network.native), self._group_of()
            for slot, (module, name) in enumerate(network.slots):
                parameter = module._parameters.get(name)
                if parameter is not None:
                    piece = self._slices[id(parameter)]
                    tensors = [piece.value, *piece.state, None, None][:3]
                    engine.set_parameter(slot, addresses(*tensors, piece.keep), piece.active, groups[id(parameter)])
            engine.steps = self.steps
            if self._engine is not None:
                engine.take_room(self._engine)
            self._engine, self._engine_shape = engine, shape
            known = self._paces_of.get(shape)
            self._paces = remember(self._paces_of, shape, Paces(), most=SHAPES) if known is None else known
            self._statistics.place(network.slots)
            self._sent = [None] * len(self.optimizer.param_groups)
        if self._norms:
            self._statistics.point(self._engine)

    def _tensor(self, module: nn.Module, name: str) -> Tensor | None:
        parameter = module._parameters.get(name)
        return module._buffers.get(name) if parameter is None else self._active[id(parameter)]

    def _check(self, x: Tensor, targets: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        self._refuse_outside_changes()
        for norm in self._norms:
            if not norm.training:
                raise SecateurError("the model is in evaluation mode; call model.train() before a training step")
        if self._norms:
            self._statistics.refuse_options()
        x, shape = self._inputs(x)
        samples = x.shape[0]
        if samples == 0:
            raise SecateurError("the batch is empty; a step needs at least one sample")
        refuse_targets(targets, samples)
        if samples == 1 and self._norms:
            raise SecateurError("batch normalisation needs more than one sample in a training step, got 1")
        return x, shape

    def _inputs(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return the inputs as the engine reads them, and the shape of one; a step takes microseconds."""
        refuse_inputs(x)
        shape = tuple(x.shape)
        if self._features is not None:
            flat = len(shape) == 2 or (len(shape) > 2 and self._program.flattens)
            if not flat or prod(shape[1:]) != self._features:
                raise SecateurError(f"the inputs must be [batch, {self._features}], got the shape {shape}")
            return plain(x), (self._features,)
        if len(shape) < 2:
            raise SecateurError(f"the inputs must be a batch of samples, got the shape {shape}")
        return plain(x), shape[1:]


def _features_of(program: Program) -> int | None:
    """Return how many features a network without images takes, None for others."""
    readers = [o.module for o in program.operations if 0 in o.inputs]
    return next((m.in_features for m in readers if isinstance(m, nn.Linear) and not program.rank), None)
